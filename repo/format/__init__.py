"""Bytes: what lies on disk, as values and back. Imports neither os nor io."""
