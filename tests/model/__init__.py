"""A model: a repository against a dictionary, through any order of operations, and for hours."""
