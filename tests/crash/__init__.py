"""Crashes: a kill, an error or a power cut at every call that changes a repository."""
