"""A mounted point is the source: names, attributes, contents, and what programs make of them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mounting import ADAPTERS, Mount, mounted
from tests.support import compare, need, oddities
from tests.support.command import Repository

pytestmark = pytest.mark.usefixtures("odd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def odd(folder: Path) -> Iterator[oddities.Oddities]:
    """The tree of oddities, and one hard link whose names lie far apart."""
    need.fuse()
    need.root()
    source = folder / "source"
    source.mkdir()
    made = oddities.make(source)
    yield made
    made.cleanup()


@pytest.fixture(scope="module")
def repository(folder: Path, odd: oddities.Oddities) -> Repository:
    made = Repository.make(folder / "repo")
    made.run("ingest", folder / "source", status=None)
    return made


@pytest.fixture(scope="module", params=ADAPTERS)
def mount(request: pytest.FixtureRequest, folder: Path, repository: Repository) -> Iterator[Mount]:
    at = folder / f"mnt-{request.param}"
    with mounted(repository, at, "--adapter", request.param) as made:
        yield made


@pytest.fixture
def source(folder: Path) -> Path:
    return folder / "source"


@pytest.fixture
def is_device(request: pytest.FixtureRequest, mount: Mount) -> bool:
    return mount.path.name.endswith("device")


def test_it_is_the_source_byte_for_byte(source: Path, mount: Mount, is_device: bool) -> None:
    # File flags are recorded, but FUSE has no way to show them. pyfuse3 knows no SEEK_HOLE.
    assert compare.differences(source, mount.path, holes=is_device, skip=("flags",)) == []


def test_rsync_finds_nothing_to_do(source: Path, mount: Mount) -> None:
    # rsync knows no paths beyond PATH_MAX and reads the holes of 1 TiB.
    exclude = ("/deep", "/sparse/huge")
    assert compare.rsync_differences(source, mount.path, exclude=exclude) == []


def test_tar_makes_the_same_stream(source: Path, mount: Mount, tmp_path: Path) -> None:
    words = ["--sort=name", "--xattrs", "--acls", "--format=posix", "--numeric-owner"]
    words += ["--pax-option=delete=atime,delete=ctime,exthdr.name=%d/%f.pax"]
    # In which order a file system lists several attributes of a file is not recorded.
    for name in ("deep", "sparse", "attributes/directory", "attributes/xattr-several"):
        words.append(f"--exclude=./{name}")
    streams = []
    for tree in (source, mount.path):
        made = tmp_path / "stream"
        subprocess.run(
            [need.tool("tar"), "-cf", made, *words, "-C", tree, "."],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        streams.append(made.read_bytes())
    assert streams[0] == streams[1]


def test_times_are_exact_and_reading_does_not_change_them(source: Path, mount: Mount) -> None:
    for path in sorted((source / "times").iterdir()):
        shown = (mount.path / "times" / path.name).stat()
        assert shown.st_mtime_ns == path.stat().st_mtime_ns
        assert shown.st_atime_ns == shown.st_mtime_ns
        assert shown.st_ctime_ns == path.stat().st_ctime_ns


def test_blocks_tell_what_is_stored(mount: Mount) -> None:
    sparse = mount.path / "sparse"
    assert (sparse / "only-hole").stat().st_blocks == 0
    assert 0 < (sparse / "hole-at-start").stat().st_blocks * 512 < 2 << 20
    full = (mount.path / "sizes" / "100000").stat()
    assert full.st_blocks == -(-full.st_size // 512)


def test_hard_links_share_an_inode(source: Path, mount: Mount) -> None:
    names = ["links-1/file", "links-1/again-file", "links-2/other-file"]
    shown = [(mount.path / name).lstat() for name in names]
    assert len({one.st_ino for one in shown}) == 1
    assert {one.st_nlink for one in shown} == {(source / names[0]).stat().st_nlink}
    other = (mount.path / "links-1/same-content-no-link").stat()
    assert other.st_ino != shown[0].st_ino
    assert len({path.lstat().st_ino for path in (mount.path / "many").iterdir()}) == 300


def test_a_listing_tells_the_inodes_that_stat_tells(mount: Mount) -> None:
    for folder in ("links-1", "sizes", "special", "."):
        with os.scandir(mount.path / folder) as entries:
            for entry in entries:
                assert entry.inode() == entry.stat(follow_symlinks=False).st_ino
    listed = subprocess.run(
        ["ls", "-fi", mount.path / "sizes"], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    numbers = {line.split()[1]: line.split()[0] for line in listed if line}
    assert int(numbers["."]) == (mount.path / "sizes").stat().st_ino
    assert int(numbers[".."]) == mount.path.stat().st_ino


def test_statfs_has_figures(mount: Mount) -> None:
    told = os.statvfs(mount.path)
    assert told.f_namemax == 255
    assert told.f_blocks > 0
    assert told.f_bfree == told.f_bavail == told.f_ffree == 0
    assert told.f_files > 400
    assert told.f_flag & os.ST_RDONLY
    assert told.f_flag & os.ST_NOSUID
    assert told.f_flag & os.ST_NODEV


def test_whoever_writes_is_told_that_it_is_read_only(mount: Mount) -> None:
    path = mount.path / "sizes" / "100000"
    attempts = (
        lambda: os.open(path, os.O_WRONLY),
        lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
        lambda: os.open(mount.path / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(mount.path / "new"),
        lambda: os.unlink(path),
        lambda: os.rename(path, mount.path / "new"),
        lambda: os.chmod(path, 0o600),
        lambda: os.utime(path),
        lambda: os.setxattr(path, "user.new", b"value"),
        lambda: os.symlink("x", mount.path / "new"),
    )
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()


def test_what_is_not_there_stays_away(mount: Mount) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            (mount.path / "sizes" / "no such name").stat()
    with pytest.raises(NotADirectoryError):
        (mount.path / "sizes" / "1" / "below").stat()
    with pytest.raises(OSError, match="too long"):
        (mount.path / ("n" * 256)).stat()


def test_modes_bind_other_users(folder: Path, repository: Repository) -> None:
    for part in (folder, *folder.parents):
        if not part.stat().st_mode & stat.S_IXOTH:
            part.chmod(part.stat().st_mode | stat.S_IXOTH)
    secret, plain = "modes/file-0600", "modes/file-0444"
    acl = "attributes/xattr-"
    with mounted(repository, folder / "others", "--allow-other") as mount:

        def as_nobody(*words: str) -> int:
            return subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words],
                cwd=mount.path,
                capture_output=True,
                check=False,
            ).returncode

        assert as_nobody("cat", plain) == 0
        assert as_nobody("cat", secret) != 0
        assert as_nobody("ls", "modes/directory-0000") != 0
        for name in sorted(path.name for path in (folder / "source/attributes").iterdir()):
            # Whatever the ACL says of nobody, the mount says what the source says.
            there = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat",
                 folder / "source/attributes" / name],
                capture_output=True, check=False,
            ).returncode  # fmt: skip
            assert as_nobody("cat", f"attributes/{name}") == there, (name, acl)


def test_without_leave_nobody_else_gets_in(folder: Path, mount: Mount) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", mount.path],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


def test_owner_and_modes_can_be_replaced(folder: Path, repository: Repository) -> None:
    options = ("--uid", "1234", "--gid", "5678", "--umask", "027")
    with mounted(repository, folder / "replaced", *options) as mount:
        for path in (mount.path / "modes").iterdir():
            shown = path.lstat()
            assert (shown.st_uid, shown.st_gid) == (1234, 5678)
            assert not stat.S_IMODE(shown.st_mode) & 0o027
        assert stat.S_IMODE((mount.path / "symlinks/relative").lstat().st_mode) == 0o777


NOBODY = 0xFFFFFFFF


def test_permissions_taken_away_are_taken_from_acls_too(tmp_path: Path) -> None:
    need.root()
    for part in (tmp_path, *tmp_path.parents):
        if not part.stat().st_mode & stat.S_IXOTH:
            part.chmod(part.stat().st_mode | stat.S_IXOTH)
    source = tmp_path / "source"
    source.mkdir(mode=0o755)
    for name, rows in {
        "named": [(0x01, 6, NOBODY), (0x02, 4, 1), (0x04, 0, NOBODY), (0x10, 4, NOBODY)],
        "plain": [(0x01, 6, NOBODY), (0x04, 4, NOBODY)],
    }.items():
        (source / name).write_bytes(b"secret")
        os.chown(source / name, 0, 9)
        value = oddities.acl(*rows, (0x20, 4, NOBODY))
        os.setxattr(source / name, "system.posix_acl_access", value)
    repository = Repository.make(tmp_path / "repo")
    repository.run("ingest", source)

    def may_read(top: Path, name: str, user: int, group: int) -> bool:
        words = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "cat"]
        done = subprocess.run([*words, top / name], capture_output=True, check=False)
        return done.returncode == 0

    people = [(1, 1), (3, 9), (3, 3)]  # named, of the group, a stranger
    for umask in ("004", "040"):
        options = ("--allow-other", "--umask", umask)
        with mounted(repository, tmp_path / "mnt", *options) as mount:
            for name in ("named", "plain"):
                # What chmod makes of the same file.
                before = stat.S_IMODE((source / name).stat().st_mode)
                (source / name).chmod(before & ~int(umask, 8))
                for person in people:
                    there = may_read(source, name, *person)
                    assert may_read(mount.path, name, *person) == there, (name, person)
                (source / name).chmod(before)


def test_getxattr_is_asked_once_where_there_are_none(tmp_path: Path) -> None:
    source = tmp_path / "plain"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    repository = Repository.make(tmp_path / "repo")
    repository.run("ingest", source)
    with mounted(repository, tmp_path / "mnt") as mount:
        for _ in range(2):
            with pytest.raises(OSError, match="not supported"):
                os.getxattr(mount.path / "file", "user.none")
        assert (mount.path / "file").read_bytes() == b"content"
