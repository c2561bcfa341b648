"""A doubt: whether points rely on chunks that the index does not have, and nobody has looked yet.

An index that was built anew, or that took in a damaged segment, may lack what points rely on. Until
somebody has walked all of them and found everything there, whoever would take content over from a
point without reading it looks each chunk up. Two counters in `meta`: doubts that were cast, and how
many of them are settled; so that a walk settles only what had been cast when it began.
"""

from __future__ import annotations

from typing import Final

from repo.index.environment import Environment, Transaction

_CAST: Final = b"doubts"
_SETTLED: Final = b"doubts settled"


def doubts(environment: Environment, txn: Transaction | None = None) -> int:
    """How many were cast until now: to be asked before a walk begins that may settle them."""
    return environment.counter(_CAST, txn)


def in_doubt(environment: Environment) -> bool:
    """Whether one is not settled."""
    with environment.read() as txn:
        return doubts(environment, txn) > environment.counter(_SETTLED, txn)


def cast_doubt(environment: Environment) -> None:
    """Note, durably before anything that is written later, that chunks may be missing."""
    environment.write(lambda txn: environment.take(_CAST, txn))


def settle_doubts(environment: Environment, count: int) -> None:
    """All that points rely on was found, or is known as lost, by a walk that began with `count`
    doubts cast.
    """
    if not in_doubt(environment):
        return

    def change(txn: Transaction) -> None:
        if count > environment.counter(_SETTLED, txn):
            environment.set_counter(_SETTLED, count, txn)

    environment.write(change)
