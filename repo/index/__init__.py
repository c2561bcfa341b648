"""The index: chunk id to place, in LMDB. Derived: it can always be rebuilt from segments."""
