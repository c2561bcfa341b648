"""Claims: no chunk is reserved twice, whoever waits is called exactly once, dead workers lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ingest.claims import Claims
from repo.types import CHUNK_KEY_BYTES

KEYS = [bytes([number]) * CHUNK_KEY_BYTES for number in range(10)]


@dataclass
class Asked:
    """A claim as the model knows it."""

    keys: Sequence[bytes]
    new: Sequence[bytes]
    delivered: bool = False


@dataclass
class Waiting:
    """A result that waits: what it was told, and what it relies on."""

    worker: int
    first: int
    through: int
    told: list[bool] = field(default_factory=list)


class ClaimsMachine(RuleBasedStateMachine):
    """Workers claim, deliver, report and die in any order; the index follows now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.index: set[bytes] = set()
        self.arrived: set[bytes] = set()
        """Delivered at some time: nothing may call these lost again."""
        self.reserved: dict[bytes, int] = {}
        """Keys that a living worker is to deliver, and that worker."""
        self.asked: dict[int, list[Asked]] = {}
        self.waiting: list[Waiting] = []
        self.reported: dict[int, int] = {}
        self.dead: set[int] = set()
        self.claims = Claims(self.known)

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        assert len(keys) == len(set(keys)) or all(key in KEYS for key in keys)
        return self.index.intersection(keys)

    @initialize(known=st.sets(st.sampled_from(KEYS), max_size=4))
    def some_are_known(self, known: set[bytes]) -> None:
        self.index |= known
        self.arrived |= known

    @property
    def living(self) -> list[int]:
        return [worker for worker in range(4) if worker not in self.dead]

    def choose(self, data: st.DataObject) -> int | None:
        return data.draw(st.sampled_from(self.living)) if self.living else None

    @rule(data=st.data(), keys=st.lists(st.sampled_from(KEYS), max_size=6))
    def claim(self, data: st.DataObject, keys: list[bytes]) -> None:
        worker = self.choose(data)
        if worker is None:
            return
        asked = self.asked.setdefault(worker, [])
        answer = self.claims.answer(worker, len(asked) + 1, b"".join(keys))
        new = [key for key, byte in zip(keys, answer, strict=True) if byte]
        wanted = set(keys) - self.arrived - self.reserved.keys()
        assert set(new) == wanted, "exactly what nobody has and nobody is to bring"
        assert len(new) == len(wanted), "a chunk that stands in a claim twice is stored once"
        self.reserved.update(dict.fromkeys(new, worker))
        asked.append(Asked(keys, new))

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        worker = self.choose(data)
        if worker is None or not self.asked.get(worker):
            return
        through = data.draw(st.integers(0, len(self.asked[worker])))
        self._deliver(worker, through)

    def _deliver(self, worker: int, through: int) -> None:
        for asked in self.asked.get(worker, [])[:through]:
            asked.delivered = True
            self.arrived.update(asked.new)
            for key in asked.new:
                self.reserved.pop(key, None)
        self.claims.delivered(worker, through)

    @rule(data=st.data(), ahead=st.booleans())
    def report(self, data: st.DataObject, ahead: bool) -> None:
        """A result relies on the last claim that was sent, or on one that is still to come."""
        worker = self.choose(data)
        if worker is None:
            return
        first = self.reported.get(worker, 0)  # it may hold chunks of this result, too
        through = max(first, len(self.asked.get(worker, [])) + ahead)
        self.reported[worker] = through
        waiting = Waiting(worker, first, through)
        self.waiting.append(waiting)
        if waiting.through:
            self.claims.expect(worker, waiting.through)
        self.claims.wait(worker, waiting.through, waiting.told.append)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = self.choose(data)
        if worker is not None:
            self._die(worker)

    def _die(self, worker: int) -> None:
        self.dead.add(worker)
        self.reserved = {key: who for key, who in self.reserved.items() if who != worker}
        self.claims.lost(worker)

    @rule()
    def commit(self) -> None:
        keys = self.claims.take_delivered()
        assert len(keys) == len(set(keys)), "a chunk is put into the index once"
        assert set(keys) <= self.arrived
        self.index.update(keys)
        self.claims.committed(keys)

    @invariant()
    def nobody_is_told_twice_nor_lied_to(self) -> None:
        for waiting in self.waiting:
            assert len(waiting.told) <= 1
            asked = self.asked.get(waiting.worker, [])[: waiting.through]
            relied_on = asked[max(0, waiting.first - 1) :]
            keys = {key for each in relied_on for key in each.keys}
            if waiting.told == [True]:
                assert keys <= self.arrived, "told that all is there"
                assert len(asked) == waiting.through
            if waiting.told == [False]:
                assert self.dead, "nothing is lost while all live"

    @invariant()
    def who_relies_on_nobody_is_told(self) -> None:
        """A result whose own claims are delivered and known by the index waits for nobody."""
        for waiting in self.waiting:
            asked = self.asked.get(waiting.worker, [])[: waiting.through]
            here = all(each.delivered for each in asked if each.new)
            alone = all(set(each.keys) <= self.index for each in asked)
            if here and alone and len(asked) == waiting.through and not self.dead:
                assert waiting.told, "it waits for nothing any more"

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        assert len(self.claims) <= len(self.arrived - self.index | self.reserved.keys())

    def teardown(self) -> None:
        for worker in self.living:
            if worker % 2:
                self._die(worker)
            else:
                asked = self.asked.setdefault(worker, [])
                due = max([w.through for w in self.waiting if w.worker == worker], default=0)
                for _ in range(len(asked), due):  # the claims that results already told of
                    self.claims.answer(worker, len(asked) + 1, b"")
                    asked.append(Asked([], []))
                self._deliver(worker, len(asked))
        self.commit()
        self.nobody_is_told_twice_nor_lied_to()
        assert all(len(waiting.told) == 1 for waiting in self.waiting)
        assert len(self.claims) == 0
        assert not any(self.claims.unsettled(worker) for worker in range(4))


ClaimsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestClaims = ClaimsMachine.TestCase


def no_index(_keys: Sequence[bytes]) -> set[bytes]:
    return set()


def test_a_result_may_tell_of_a_claim_that_was_settled_long_ago() -> None:
    """An empty directory listed after everything else was flushed: once, such a job hung."""
    claims = Claims(no_index)
    claims.answer(0, 1, KEYS[0])
    claims.delivered(0, 1)
    told: list[bool] = []
    claims.expect(0, 1)
    claims.wait(0, 1, told.append)
    assert told == [True]
    assert not claims.unsettled(0)


def test_who_relied_on_a_dead_worker_does_it_again_and_may_store_it_then() -> None:
    claims = Claims(no_index)
    assert claims.answer(1, 1, KEYS[0]) == b"\1"
    assert claims.answer(2, 1, KEYS[0] + KEYS[1]) == b"\0\1"
    told: list[bool] = []
    claims.wait(2, 1, told.append)
    claims.delivered(2, 1)
    assert told == [], "its own chunk is there, that of the other worker is not"
    claims.lost(1)
    assert told == [False]
    assert claims.answer(2, 2, KEYS[0] + KEYS[1]) == b"\1\0"


def test_a_result_that_comes_after_the_loss_is_done_again() -> None:
    """The claim was settled as lost before the result that relies on it arrived."""
    claims = Claims(no_index)
    claims.answer(1, 1, KEYS[0])
    claims.answer(2, 1, KEYS[0])
    claims.lost(1)
    told: list[bool] = []
    claims.wait(2, 1, told.append)
    assert told == [False]
    claims.answer(2, 2, KEYS[1])
    claims.delivered(2, 2)
    claims.wait(2, 2, told.append)
    claims.wait(2, 2, told.append)
    assert told == [False, False, True], "the next may share the lost claim, later ones do not"


def test_what_was_delivered_survives_its_worker() -> None:
    claims = Claims(no_index)
    claims.answer(1, 1, KEYS[0])
    claims.answer(1, 2, KEYS[1])
    claims.delivered(1, 1)
    claims.lost(1)
    assert claims.answer(2, 1, KEYS[0] + KEYS[1]) == b"\0\1"
    assert claims.take_delivered() == [KEYS[0]]
