"""A conductor: brings the sources of a request to their roots.

Sources that would be compared entry by entry are surveyed first. When that finds all of them as
they were there is nothing for a job to do, and neither its loop nor a worker is started.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from ingest.base import Foundation
from ingest.opened import OpenedSource
from ingest.options import Options
from ingest.progress import ProgressState, state_of
from ingest.rehearsal import Rehearsal
from ingest.request import IngestRequest
from ingest.survey.survey import Survey, survey_for
from ingest.upcoming import Upcoming
from repo.repository import Repository
from repo.types import ChunkId
from repo.writer import Writer

OnProgress = Callable[[ProgressState], None]
OnNotice = Callable[[str], None]


class Conductor:
    """Of one request. `run` it once; then it says what came of it."""

    def __init__(
        self,
        repository: Repository,
        request: IngestRequest,
        *,
        on_progress: OnProgress,
        on_notice: OnNotice,
        bytes_expected: int,
    ) -> None:
        self._repository = repository
        self._request = request
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._bytes_expected = bytes_expected
        self._started = time.monotonic()
        self._surveys: list[Survey] = []
        self.state = ProgressState()
        self.streams = request.streams or cores()
        self.writer = self._new_writer()

    def run(self, upcoming: Upcoming) -> None:
        """Bring all sources to their roots, or say in them why there is none.

        What their points rely on is durable afterwards. Raises RepositoryFailed, JobFailed,
        Interrupted.
        """
        if self._is_all_unchanged(upcoming):
            sources = [source.job_source for source in upcoming.sources]
            for number, source in enumerate(sources):
                source.begin(number, _nothing_new)
            seconds = time.monotonic() - self._started
            self.state = state_of((source.assembly for source in sources), seconds=seconds)
            self._on_progress(self.state)
        else:
            self._run_job(upcoming)

    def close(self) -> None:
        """After a failure: what was committed stays."""
        self.writer.abandon()

    def _new_writer(self) -> Writer | Rehearsal:
        request = self._request
        if request.dry_run:
            return Rehearsal()
        return self._repository.writer(level=request.levels[-1] if request.levels else None)

    def _is_all_unchanged(self, upcoming: Upcoming) -> bool:
        """Take sources as long as a survey finds nothing new in them; whether that were all."""
        while upcoming.take():
            upcoming.taken()
            upcoming.survey(self._tick)
            if not upcoming.sources[-1].foundation.unchanged:
                return False
        return True

    # -- surveys ------------------------------------------------------------------------------

    def survey(self, source: OpenedSource, on_tick: Callable[[], None]) -> None:
        """Look over a source that was opened, if that says anything of it."""
        job_source = source.job_source
        survey = survey_for(
            self._repository,
            job_source.foundation,
            source.selection,
            job_source.subject,
            job_source.root_fd,
        )
        if survey is None:
            return
        self._surveys.append(survey)
        survey.run(self.streams, on_tick)
        if survey.wrong is not None:
            _begin_anew(source, survey.wrong, self._on_notice)
            return
        job_source.foundation = replace(
            job_source.foundation,
            unchanged_paths=frozenset(survey.unchanged),
            files_audited=survey.files_audited,
        )

    def _tick(self) -> None:
        """Tell how far the surveys are that come before the job."""
        self._on_progress(
            ProgressState(
                seconds=time.monotonic() - self._started,
                files=sum(survey.files for survey in self._surveys),
                directories=sum(survey.directories for survey in self._surveys),
                bytes_source=sum(survey.bytes_source for survey in self._surveys),
                bytes_expected=self._bytes_expected,
            )
        )

    # -- the job ------------------------------------------------------------------------------

    def _run_job(self, upcoming: Upcoming) -> None:
        # Here, not above: trio alone takes longer to import than many a survey.
        from ingest import running
        from ingest.job import Job
        from ingest.results import Distrusted

        request = self._request
        while True:
            job = Job(
                self._repository,
                self.writer,
                [source.job_source for source in upcoming.sources],
                Options(
                    streams=self.streams,
                    levels=request.levels,
                    checkpoint_seconds=request.checkpoint_seconds,
                    started=self._started,
                ),
                on_progress=self._on_progress,
                on_notice=self._on_notice,
                bytes_expected=self._bytes_expected,
                further=upcoming,
            )
            try:
                running.run(job)
            except Distrusted as found_out:
                _begin_anew(upcoming.sources[found_out.source], found_out.path, self._on_notice)
                self.writer.abandon()
                self._repository.recover()
                self.writer = self._new_writer()
            else:
                self.state, self.streams = job.state(), job.streams_used
                return


def _nothing_new(_data: bytes) -> ChunkId:
    raise AssertionError("an unchanged source has no new node")


def _begin_anew(source: OpenedSource, path: bytes, on_notice: OnNotice) -> None:
    """An audit found a file changed that was called unchanged: the source is read as a whole."""
    kind = source.change_source
    on_notice(
        f"AUDIT: {os.fsdecode(path)} changed, and {kind} did not tell: everything is read now, "
        f"and {kind} is not believed for {source.identity.id} any more"
    )
    if source.foundation.plan is not None:
        source.foundation.plan.close()
    source.job_source.foundation = Foundation()
    source.distrusted = tuple({*source.distrusted, kind})


def cores() -> int:
    """Processors that this process may use: the streams of `--streams auto`."""
    return len(os.sched_getaffinity(0))
