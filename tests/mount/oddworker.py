"""A restore worker for tests: it dies, or meets a failing repository, when a name asks for it."""

from __future__ import annotations

import os
import sys

from mount import restoreworker
from mount.restorer import Restorer
from mount.restoretask import BatchTask, Done, RestoreTask
from repo.errors import RepositoryFailed

_run = Restorer.run


def _oddly(self: Restorer, task: RestoreTask) -> Done:
    if isinstance(task, BatchTask):
        if b"die here" in task.entries:
            os._exit(9)
        if b"fail here" in task.entries:
            raise RepositoryFailed("cannot read a segment: Input/output error", where="segments/x")
    return _run(self, task)


if __name__ == "__main__":
    Restorer.run = _oddly  # type: ignore[method-assign]
    sys.exit(restoreworker.main(sys.argv[1:]))
