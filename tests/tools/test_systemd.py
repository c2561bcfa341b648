"""The systemd units: systemd accepts them, and they call what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import command, need
from tools.cli import commands

UNITS = sorted((command.PROJECT / "tools" / "systemd").glob("repo-*"))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as `tools/systemd/install` leaves them."""
    folder = tmp_path / "system"
    script = command.PROJECT / "tools" / "systemd" / "install"
    subprocess.run([script, folder], check=True, capture_output=True)
    return folder


def test_systemd_accepts_the_units(installed: Path) -> None:
    analyze = need.tool("systemd-analyze")
    units = sorted(installed.iterdir())
    assert len(units) == len(UNITS) == 5
    ran = subprocess.run(
        # Not the pages: they are not installed here.
        [analyze, "verify", "--man=no", "--recursive-errors=no", *units],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{installed}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in ran.stderr.splitlines() if "repo-" in line]
    assert (ran.returncode, said) == (0, [])


def test_systemd_refuses_a_broken_unit(installed: Path) -> None:
    """What the test above relies on."""
    analyze = need.tool("systemd-analyze")
    unit = installed / "repo-drain.service"
    unit.write_text(unit.read_text().replace("Type=notify", "Typo=notify"))
    ran = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert "Typo" in ran.stderr


def test_the_units_call_commands_that_there_are(installed: Path) -> None:
    for unit in installed.glob("*.service"):
        (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        program, name, *_ = line.split()
        assert shutil.which(program)
        assert commands.listed(name) is not None
