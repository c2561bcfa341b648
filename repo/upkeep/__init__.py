"""Upkeep: verify, rebuild and repair."""
