"""Fixtures of the crash tests: a repository of one's own."""

from tests.support.template import made, template

__all__ = ["made", "template"]
