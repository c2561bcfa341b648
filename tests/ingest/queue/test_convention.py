"""Conventions: what tools say, as they say it, and what they never say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ingest.queue import convention
from ingest.queue.convention import Call, Told
from repo.errors import UsageError
from tests.ingest.queue.queued import QueuedRepository, plant

# Written by btrbk 0.32.5 of Debian 12, paths shortened.
BTRBK_RAW = """\
format="transaction" time='1795694513' localtime='2026-11-26T12:01:53+0000' type='startup' \
status='v0.32.5' duration='' target_url='' source_url='' parent_url='' message='btrbk command line'
format="transaction" time='1795694513' localtime='2026-11-26T12:01:53+0000' type='snapshot' \
status='success' duration='0' target_url='/mnt/snaps/home.20261126T1201' \
source_url='/mnt/home' parent_url='' message=''
format="transaction" time='1795694513' localtime='2026-11-26T12:01:53+0000' type='finished' \
status='success' duration='0' target_url='' source_url='' parent_url='' message=''
"""
BTRBK_LOG = """\
2026-11-26T12:01:53+0000 startup v0.32.5 - - - # btrbk command line client, version 0.32.5
2026-11-26T12:01:53+0000 snapshot starting /mnt/snaps/home.20261126T1201 /mnt/home - -
2026-11-26T12:01:53+0000 snapshot success /mnt/snaps/home.20261126T1201 /mnt/home - -
2026-11-26T12:01:54+0000 snapshot success ssh://host/snaps/x.2026 ssh://host/x - -
2026-11-26T12:01:53+0000 finished success - - - -
"""


def call(words: Sequence[str] = (), text: str = "", **environ: str) -> Call:
    return Call(words, environ, text.splitlines)


def test_snapper_says_what_it_made() -> None:
    told = [Told("/home/.snapshots/7/snapshot", "/home")]
    words = ["create-snapshot", "/home", "btrfs", "7"]
    assert convention.snapper(call(words)) == told
    assert convention.snapper(call(["create-snapshot-post", *words[1:]])) == told
    for action in ("create-snapshot-pre", "delete-snapshot", "modify-snapshot", "create-config"):
        assert convention.snapper(call([action, "/home", "btrfs", "7"])) == []
    with pytest.raises(UsageError, match="ext4"):
        convention.snapper(call(["create-snapshot", "/home", "ext4", "7"]))
    for wrong in ([], ["create-snapshot", "/home"]):
        with pytest.raises(UsageError, match="not how snapper calls"):
            convention.snapper(call(wrong))


@pytest.mark.parametrize("text", [BTRBK_RAW, BTRBK_LOG], ids=["raw", "log"])
def test_btrbk_says_what_it_made(text: str) -> None:
    told = convention.btrbk(call(text=text))
    assert told == [Told("/mnt/snaps/home.20261126T1201", "/mnt/home")]


def test_btrbk_says_nothing() -> None:
    assert convention.btrbk(call(text="")) == []
    assert convention.btrbk(call(text="nonsense 'with a quote\nformat=\"x\" 'y\n")) == []


# As sanoid 2.1.0 of Debian 12 sets it for a post_snapshot_script.
SANOID = {
    "SANOID_TARGET": "tank/a",
    "SANOID_TARGETS": "tank/a,tank/b c",
    "SANOID_SNAPNAME": "autosnap_2026-11-26_12:00:01_hourly",
    "SANOID_SNAPNAMES": ("autosnap_2026-11-26_12:00:01_hourly,autosnap_2026-11-26_12:00:01_daily"),
    "SANOID_TYPES": "hourly,daily",
    "SANOID_SCRIPT": "post",
    "SANOID_PRE_FAILURE": "0",
}


@pytest.fixture
def zfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two datasets that are mounted."""
    mounted = [("tank/a", "/tank/a"), ("tank/b c", "/srv/b c")]
    monkeypatch.setattr(convention, "mounts_of_type", lambda _kind: mounted)


@pytest.mark.usefixtures("zfs")
def test_sanoid_says_what_it_made() -> None:
    name = "autosnap_2026-11-26_12:00:01_hourly"
    both = [
        Told(f"/tank/a/.zfs/snapshot/{name}", "/tank/a", unique=True),
        Told(f"/srv/b c/.zfs/snapshot/{name}", "/srv/b c", unique=True),
    ]
    assert convention.sanoid(call(**SANOID)) == both
    older = {name: SANOID[name] for name in ("SANOID_TARGET", "SANOID_SNAPNAME")}
    assert convention.sanoid(call(**older)) == both[:1]
    for script in ("pre", "prune"):
        assert convention.sanoid(call(**SANOID | {"SANOID_SCRIPT": script})) == []
    with pytest.raises(UsageError, match="not how sanoid calls"):
        convention.sanoid(call())
    with pytest.raises(UsageError, match="not mounted"):
        convention.sanoid(call(**SANOID | {"SANOID_TARGETS": "tank/c"}))


def zfs_like(folder: Path, *names: str) -> Path:
    """A directory that has snapshots where ZFS shows them."""
    plant(folder / "dataset" / ".zfs" / "snapshot", *names)
    return folder / "dataset"


def test_of_zfs_autobackup_the_newest_is_taken(tmp_path: Path) -> None:
    names = ("bak-20261126110000", "bak-20261126120000", "bak-x", "other-20261126130000")
    live = zfs_like(tmp_path, *names, "bak-2-20261126140000")
    told = convention.zfs_autobackup(call(["bak", str(live)]))
    path = f"{live}/.zfs/snapshot/bak-20261126120000"
    assert told == [Told(path, str(live), unique=True)]
    assert convention.zfs_autobackup(call(["none", str(live)])) == []
    with pytest.raises(UsageError, match="cannot be listed"):
        convention.zfs_autobackup(call(["bak", str(tmp_path)]))
    with pytest.raises(UsageError, match="not how zfs-autobackup"):
        convention.zfs_autobackup(call([]))


def test_a_snapshot_that_was_backed_up_is_not_taken_again(
    queue: QueuedRepository, tmp_path: Path
) -> None:
    live = zfs_like(tmp_path, "bak-20261126120000")
    words: tuple[str | Path, ...] = ("--from", "zfs-autobackup", "--", "bak", live)
    assert queue.enqueue(*words)[0]["new"]
    queue.drain()
    # Its command runs also when it has made no new one.
    assert not queue.enqueue(*words)[0]["new"]
    assert queue.drain()["points"] == []
    plant(live / ".zfs" / "snapshot", "bak-20261126130000")
    assert queue.enqueue(*words)[0]["new"]
    queue.drain()
    assert queue.sources() == [queue.points()[0]["source"]] * 2
    assert queue.sources()[0].endswith(f":{live}")


@pytest.mark.parametrize(
    ("tool", "words", "environ"),
    [
        ("snapper", ["delete-snapshot", "/home", "btrfs", "7"], {}),
        ("sanoid", [], {"SANOID_SCRIPT": "prune"}),
        ("btrbk", [], {}),
    ],
)
def test_calls_that_are_none_of_our_business_end_well(
    queue: QueuedRepository, tool: str, words: Sequence[str], environ: Mapping[str, str]
) -> None:
    assert queue.enqueue("--from", tool, "--", *words, env=dict(environ)) == []


def test_from_without_enqueue_backs_up_at_once(queue: QueuedRepository, tmp_path: Path) -> None:
    live = zfs_like(tmp_path, "bak-20261126120000")
    queue.run("ingest", "--from", "zfs-autobackup", "--", "bak", live)
    (point,) = queue.points()
    assert point["source"].endswith(f":{live}")
