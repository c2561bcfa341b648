"""A look: the C twin of `reference.look` when it was built, else that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.survey import reference

__all__ = ["AVAILABLE", "look"]

if TYPE_CHECKING:
    from ingest.survey._look import look

    AVAILABLE = True
else:
    try:
        from ingest.survey._look import look
    except ImportError:  # no compiler at installation, or a source tree that was never built
        look = reference.look
    AVAILABLE = look is not reference.look
