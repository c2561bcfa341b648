"""No key ever seals two records with one nonce or one number, whoever crashed in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repo.format.frame import HEAD_SEALED_BYTES
from repo.format.manifest import PointFile
from repo.format.segment import HEADER_BYTES, KEYS_BYTES, SegmentHeader
from repo.repository import Repository
from repo.scanner import reader_of, scan
from tests.crash import scenes
from tests.support import command, readback, tracer

NONCE_BYTES = 12


def test_a_key_and_a_nonce_meet_once(template: command.Repository, tmp_path: Path) -> None:
    """Ingests with segments that fill up, killed again and again, and each time recovered."""
    scene = scenes.many_checkpoints(template, tmp_path)
    made = scene.fresh(tmp_path / "try")
    calls = scene.traced(scene.fresh(tmp_path / "undisturbed")).calls
    for call in scenes.sample(calls, 6):
        assert scene.traced(made, scenes.at(call, tracer.KILL)).status in (-9, 0)
    made.run("ingest", scene.source)
    with readback.opened(made) as repository:
        sealed = list(_sealed(repository))
    assert len(sealed) > 100
    assert len(set(sealed)) == len(sealed)
    numbers = {(salt, nonce[:4]) for salt, nonce in sealed}
    assert len(numbers) == len(sealed), "nor do their numbers repeat"


def _sealed(repository: Repository) -> Iterator[tuple[bytes, bytes]]:
    """The salt, which makes the key, and the nonce of every sealed record of a repository."""
    for segment_id, is_open in repository.folder.segments():
        assert not is_open
        read, size = reader_of(repository.fetcher, segment_id)
        found = scan(read, size, repository.keys, segment_id)
        header = SegmentHeader.parse(read(0, HEADER_BYTES), where="test")
        for frame in found.frames:
            yield header.salt, read(frame.offset, NONCE_BYTES)
            yield header.salt, read(frame.offset + HEAD_SEALED_BYTES, NONCE_BYTES)
        assert found.footer is not None
        part = found.footer.sealed
        yield part[:32], part[KEYS_BYTES : KEYS_BYTES + NONCE_BYTES]
    for point_id in repository.folder.points():
        file = PointFile.parse(repository.folder.read_point(point_id), where="test")
        yield file.salt, file.sealed[:NONCE_BYTES]
