"""The configuration: TOML files, checked wholly before anything is taken from them.

`/etc/repo/config.toml`, then `~/.config/repo/config.toml`, whose settings win; `--config FILE`
stands for both. The settings at the top hold always; a profile adds to them and wins:

    repository = "/srv/backup"
    key_file = "~/backup.key"          # a relative path starts at the file's own folder
    [ingest]
    exclude = ["*.tmp", ".cache/"]
    hooks = "hooks.d"              # or "off"
    streams = "auto"
    [profiles.offsite]
    repository = "/mnt/offsite"
    password_command = ["pass", "show", "offsite"]

`default_profile`, REPO_PROFILE or `--profile` choose the profile. An unknown name is an error
that proposes the nearest known one; a password is no setting, only a way to get at it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from repo.errors import UsageError

SYSTEM_FILE: Final = Path("/etc/repo/config.toml")


class IngestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `repo ingest` takes when its command line says nothing; lists are added to it."""

    exclude: tuple[str, ...] = ()
    exclude_from: tuple[str, ...] = ()
    exclude_caches: bool | None = None
    one_file_system: bool | None = None
    tags: tuple[str, ...] = ()
    streams: int | Literal["auto"] | None = None
    compression: int | Literal["auto", "off"] | None = None
    hooks: str | None = None
    take: Literal["auto", "never"] | None = None
    pin: Literal["auto", "never"] | None = None
    keep_snapshot: Literal["auto", "never"] | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One repository and how to get at it. Paths are absolute once read."""

    repository: str | None = None
    index_dir: str | None = None
    key_file: str | None = None
    password_file: str | None = None
    password_command: str | tuple[str, ...] | None = None
    queue: str | None = None
    ingest: IngestSettings = IngestSettings()


class Configuration(msgspec.Struct, frozen=True):
    """What holds for this run. `origin` names the profile or files it came from, for messages."""

    settings: Settings = Settings()
    origin: str = ""


_S = TypeVar("_S", bound=msgspec.Struct)
_PATHS: Final = ("repository", "index_dir", "key_file", "password_file", "queue")
_KINDS: Final = {
    "Expected": "expected",
    "str": "text",
    "int": "a number",
    "float": "a fraction",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""The words of msgspec, as somebody who writes TOML knows them."""

_OUTERMOST: Final = ("default_profile", "profiles")


class _File(msgspec.Struct):
    """One file, read: its own settings, its profiles, and which of them it prefers."""

    path: Path
    settings: Settings
    profiles: dict[str, Settings]
    default_profile: str | None


def load(*, config: str | None, profile: str | None, environ: Mapping[str, str]) -> Configuration:
    """The configuration of this run.

    config: the file of `--config` (which must exist), or None for the usual two (which need
    not). profile: the name of `--profile`. Raises UsageError, naming file and setting.
    """
    wanted = profile or environ.get("REPO_PROFILE") or None
    if config is not None:
        files = [_read(Path(config))]
    else:
        files = [_read(path) for path in (SYSTEM_FILE, user_file(environ)) if path.is_file()]
    settings = Settings()
    for file in files:
        settings = _over(file.settings, settings)
    origin = ", ".join(str(file.path) for file in files)
    if wanted is None:
        wanted = next((f.default_profile for f in reversed(files) if f.default_profile), None)
    if wanted is None:
        return Configuration(settings, origin)
    layers = [file.profiles[wanted] for file in files if wanted in file.profiles]
    if not layers:
        raise _no_profile(wanted, files)
    for layer in layers:
        settings = _over(layer, settings)
    return Configuration(settings, f"profile {wanted} of {origin}")


