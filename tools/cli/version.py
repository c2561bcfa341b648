"""The version of the program, from what the installation recorded."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Such as "0.1.0"; "unknown" when it runs from a folder that was never installed."""
    try:
        return metadata.version("repo")
    except metadata.PackageNotFoundError:
        return "unknown"
