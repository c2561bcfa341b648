"""The condemned: chunks that garbage collection took out of the index while their bytes remain.

    condemned  one key, under it a sorted row for each: key (16) + place (16), as `chunks`
    retired    segment number u32 -> the epoch u64 at which its last live chunk had left it

A chunk that no point relies on leaves `chunks` for `condemned`: writers do not find it any more and
store it anew, while whoever read its place before, or reads a point that has just been forgotten,
still finds its bytes. It comes back (`revive`) when somebody turns out to rely on it. A segment
without live chunks is retired, and may be removed when no lease is older than that.

Two counters in `meta` go with it. The epoch counts every change after which places known before
may come to nothing: what a lease holds back. The condemnations count only those by which
chunks left: what a writer must look at again before it publishes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

from repo.format.place import PLACE_BYTES, Place
from repo.index.environment import Transaction
from repo.index.places import CHUNKS_KEY, Places, rows_of
from repo.types import CHUNK_KEY_BYTES

_NUMBER: Final = Struct(">I")
_EPOCH: Final = Struct("<Q")
_ROW_BYTES: Final = CHUNK_KEY_BYTES + PLACE_BYTES
_CONDEMNATIONS: Final = b"condemnations"


class Condemned:
    """The tables of condemned chunks and retired segments; for all threads of the process."""

    def __init__(self, places: Places) -> None:
        environment = places.environment
        self._environment = environment
        self._places = places
        self._condemned = environment.table(b"condemned", sorted_rows=True)
        self._retired = environment.table(b"retired")

    def condemnations(self, txn: Transaction | None = None) -> int:
        """How many times chunks left the index for this table."""
        return self._environment.counter(_CONDEMNATIONS, txn)

    def find_many(
        self, keys: Iterable[bytes], txn: Transaction | None = None
    ) -> dict[bytes, Place]:
        """Where the bytes of condemned chunks lie; one of the places when there are several."""
        rows = self._rows(keys, txn)
        return {key: Place.parse(row[CHUNK_KEY_BYTES:]) for key, row in rows.items()}

    def _rows(self, keys: Iterable[bytes], txn: Transaction | None) -> dict[bytes, bytes]:
        if txn is None:
            with self._environment.read() as view:
                return self._rows(keys, view)
        rows = rows_of(txn, self._condemned, keys)
        # A repair may have taken a damaged segment out since.
        there = self._places.existing({self._number(row) for row in rows.values()}, txn)
        return {key: row for key, row in rows.items() if self._number(row) in there}

    @staticmethod
    def _number(row: bytes) -> int:
        return Place.parse(row[CHUNK_KEY_BYTES:]).segment

    def begin(self, txn: Transaction) -> None:
        """Count a change by which chunks leave the index: writers look again then."""
        self._environment.advance_epoch(txn)
        self._environment.take(_CONDEMNATIONS, txn)

    def condemn(self, txn: Transaction, rows: Sequence[bytes]) -> int:
        """Take chunks out of the index (rows of key and place, sorted); returns how many.

        One that has moved or left since the rows were read stays as it is.
        """
        held = self._places.packed_rows([row[:CHUNK_KEY_BYTES] for row in rows], txn)
        leaving = [row for row in rows if held.get(row[:CHUNK_KEY_BYTES]) == row]
        if leaving:
            self._places.remove_rows(txn, leaving)
            with txn.cursor(self._condemned) as cursor:
                cursor.putmulti([(CHUNKS_KEY, row) for row in leaving])
            self.begin(txn)
        return len(leaving)

    def revive(self, txn: Transaction, keys: Iterable[bytes]) -> set[bytes]:
        """Put chunks back into the index; those of the keys that it did not have nor has now.

        Their segments are not retired any more.
        """
        wanted = set(keys)
        wanted -= self._places.known(wanted, txn)
        rows = self._rows(wanted, txn)
        for row in rows.values():
            txn.delete(CHUNKS_KEY, row, db=self._condemned)
            txn.delete(_NUMBER.pack(self._number(row)), db=self._retired)
        self._places.add_places(
            txn, sorted((key, row[CHUNK_KEY_BYTES:]) for key, row in rows.items())
        )
        return wanted - rows.keys()

    def retire(self, txn: Transaction, numbers: Iterable[int]) -> int:
        """Mark segments as left by their last live chunk; returns the epoch that begins by it."""
        epoch = self._environment.advance_epoch(txn)
        for number in numbers:
            txn.put(_NUMBER.pack(number), _EPOCH.pack(epoch), db=self._retired)
        return epoch

    def retired(self, txn: Transaction | None = None) -> dict[int, int]:
        """The retired segments and the epoch of each."""
        if txn is None:
            with self._environment.read() as view:
                return self.retired(view)
        with txn.cursor(self._retired) as cursor:
            return {
                int(_NUMBER.unpack(key)[0]): int(_EPOCH.unpack(row)[0])
                for key, row in cursor.iternext()
            }

    def drop_segment(self, txn: Transaction, number: int, keys: Iterable[bytes]) -> bool:
        """Take a retired segment and its chunks (keys) out of the index for good.

        False, and nothing is done, when it is retired no more: one of its chunks was revived.
        """
        if txn.get(_NUMBER.pack(number), db=self._retired) is None:
            return False
        mine: list[bytes] = []
        with txn.cursor(self._condemned) as cursor:
            for key in sorted(set(keys)):
                more = cursor.set_range_dup(CHUNKS_KEY, key)
                while more and (row := cursor.value()).startswith(key):
                    if Place.parse(row[CHUNK_KEY_BYTES:]).segment == number:
                        mine.append(row)
                    more = cursor.next_dup()
        for row in mine:
            txn.delete(CHUNKS_KEY, row, db=self._condemned)
        txn.delete(_NUMBER.pack(number), db=self._retired)
        self._places.remove_segment(txn, number)
        return True

    def count(self) -> int:
        """How many condemned chunks there are."""
        with self._environment.read() as txn:
            return txn.stat(self._condemned)["entries"]
