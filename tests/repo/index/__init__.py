"""Tests of the index: real LMDB files, several processes, kills."""
