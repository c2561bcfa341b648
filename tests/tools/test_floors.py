"""The floors check: on small made-up trees it complains when it must, and only then."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tools import floors

ROOT = Path(floors.__file__).resolve().parent.parent


def tree(root: Path, **files: str) -> Path:
    """Write modules below `root`, named by path with `__` for `/`, and the packages they need."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        for folder in path.parents:
            if folder == root:
                break
            (folder / "__init__.py").write_text('"""A package."""\n')
    return root


def test_a_good_tree_has_no_complaints(tmp_path: Path) -> None:
    tree(
        tmp_path,
        repo__errors="import os\n",
        repo__format__place="from struct import Struct\nfrom repo.errors import Damaged\n",
        repo__index__places="import lmdb\nfrom repo.format import place\n",
        repo__writer="import repo.index.places\nfrom . import errors\n",
        ingest__session="import trio\nfrom ingest import worker\n",
        ingest__worker="from repo.writer import Writer\n",
        mount__operations="import pyfuse3\n",
        tools__cli__main="def run():\n    from ingest import session\n",
        tests__test_all="import lmdb, pyfuse3, repo.writer\nfrom tools.cli.main import run\n",
    )
    assert floors.complaints(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import repo.writer",
        "from repo import writer",
        "from repo.writer import Writer",
        "from .. import writer",
        "from ..writer import Writer",
        "def late():\n    from repo import writer",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from repo.writer import Writer",
        "try:\n    pass\nfinally:\n    import repo.writer",
        "import importlib\nimportlib.import_module('repo.writer')",
        "__import__('repo.writer')",
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(tmp_path: Path, statement: str) -> None:
    tree(tmp_path, repo__writer="", repo__format__place=statement)
    [line] = floors.complaints(tmp_path)
    last = len(statement.splitlines())
    assert line == (
        f"repo/format/place.py:{last}: repo.format.place (floor 1, bytes) imports repo.writer "
        "from above (floor 4, paths)"
    )


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("repo/storage/folder", "repo/index/places"),
        ("repo/index/places", "repo/storage/folder"),
        ("ingest/session", "mount/vfs"),
        ("mount/vfs", "ingest/session"),
    ],
)
def test_strangers_do_not_import_each_other(tmp_path: Path, importer: str, imported: str) -> None:
    target = imported.replace("/", ".")
    tree(tmp_path, **{importer.replace("/", "__"): f"import {target}\n"})
    tree(tmp_path, **{imported.replace("/", "__"): ""})
    [line] = floors.complaints(tmp_path)
    assert line.endswith(f"imports {target}, but they are strangers")


def test_neighbours_of_a_floor_without_strangers_may_import_each_other(tmp_path: Path) -> None:
    tree(tmp_path, repo__keys="", repo__kernel__cut="from repo import keys\n")
    assert floors.complaints(tmp_path) == []


def test_a_circle_is_found_and_shown(tmp_path: Path) -> None:
    tree(
        tmp_path,
        repo__writer="from repo import reader\n",
        repo__reader="def late():\n    from repo import tree\n",
        repo__tree="from repo.writer import Writer\n",
    )
    [line] = floors.complaints(tmp_path)
    assert line.startswith("repo/writer.py:1: a circle of imports: ")
    assert line.endswith("repo.reader -> repo.tree -> repo.writer -> repo.reader")


def test_a_module_that_imports_itself_is_a_circle(tmp_path: Path) -> None:
    tree(tmp_path, repo__writer="import repo.writer\n")
    assert len(floors.complaints(tmp_path)) == 1


def test_shared_lower_modules_are_no_circle(tmp_path: Path) -> None:
    tree(
        tmp_path,
        repo__writer="from repo import reader, tree\n",
        repo__reader="from repo import tree\n",
        repo__tree="",
    )
    assert floors.complaints(tmp_path) == []


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("repo/repository", "lmdb"),
        ("repo/storage/folder", "lmdb"),
        ("ingest/session", "pyfuse3"),
        ("mount/vfs", "pyfuse3"),
        ("mount/operations_more", "pyfuse3"),
        ("tools/cli/mount", "pyfuse3"),
        ("repo/format/place", "os"),
        ("repo/format/place", "io"),
        ("repo/format/place", "os.path"),
        ("repo/format/place", "trio"),
        ("repo/kernel/cut", "trio"),
        ("ingest/worker", "trio"),
    ],
)
def test_libraries_stay_where_they_belong(tmp_path: Path, module: str, library: str) -> None:
    tree(tmp_path, **{module.replace("/", "__"): f"\n\ndef late():\n    import {library}\n"})
    [line] = floors.complaints(tmp_path)
    assert line.startswith(f"{module}.py:4: ")
    assert library.partition(".")[0] in line


def test_trio_far_below_the_worker_is_found_with_the_way(tmp_path: Path) -> None:
    tree(
        tmp_path,
        ingest__worker="from ingest import channel\n",
        ingest__channel="def late():\n    from repo.writer import Writer\n",
        repo__writer="from trio import Path\n",
    )
    [line] = floors.complaints(tmp_path)
    assert line == (
        "repo/writer.py:1: ingest.worker must stay free of trio: "
        "ingest.worker -> ingest.channel -> repo.writer -> trio"
    )


@pytest.mark.parametrize("module", ["repo/surprise", "extra/thing", "conftest"])
def test_a_module_outside_the_table_is_an_error(tmp_path: Path, module: str) -> None:
    tree(tmp_path, **{module.replace("/", "__"): ""})
    found = floors.complaints(tmp_path)
    assert any(line.startswith(f"{module}.py:1: ") and "not in the table" in line for line in found)


@pytest.mark.parametrize("statement", ["import repo.gone", "from repo import gone"])
def test_an_import_of_what_does_not_exist_is_an_error(tmp_path: Path, statement: str) -> None:
    tree(tmp_path, repo__writer=statement)
    assert floors.complaints(tmp_path) == ["repo/writer.py:1: repo.gone does not exist"]


def test_an_init_file_with_code_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, repo__errors="")
    (tmp_path / "repo" / "__init__.py").write_text('"""A package."""\nVERSION = 1\n')
    [line] = floors.complaints(tmp_path)
    assert line.startswith("repo/__init__.py:1: ")


def test_hidden_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "strange.py").write_text("this is not Python")
    assert floors.complaints(tmp_path) == []


def test_the_command_says_so_and_fails(tmp_path: Path) -> None:
    tree(tmp_path, repo__surprise="")
    command = [sys.executable, "-m", "tools.floors", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "floors: 1 wrong"


def test_this_project_keeps_to_its_floors() -> None:
    assert floors.complaints(ROOT) == []
