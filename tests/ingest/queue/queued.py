"""A repository with a queue of its own, and what there is to be seen of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import command


class QueuedRepository:
    """Runs commands on a repository; the queue lies below `path`."""

    def __init__(self, made: command.Repository, path: Path) -> None:
        self.made = made
        self.path = path
        self.env = {"REPO_QUEUE": str(path), "REPO_RUN_DIR": str(made.home)}

    def run(self, *words: str | Path, status: int | None = 0, **more: Any) -> command.Result:
        """Run `repo`."""
        return self.made.run(*words, status=status, env=self.env | more.pop("env", {}), **more)

    def enqueue(self, *words: str | Path, **more: Any) -> list[dict[str, Any]]:
        """`repo ingest --enqueue`, without any key: the events it prints."""
        words = ("ingest", "--enqueue", "--json", *words)
        without = {"REPO_KEY_FILE": "", **more.pop("env", {})}
        return self.run(*words, env=without, **more).events()

    def drain(self, *words: str | Path, status: int | None = 0) -> dict[str, Any]:
        """`repo drain`: its summary."""
        return self.run("drain", "--json", *words, status=status).summary()

    def jobs(self) -> list[dict[str, Any]]:
        """What `repo jobs` lists."""
        return self.run("jobs", "--json").events()

    def points(self) -> list[dict[str, Any]]:
        """What `repo points` lists."""
        return self.run("points", "--json").events()

    def sources(self) -> list[str]:
        """The sources of all points, sorted: one for each point."""
        return sorted(point["source"] for point in self.points())


def plant(folder: Path, *names: str) -> list[Path]:
    """Small directories below `folder`."""
    paths = []
    for name in names:
        path = folder / name
        path.mkdir(parents=True)
        (path / "file").write_text(f"content of {name}")
        paths.append(path)
    return paths
