"""The kernel: content-defined chunking."""
