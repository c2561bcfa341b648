"""Ingest: from a source to a backup point, through parallel workers."""
