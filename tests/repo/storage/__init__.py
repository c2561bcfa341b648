"""Tests of storage: the repository's own files, on real file systems."""
