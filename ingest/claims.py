"""Claims: who stores which chunk, so that two streams never store the same one twice.

A worker asks with a claim: which of these chunks are new? New ones are reserved for it. The
result of a task counts only when every chunk that it relies on has reached the master: its
own new ones, and those that another worker had reserved. When a worker dies, what it had
reserved and not delivered is free again, and whoever relied on it does the work once more.

Memory is bounded by the checkpoints: keys leave when their places are in the index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from repo.types import CHUNK_KEY_BYTES

Known = Callable[[Sequence[bytes]], set[bytes]]
"""Which of these chunk keys the index holds."""


class Waiter:
    """Called once, when all the claims that it waits for are settled: with whether all is there."""

    __slots__ = ("_call", "count", "good")

    def __init__(self, call: Callable[[bool], None]) -> None:
        self._call = call
        self.count = 0
        self.good = True

    def settle(self, *, good: bool) -> None:
        """One claim less to wait for."""
        self.good = self.good and good
        self.count -= 1
        if self.count == 0:
            self._call(self.good)


class _Claim:
    __slots__ = (
        "blockers", "dependents", "good", "keys", "sequence", "stored", "waiters",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: int, sequence: int) -> None:
        self.worker = worker
        self.sequence = sequence
        self.stored = False
        self.good = True
        self.blockers = 0
        self.keys: list[bytes] = []
        self.dependents: list[_Claim] = []
        self.waiters: list[Waiter] = []


class Claims:
    """The claims of one job. Workers are named by numbers."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._reserved: dict[bytes, _Claim] = {}
        self._open: dict[int, dict[int, _Claim]] = {}
        self._answered: dict[int, int] = {}  # by worker: its last claim; they come in order
        self._reported: dict[int, int] = {}  # by worker: the claim that its last result ended with
        self._lost: dict[int, list[int]] = {}  # by worker: claims settled as lost, until reported
        self._delivered: list[bytes] = []

    def __len__(self) -> int:
        """Keys that are held: reserved or delivered, and not yet in the index."""
        return len(self._reserved)

    def answer(self, worker: int, sequence: int, packed: bytes) -> bytes:
        """Answer a claim of packed keys: a byte for each, 1 where this worker is to store it."""
        claim = self._claim(worker, sequence)
        self._answered[worker] = sequence
        size = CHUNK_KEY_BYTES
        keys = [packed[at : at + size] for at in range(0, len(packed), size)]
        reserved = self._reserved
        known = self._known([key for key in keys if key not in reserved])
        answer = bytearray(len(keys))
        blockers: set[int] = set()
        for position, key in enumerate(keys):
            holder = reserved.get(key)
            if holder is None:
                if key not in known:
                    reserved[key] = claim
                    claim.keys.append(key)
                    answer[position] = 1
            elif holder is not claim and not holder.stored and id(holder) not in blockers:
                blockers.add(id(holder))
                holder.dependents.append(claim)
                claim.blockers += 1
        if not claim.keys:
            claim.stored = True
            self._settle(claim)
        return bytes(answer)

    def delivered(self, worker: int, through: int) -> None:
        """All new chunks of a worker's claims up to `through` have reached the master."""
        claims = self._open.get(worker, {})
        for sequence in [s for s, c in claims.items() if s <= through and not c.stored]:
            claim = claims[sequence]
            claim.stored = True
            self._delivered.extend(claim.keys)
            self._release_dependents(claim, good=True)
            self._settle(claim)

    def lost(self, worker: int) -> None:
        """A worker died: what it reserved and did not deliver is free again."""
        claims = self._open.get(worker, {})
        for claim in list(claims.values()):
            if claim.stored:
                continue
            for key in claim.keys:
                if self._reserved.get(key) is claim:
                    del self._reserved[key]
            claim.stored = True
            claim.good = False
            self._release_dependents(claim, good=False)
            self._settle(claim)

    def wait(self, worker: int, through: int, call: Callable[[bool], None]) -> None:
        """Call back when a worker's claims up to `through`, and what they rely on, are settled.

        With True when every chunk is there; with False when some were lost, so that the work
        must be done again. The call may come at once. Once for each result, in their order.
        """
        waiter = Waiter(call)
        waiter.good = not self._lost_since_the_last_result(worker, through)
        for sequence, claim in self._open.get(worker, {}).items():
            if sequence <= through:
                claim.waiters.append(waiter)
                waiter.count += 1
        if waiter.count == 0:
            call(waiter.good)

    def _lost_since_the_last_result(self, worker: int, through: int) -> bool:
        """Whether a result relies on a claim that was settled as lost before the result came.

        Results come in order. The claim that the one before ended with may hold chunks of this
        one, too.
        """
        first, self._reported[worker] = self._reported.get(worker, 0), through
        lost = self._lost.get(worker)
        if not lost:
            return False
        self._lost[worker] = [sequence for sequence in lost if sequence >= through]
        return any(first <= sequence <= through for sequence in lost)

    def expect(self, worker: int, sequence: int) -> None:
        """A worker's result relies on a claim that may still be on its way, or settled already."""
        if sequence > self._answered.get(worker, 0):
            self._claim(worker, sequence)

    def take_delivered(self) -> list[bytes]:
        """Keys delivered since the last call: what the next commit will put into the index."""
        taken, self._delivered = self._delivered, []
        return taken

    def committed(self, keys: Sequence[bytes]) -> None:
        """These keys are in the index now."""
        for key in keys:
            self._reserved.pop(key, None)

    def unsettled(self, worker: int) -> bool:
        """Whether a worker has claims that are not settled."""
        return bool(self._open.get(worker))

    def _claim(self, worker: int, sequence: int) -> _Claim:
        claims = self._open.setdefault(worker, {})
        claim = claims.get(sequence)
        if claim is None:
            claim = claims[sequence] = _Claim(worker, sequence)
        return claim

    def _release_dependents(self, claim: _Claim, *, good: bool) -> None:
        dependents, claim.dependents = claim.dependents, []
        for dependent in dependents:
            dependent.blockers -= 1
            dependent.good = dependent.good and good
            self._settle(dependent)

    def _settle(self, claim: _Claim) -> None:
        """Tell the waiters of a claim, if its chunks and those that it relies on are decided."""
        if not claim.stored or claim.blockers:
            return
        self._open[claim.worker].pop(claim.sequence, None)
        if not claim.good:
            self._lost.setdefault(claim.worker, []).append(claim.sequence)
        waiters, claim.waiters = claim.waiters, []
        for waiter in waiters:
            waiter.settle(good=claim.good)
