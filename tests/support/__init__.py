"""Help for tests: what a machine must have, file systems, odd trees, comparing, running `repo`."""
