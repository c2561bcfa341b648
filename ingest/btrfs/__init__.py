"""btrfs: what the file system says of itself, by its ioctls alone."""
