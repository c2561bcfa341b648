"""Snapshot providers: frozen views of a source."""