def user_file(environ: Mapping[str, str]) -> Path:
    """`~/.config/repo/config.toml`, or its place below XDG_CONFIG_HOME."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    return Path(base) / "repo" / "config.toml"


def _read(path: Path) -> _File:
    import tomllib  # most machines have no such file

    try:
        table = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UsageError(
            f"the configuration cannot be read: {error.strerror}",
            where=str(path),
            next_step="check --config",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration is not TOML: {error}", where=str(path)) from error
    own = {name: value for name, value in table.items() if name not in _OUTERMOST}
    profiles = table.get("profiles", {})
    if not isinstance(profiles, dict):
        raise UsageError("profiles: expected tables, [profiles.NAME]", where=str(path))
    default = table.get("default_profile")
    if not isinstance(default, str | None):
        raise UsageError("default_profile: expected the name of a profile", where=str(path))
    return _File(
        path,
        _settings(own, path, "", known=(*Settings.__struct_fields__, *_OUTERMOST)),
        {
            name: _settings(profile, path, f"profiles.{name}", known=Settings.__struct_fields__)
            for name, profile in profiles.items()
        },
        default,
    )


def _settings(table: Any, path: Path, place: str, *, known: tuple[str, ...]) -> Settings:
    if not isinstance(table, dict):
        raise UsageError(f"{place}: expected a table, [{place}]", where=str(path))
    _check_names(table, known, path, place)
    ingest = table.get("ingest")
    if isinstance(ingest, dict):
        below = f"{place}.ingest" if place else "ingest"
        _check_names(ingest, IngestSettings.__struct_fields__, path, below)
    try:
        settings = msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(_explain(error, place), where=str(path)) from error
    given = {name: _absolute(getattr(settings, name), path) for name in _PATHS}
    settings = msgspec.structs.replace(settings, **given)
    hooks = settings.ingest.hooks
    hooks = hooks if hooks == "off" else _absolute(hooks, path)
    rules = tuple(_absolute(name, path) for name in settings.ingest.exclude_from)
    return msgspec.structs.replace(
        settings, ingest=msgspec.structs.replace(settings.ingest, exclude_from=rules, hooks=hooks)
    )


def _check_names(table: Mapping[str, Any], known: tuple[str, ...], path: Path, place: str) -> None:
    for name in table:
        if name not in known:
            full = f"{place}.{name}" if place else name
            raise UsageError(
                f"unknown setting {full}",
                where=str(path),
                next_step=nearest(name, known),
            )


def nearest(name: str, known: tuple[str, ...]) -> str:
    """The advice for a mistyped name: the nearest known one, else all of them."""
    from difflib import get_close_matches

    matches = get_close_matches(name, known, n=1)
    if matches:
        return f"did you mean {matches[0]}?"
    return "known are " + ", ".join(known) if known else ""


def _explain(error: msgspec.ValidationError, place: str) -> str:
    """What msgspec says, "Expected `bool`, got `str` - at `$.ingest.tags[...]`", in our form."""
    what, _, at = str(error).partition(" - at `$.")
    name = at.rstrip("`").replace("[...]", "")
    full = ".".join(part for part in (place, name) if part)
    what = what.replace("`", " ").replace(" ,", " , ").replace("Invalid enum", "unknown")
    text = " ".join(_KINDS.get(word, word) for word in what.split())
    for theirs, ours in ((" | null", ""), (" | ", " or "), (" ,", ",")):
        text = text.replace(theirs, ours)
    return f"{full}: {text}"


def _absolute(name: str | None, file: Path) -> str | None:
    if name is None:
        return None
    return str(file.absolute().parent / Path(name).expanduser())


def _over(upper: _S, lower: _S) -> _S:
    """The settings of `upper`, and those of `lower` where `upper` is silent."""
    merged: dict[str, Any] = {}
    for field in msgspec.structs.fields(upper):
        mine, other = getattr(upper, field.name), getattr(lower, field.name)
        if isinstance(mine, msgspec.Struct):
            merged[field.name] = _over(mine, other)
        else:
            merged[field.name] = other if mine is None or mine == () else mine
    return type(upper)(**merged)


def _no_profile(wanted: str, files: list[_File]) -> UsageError:
    known = tuple(sorted({name for file in files for name in file.profiles}))
    where = ", ".join(str(file.path) for file in files) or "no configuration file was found"
    return UsageError(f"no profile {wanted}", where=where, next_step=nearest(wanted, known))
