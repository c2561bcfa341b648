"""Mount: a backup point as a tree of files, mounted or restored."""
