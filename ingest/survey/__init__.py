"""The survey: a look over the whole source for directories that are what the base has of them."""
