"""The benchmark: this project beside its peers, on the same work."""
