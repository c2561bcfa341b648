"""The version of the program: here, and nowhere else (pyproject.toml takes it from here).

What an installation recorded says the same, but asking for it costs as much as half a command.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
