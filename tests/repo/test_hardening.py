"""Hardening: tried in processes of their own, since it cannot be taken back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from repo.hardening import harden_process
done = harden_process()
PR_GET_DUMPABLE = 3
print(done, ctypes.CDLL(None).prctl(PR_GET_DUMPABLE), resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


@pytest.mark.parametrize(
    ("allow", "answer"), [("", "True 0 0"), ("0", "True 0 0"), ("1", "False 1 4096")]
)
def test_the_process_is_closed_unless_told_otherwise(allow: str, answer: str) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096)){PROGRAM}"
    ran = subprocess.run(
        [sys.executable, "-c", limited],
        env={**os.environ, "REPO_ALLOW_DUMP": allow},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == answer.split()
