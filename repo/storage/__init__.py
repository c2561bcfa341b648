"""Storage: the repository's own files, written durably and read exactly."""
