"""Hooks: what a user has run before, while and after a source is backed up."""
