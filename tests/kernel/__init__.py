"""Tests of repo/kernel."""
