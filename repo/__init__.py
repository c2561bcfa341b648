"""The repository: format, kernel, storage, index and everything that keeps them."""
