"""btrfs, on real file systems."""
