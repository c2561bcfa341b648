"""The index lost, foreign, broken bit by bit: nothing wrong is served, and a rebuild gives all."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path

import lmdb
import pytest

from repo.format.place import pack_place
from repo.upkeep.verify import verify
from tests.damage import lmdbpages
from tests.damage.small import Contents, Small, flipped, lost_paths, read_back
from tests.repo import child

FLIPS = 60


def rebuilt(small: Small, truth: Contents) -> tuple[list[str], list[str]]:
    """Verify with the index as it lies there: notices and what is damaged. All is there then."""
    notices: list[str] = []
    with small.open() as repository:
        report = verify(repository, level="structure", on_notice=notices.append)
    with small.open() as repository:
        assert read_back(repository) == truth
        assert verify(repository, level="structure").damages == []
    assert {damage.where for damage in report.damages} <= {"index"}
    return notices, [damage.what for damage in report.damages]


def test_a_deleted_index_is_no_damage(small: Small, truth: Contents) -> None:
    shutil.rmtree(small.index_dir)
    notices, damages = rebuilt(small, truth)
    assert notices == ["the index is missing: building it anew from the segments"]
    assert damages == []


def test_an_empty_folder_or_file_for_an_index(small: Small, truth: Contents) -> None:
    small.index_file.unlink()
    assert rebuilt(small, truth)[1] == []
    small.index_file.write_bytes(b"")
    notices, damages = rebuilt(small, truth)
    assert len(notices) == len(damages) == 1


def test_a_foreign_lmdb_for_an_index(small: Small, truth: Contents) -> None:
    shutil.rmtree(small.index_file.parent)
    small.index_file.parent.mkdir()
    with (
        lmdb.open(str(small.index_file.parent)) as environment,
        environment.begin(write=True) as txn,
    ):
        txn.put(b"key", b"value of another program")
    assert rebuilt(small, truth)[1] == ["the index is not complete"]


def test_the_index_of_another_repository(small: Small, truth: Contents, tmp_path: Path) -> None:
    from repo.index.environment import Environment

    with Environment.open(tmp_path / "index", b"another one here", create=True):
        pass
    shutil.copy(tmp_path / "index" / "data.mdb", small.index_file)
    assert rebuilt(small, truth)[1] == ["the index belongs to another repository"]


def test_an_index_of_an_earlier_day(own: Small) -> None:
    # Of the same repository, before its newest segments and point: a copy put back by hand.
    old = own.index_file.read_bytes()
    (own.source / "newer").write_bytes(random.Random(2).randbytes(30_000))
    own.ingest()
    with own.open() as repository:
        truth = read_back(repository)
    own.index_file.write_bytes(old)
    assert rebuilt(own, truth) == ([], [])


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 8192, 20_000])
def test_a_truncated_index(small: Small, truth: Contents, length: int) -> None:
    data = small.index_file.read_bytes()
    assert len(data) > length
    small.index_file.write_bytes(data[:length])
    notices, damages = rebuilt(small, truth)
    assert notices
    assert damages


REBUILT = """
import json, sys
from pathlib import Path
from repo.upkeep.verify import verify
from tests.damage.small import Small

with Small(Path(sys.argv[1])).open() as repository:
    report = verify(repository, level="structure")
