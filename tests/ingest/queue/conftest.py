"""What the tests of the queue share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ingest.queue.queued import QueuedRepository
from tests.support import command


@pytest.fixture
def queue(made: command.Repository, tmp_path: Path) -> QueuedRepository:
    """A repository with a queue of its own."""
    return QueuedRepository(made, tmp_path / "queue")
