"""Golden repositories: one for each format version, which every later version must read."""
