"""Any history of operations and crashes, against a dictionary of what each point must hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from repo.errors import UsageError
from repo.format.manifest import Point
from repo.index.environment import Environment
from repo.repository import Repository
from repo.storage.folder import Folder
from repo.upkeep import forget
from repo.upkeep.retention import Rules
from repo.upkeep.sweep import collect
from repo.upkeep.synth import SynthRequest, synthesize
from repo.upkeep.verify import verify
from tests.repo.upkeep import collecting
from tests.support import readback


class Crash(BaseException):
    """The process is gone from here on."""


class History(RuleBasedStateMachine):
    """One repository. `held`: what each point holds, forgotten ones among them."""

    points = Bundle("points")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.opened = ExitStack()
        self.repository: Repository
        self.held: dict[bytes, readback.Content] = {}
        self.forgotten: set[bytes] = set()
        self.pinned: set[bytes] = set()
        self.version = 0

    @initialize()
    def begin(self) -> None:
        self.open()

    def open(self) -> None:
        """Begin anew, as a process that knows nothing of the one before."""
        self.opened.close()
        self.repository = self.opened.enter_context(collecting.opened(self.folder / "made"))

    def teardown(self) -> None:
        self.opened.close()
        self.stack.close()

    @property
    def listed(self) -> set[bytes]:
        return self.held.keys() - self.forgotten

    def took(self, point: Point) -> bytes:
        self.held[point.id] = readback.content(self.repository, point)
        return point.id

    @rule(target=points, version=st.integers(1, 4))
    def ingest(self, version: int) -> bytes:
        point = collecting.save(self.repository, self.folder / "source", version)
        assert readback.differences(self.repository, point, self.folder / "source") == []
        return self.took(point)

    @rule(point=points, rebuilt=st.booleans())
    def restore(self, point: bytes, rebuilt: bool) -> None:
        if rebuilt:
            self.repository.rebuild_index()
        if point in self.listed:
            found = self.repository.point(point.hex())
            assert readback.content(self.repository, found) == self.held[point]

    @rule(point=points)
    def forget_one(self, point: bytes) -> None:
        if point not in self.listed:
            return
        found = self.repository.point(point.hex())
        if point in self.pinned:
            with pytest.raises(UsageError):
                forget.plan_by_name(self.repository, [found])
        done = forget.forget(self.repository, [found])
        assert (done == []) == (point in self.pinned)
        self.forgotten.update(done)

    @rule(keep=st.integers(1, 3))
    def forget_by_rules(self, keep: int) -> None:
        plan = forget.plan_by_rules(self.repository, Rules(last=keep))
        going = {point.id for point in plan.forgotten}
        assert not going & self.pinned
        assert going <= self.listed
        assert set(forget.forget(self.repository, plan.forgotten)) == going
        self.forgotten |= going

    @rule(point=points)
    def undelete(self, point: bytes) -> None:
        if point in self.forgotten:
            forget.undelete(self.repository, point.hex())
            self.forgotten.remove(point)

    @rule(point=points)
    def pin(self, point: bytes) -> None:
        if point in self.listed:
            found = self.repository.point(point.hex())
            forget.pin(self.repository, found, reason="", until_ns=0, made_by="")
            self.pinned.add(point)

    @rule(point=points)
    def unpin(self, point: bytes) -> None:
        if point in self.listed:
            there = forget.unpin(self.repository, self.repository.point(point.hex()))
            assert there == (point in self.pinned)
            self.pinned.discard(point)

    @rule(repack_below=st.sampled_from([0.0, 0.7, 1.0]))
    def gc(self, repack_below: float) -> None:
        report = collect(self.repository, repack_below=repack_below)
        assert (report.chunks_lost, report.damages, report.bytes_held_back) == (0, [], 0)
        self.collected()

    def collected(self) -> None:
        for point in self.forgotten:
            del self.held[point]
        self.forgotten.clear()

    @rule(calls=st.integers(1, 40), repack_below=st.sampled_from([0.0, 0.7, 1.0]))
    def gc_that_crashes(self, calls: int, repack_below: float) -> None:
        """It ends at its n-th write to the index or the folder; the next process goes on."""
        left = [calls]

        def limited(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Crash
                return original(*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Environment, "write", limited(Environment.write))
            for name in (
                "set_segments_aside",
                "put_segments_back",
                "note_removal",
                "remove_segments_aside",
                "remove_forgotten",
            ):
                patch.setattr(Folder, name, limited(getattr(Folder, name)))
            with suppress(Crash):
                collect(self.repository, repack_below=repack_below)
        self.open()
        left_over = set(self.repository.folder.forgotten())
        for point in self.forgotten - left_over:
            del self.held[point]
        self.forgotten &= left_over

    @rule()
    def rebuild_index(self) -> None:
        self.repository.rebuild_index()

    @rule()
    def reopen(self) -> None:
        self.open()

    @rule(target=points)
    @precondition(lambda self: self.listed)
    def synthesize(self) -> Any:
        newest = max(self.repository.points(), key=lambda point: (point.received_ns, point.id))
        made = synthesize(self.repository, SynthRequest(points=[newest])).point
        assert self.took(made) in self.held
        return made.id

    @invariant()
    def all_points_are_there(self) -> None:
        if "repository" in vars(self):
            assert {point.id for point in self.repository.points()} == self.listed
            assert set(self.repository.folder.forgotten()) == self.forgotten

    @rule()
    def verify(self) -> None:
        assert verify(self.repository, level="data").damages == []
        assert readback.whole(self.repository) == {i: self.held[i] for i in self.listed}


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


@pytest.mark.deep
def test_long_histories() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        History, settings=settings(max_examples=150, stateful_step_count=60, deadline=None)
    )
