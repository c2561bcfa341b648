"""Tests of damage: whatever happens to a repository's bytes is found, named, and never served."""
