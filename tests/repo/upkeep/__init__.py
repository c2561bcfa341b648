"""Tests of repo/upkeep."""
