"""The queue: snapshots that somebody asked to have backed up, and what runs them."""