print(json.dumps([[damage.where, damage.what] for damage in report.damages]))
"""


def test_an_index_that_opens_well_and_kills_whoever_searches_it_is_built_anew(
    own: Small, truth: Contents
) -> None:
    data = bytearray(own.index_file.read_bytes())
    branches = lmdbpages.branch_pages(bytes(data))
    assert branches
    for page in branches:
        data[page + 12 : page + 14] = (18).to_bytes(2, "little")  # as if it named one page only
    own.index_file.write_bytes(data)
    status, out, err = child.run(REBUILT, own.home)
    assert status == 0, err
    ((where, what),) = json.loads(out)
    assert (where, "ends in SIG" in what) == ("index", True)
    with own.open() as repository:
        assert list(read_back(repository).values()) == list(truth.values())


def test_an_index_with_an_impossible_map_is_built_anew(small: Small, truth: Contents) -> None:
    good = small.index_file.read_bytes()
    data = bytearray(good)
    for page in (0, lmdbpages.PAGE_BYTES):
        data[page + 140] |= 0x80  # of the number of the last page
    small.index_file.write_bytes(data)
    assert rebuilt(small, truth)[1] == ["the index asks for more memory than there is"]


def test_a_place_that_rotted_into_another_segment_names_who_suffers(own: Small) -> None:
    with own.open() as repository:
        entry = repository.tree.resolve(repository.points()[-1].root, b"new")
        key, length = next((e.id[:16], e.length) for e in repository.tree.extents(entry))
        mine = repository.reader.place(next(e.id for e in repository.tree.extents(entry)))
        other = next(
            place
            for _, place in repository.places.rows()
            if place.segment != mine.segment and place.length >= length and not place.offset
        )
        wrong = pack_place(other.segment, other.frame, 0, length)
        repository.environment.write(lambda txn: repository.places.move_places(txn, [(key, wrong)]))
        damages = verify(repository, level="structure").damages
        assert "new" in {path for damage in damages for path in damage.paths}
        assert {damage.where for damage in damages} == {"index"}


def test_an_impossible_offset_of_a_frame_is_damage(own: Small) -> None:
    with own.open() as repository:
        places = repository.places
        for row in list(places.segments()):
            table = bytearray(row.frames)
            table[7::16] = b"\xff" * (len(table) // 16)
            set_frames = partial(
                places.set_frames, number=row.number, table=bytes(table), closed=True
            )
            repository.environment.write(set_frames)
        lost = lost_paths(read_back(repository))
        assert lost
        damages = verify(repository, level="structure").damages
        assert {path for _, path in lost} <= {path for d in damages for path in d.paths}


READ = """
import json, sys
from pathlib import Path
from repo.errors import RepoError
from tests.damage.small import Small, lost_paths, read_back, wrongly_served
from repo.upkeep.verify import verify

small = Small(Path(sys.argv[1]))
truth = {point: {path: bytes.fromhex(data) for path, data in held.items()}
         for point, held in json.loads(Path(sys.argv[2]).read_text()).items()}
data = bytearray(Path(sys.argv[3]).read_bytes())
for bit in json.loads(sys.argv[4]):
    data[bit // 8] ^= 1 << bit % 8
    small.index_file.write_bytes(data)
    data[bit // 8] ^= 1 << bit % 8
    print(json.dumps(["flipped", bit]), flush=True)
    notices = []
    try:
        with small.open(on_notice=notices.append) as repository:
            found = read_back(repository)
    except RepoError as error:
        print(json.dumps(["refused", str(error)]), flush=True)
        continue
    lost = lost_paths(found)
    with small.open() as repository:
        report = verify(repository, level="structure")
    named = {path for damage in report.damages for path in damage.paths}
    anew = any("built anew" in damage.next_step for damage in report.damages)
    result = [wrongly_served(found, truth), bool(lost), anew or {path for _, path in lost} <= named,
              [damage.where for damage in report.damages], notices]
    print(json.dumps(["read", *result]), flush=True)
"""


def test_flipped_bits_serve_nothing_wrong_and_are_found(
    small: Small, truth: Contents, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # In a process of its own: now and then LMDB reads where it must not, and that ends it.
    good = small.index_file.read_bytes()
    rng = random.Random(4)
    used = sorted(lmdbpages.used_bytes(good))
    assert 8000 < len(used) < len(good) // 4  # most of it is free
    count = FLIPS * (10 if request.config.getoption("--deep") else 1)
    bits = [8 * at + rng.randrange(8) for at in rng.choices(used, k=count)]
    (tmp_path / "truth").write_text(
        json.dumps(
            {
                point: {path: data.hex() for path, data in held.items() if isinstance(data, bytes)}
                for point, held in truth.items()
            }
        )
    )
    (tmp_path / "good").write_bytes(good)
    found = 0
    try:
        while bits:
            status, out, err = child.run(
                READ, small.home, tmp_path / "truth", tmp_path / "good", json.dumps(bits)
            )
            lines = [json.loads(line) for line in out.splitlines()]
            done = [line[1] for line in lines if line[0] == "flipped"]
            assert done, err
            assert status <= 0, err  # the child's own end, or a signal
            bits = bits[len(done) :]
            for line in lines:
                if line[0] == "read":
                    wrong, lost, all_named, where, _ = line[1:]
                    assert wrong == []
                    assert all_named
                    assert set(where) <= {"index", "segments"}
                    assert not lost or "index" in where
                    found += bool(where)
            if status:
                # Whoever meets such an index loses this process, and `repo verify` tells why.
                small.index_file.write_bytes(flipped(good, done[-1]))
                assert rebuilt(small, truth)[1]
    finally:
        small.index_file.write_bytes(good)
    assert found > count // 2  # the rest is what nobody asks for, such as counters
