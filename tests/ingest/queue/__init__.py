"""Tests of the queue: what is put in, what runs it, and who calls it."""
