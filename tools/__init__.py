"""Tools: what a person runs."""
