"""An invocation: one run of the command line, and what its commands need again and again."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import click

from tools.cli.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from repo.keys import Credential
    from repo.repository import Repository
    from tools.cli.config import Configuration
    from tools.cli.credentials import Finder
    from tools.cli.location import Location
    from tools.cli.output import Console

T = TypeVar("T")

ASKED_MAX = 3
"""How often somebody at a terminal may mistype a password."""


class Invocation:
    """The choices of this run; configuration, console and repository are made when asked for."""

    def __init__(self) -> None:
        self.choices = Choices()

    @cached_property
    def console(self) -> Console:
        """Where this run prints."""
        from tools.cli.output import Console

        return Console(self.choices)

    @cached_property
    def configuration(self) -> Configuration:
        """What the configuration files say. Raises UsageError."""
        from tools.cli import config

        return config.load(
            config=self.choices.config, profile=self.choices.profile, environ=os.environ
        )

    @cached_property
    def location(self) -> Location:
        """Which repository this run is about."""
        from tools.cli import location

        return location.locate(self.choices, self.configuration, os.environ, user_id=os.geteuid())

    @cached_property
    def finder(self) -> Finder:
        """Who finds the key of the repository."""
        from repo.hardening import harden_process
        from tools.cli.credentials import Finder

        harden_process()
        settings = self.configuration.settings if self.location.configured else None
        return Finder(self.choices, settings)

    def open(self) -> Repository:
        """The repository of this run, unlocked: a context manager. Raises RepoError."""
        from repo.errors import NotARepository
        from repo.repository import Repository
        from repo.storage.folder import Folder

        location = self.location
        try:
            # Before anybody is asked for the password of something that is not there.
            Folder.open(location.path)
        except NotARepository as error:
            raise NotARepository(
                error.what,
                where=f"{location.path}, from {location.chosen_by}",
                next_step=error.next_step,
            ) from error
        return self.with_credential(
            lambda credential: Repository.open(
                location.path,
                credential,
                index_dir=location.index_dir,
                on_notice=self.notice,
            )
        )

    def notice(self, text: str) -> None:
        """Tell what is done that nobody asked for, or what was found on the way."""
        self.console.warn(f"repo: {text}")

    def with_credential(self, use: Callable[[Credential], T]) -> T:
        """Do something with the credential of this run; whoever types one may try again."""
        from repo.errors import WrongKey
        from tools.cli import credentials

        found = self.finder.find()
        if found is not None:
            return use(found.credential)
        if not credentials.can_ask():
            raise credentials.nothing_found()
        for attempt in range(1, ASKED_MAX + 1):
            password = credentials.ask(f"Password of {self.location.path}")
            try:
                return use(password)
            except WrongKey:
                if attempt == ASKED_MAX:
                    raise
                self.console.warn("This password does not open the repository.")
        raise AssertionError("unreachable: the last attempt returns or raises")


pass_invocation = click.make_pass_decorator(Invocation)
"""Decorates a command: its first parameter is the invocation."""
