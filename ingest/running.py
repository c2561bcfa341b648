"""A run: a job on its trio loop, and the signals that interrupt it."""

from __future__ import annotations

import signal

import trio

from ingest.job import Job


def run(job: Job) -> None:
    """Run a job to its end. What ends it is raised alone, not in a group of one."""
    try:
        trio.run(_run, job)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


async def _run(job: Job) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_signals, job)
        await job.run()
        nursery.cancel_scope.cancel()


async def _watch_signals(job: Job) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            job.interrupt()
