"""What holds for all tests: which of them run, and how hypothesis looks for examples."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# No deadlines anywhere: machines are shared, and no test asserts a time.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


# A shell that starts the tests in the background has SIGINT ignored, and every command that a test
# interrupts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="also run the tests marked `deep`")
    parser.addoption(
        "--soak", type=int, metavar="SECONDS", help="run the soak (tests/model) for so long only"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--deep"):
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]
