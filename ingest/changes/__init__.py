"""Change sources: who can say what changed since a base."""
