"""A restore worker: a process that does tasks of a restore: `python -m mount.restoreworker FD`.

It opens the index and the segments by itself and gets the derived keys over its socket. It ends
with its channel; SIGTERM ends it between two files, with nothing half made left behind.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from types import FrameType

from mount.filecontent import Stopped
from mount.restorechannel import Broken, Ready, Start, WorkerEnd
from mount.restorer import Restorer
from mount.target import Target
from repo.errors import RepoError, RepositoryFailed
from repo.hardening import harden_process
from repo.index.environment import Environment
from repo.index.places import Places
from repo.keys import Keys
from repo.reader import Reader
from repo.storage.fetcher import Fetcher
from repo.storage.folder import Folder
from repo.types import RepositoryId


class StopSign:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.raised = False

    def raise_it(self, _number: int, _frame: FrameType | None) -> None:
        """A signal handler."""
        self.raised = True

    def __call__(self) -> bool:
        """Whether it was."""
        return self.raised


def serve(end: WorkerEnd, stopped: StopSign) -> None:
    """Do tasks until the master is gone or says stop."""
    start: Start = end.receive()
    keys = Keys.load(start.keys)
    folder = Folder(start.repository)
    with Environment.open(start.index, RepositoryId(start.repository_id), create=False) as index:
        reader = Reader(Fetcher(folder), keys, Places(index))
        for node in start.kept:
            reader.keep(node)
        target = Target(start.root)
        restorer = Restorer(reader, keys, target, end, stopped)
        end.send(Ready())
        try:
            while not stopped():
                end.send(restorer.run(end.next_task()))
        finally:
            target.close()


def main(arguments: list[str]) -> int:
    """Be a worker: the socket's descriptor is the only argument."""
    stopped = StopSign()
    signal.signal(signal.SIGTERM, stopped.raise_it)
    harden_process()
    os.umask(0)
    end = WorkerEnd(socket.socket(fileno=int(arguments[0])))
    try:
        serve(end, stopped)
    except (Stopped, EOFError, ConnectionError):
        return 0
    except RepoError as error:
        failed = isinstance(error, RepositoryFailed)
        end.send(Broken(error.what, error.where, error.next_step, repository=failed))
        return 1
    except Exception:  # noqa: BLE001 (whatever it is, the master must learn of it)
        end.send(Broken(traceback.format_exc(), "", "", repository=False))
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # nothing is left to do, and taking everything down takes a while
