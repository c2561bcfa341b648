"""Tests of repo/format."""
