"""Tests of hooks and of the process that guarantees the thaw."""
