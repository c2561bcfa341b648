"""Tests of the mount floor: the file view of points, the FUSE side, and restore."""
