"""The audit: a file that changed without a sign of it is found, and nothing is believed then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import ingest.audit
import ingest.descent
from repo.types import KIB
from tests.ingest import again
from tests.ingest.test_exact import ExactRuns
from tests.ingest.test_exact import runs as exact_runs
from tests.ingest.test_incremental import source
from tests.support import command, loopfs, readback

__all__ = ["exact_runs", "source"]


@pytest.fixture
def filesystem(tmp_path: Path) -> Iterator[loopfs.LoopFilesystem]:
    """An ext4 with files of 4 KiB."""
    with loopfs.mounted("ext4", tmp_path, size_bytes=16 << 20) as filesystem:
        for number in range(30):
            content = random.Random(number).randbytes(4 * KIB)
            (filesystem.path / f"{number}").write_bytes(content)
        yield filesystem


def change_unnoticed(filesystem: loopfs.LoopFilesystem, path: Path) -> None:
    """Change a file's content on the device: its inode knows nothing of it."""
    before, content = path.stat(), path.read_bytes()
    filesystem.unmount()
    assert filesystem.image is not None
    device = filesystem.image.read_bytes()
    at = device.index(content)
    filesystem.image.write_bytes(device[:at] + content[::-1] + device[at + len(content) :])
    filesystem.mount()
    after = path.stat()
    assert (before.st_ctime_ns, before.st_ino) == (after.st_ctime_ns, after.st_ino)
    assert path.read_bytes() == content[::-1]


def audit_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every file that is taken over."""
    monkeypatch.setattr(ingest.audit, "ONE_OF", 1)
    monkeypatch.setattr(ingest.audit, "_random", lambda most: 0)


def test_a_file_that_changed_without_a_sign_is_found(
    made: command.Repository,
    filesystem: loopfs.LoopFilesystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again.without_racy_guard(monkeypatch)
    with again.runs(made, filesystem.path) as runs:
        runs.right()
        change_unnoticed(filesystem, filesystem.path / "7")
        audit_all(monkeypatch)
        summary = runs.right()
        assert (summary.verdict, summary.files_reused) == ("FULL", 0)
        (notice,) = [text for text in runs.notices_before if "AUDIT" in text]
        assert "AUDIT: 7 changed, and walk did not tell" in notice
        assert runs.newest.base_record.distrusted == ("walk",)
        first, second = runs.repository.points()
        assert readback.content(runs.repository, first) != readback.content(runs.repository, second)
        assert runs.right().files_reused == 0, "it is not believed any more"
        assert any("earlier audit" in text for text in runs.notices_before)
        chosen = runs.right(base=runs.newest.id.hex())
        assert chosen.files_reused == chosen.files == chosen.files_audited
        assert not runs.newest.base_record.distrusted


def test_of_a_thousand_files_one_is_read(
    made: command.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for number in range(5000):
        folder = source / f"{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(b"%d" % number)
    again.without_racy_guard(monkeypatch)
    with again.runs(made, source) as runs:
        runs.run()
        summary = runs.run()
        assert summary.files_reused == 5000
        assert 2 <= summary.files_audited <= 64
        assert summary.bytes_read == 0


def test_a_large_file_is_audited_by_a_part_of_it(
    made: command.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "large").open("wb") as file:
        file.write(random.Random(1).randbytes(20 << 20))
        file.truncate(40 << 20)
    again.without_racy_guard(monkeypatch)
    audit_all(monkeypatch)
    with again.runs(made, source) as runs:
        runs.run()
        for part in range(1, 100, 13):
            monkeypatch.setattr(ingest.audit, "_random", lambda most, part=part: part % most + 1)
            assert runs.run().files_reused == 1


def test_an_exact_plan_that_is_wrong_is_found(
    exact_runs: ExactRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in (ingest.audit, ingest.descent):
        monkeypatch.setattr(where, "ONE_OF", 1)
    monkeypatch.setattr(ingest.descent, "EXACT_AUDITS_MAX", 1000)
    right = exact_runs.right()
    assert (right.verdict, right.files_audited > 20) == ("EXACT", True)
    monkeypatch.setattr(type(exact_runs.oracle), "changes_in", lambda oracle, inode: None)
    for folder in exact_runs.source.glob("*/*"):
        (folder / "small3").write_bytes(b"nobody is told")
    summary = exact_runs.right()
    assert (summary.verdict, summary.files_reused) == ("FULL", 0)
    assert exact_runs.newest.base_record.distrusted == ("oracle",)
    again_ = exact_runs.right()
    assert again_.verdict == "HINT", "the walk is still believed"
