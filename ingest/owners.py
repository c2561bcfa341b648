"""Owners: the names that this machine has for the numbers met in a source."""

from __future__ import annotations

import grp
import pwd


def owner_names(owners: set[tuple[int, int]]) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the numbers met, as this machine knows them."""
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    for uid in {uid for uid, _ in owners}:
        try:
            users[str(uid)] = pwd.getpwuid(uid).pw_name
        except KeyError:
            continue
    for gid in {gid for _, gid in owners}:
        try:
            groups[str(gid)] = grp.getgrgid(gid).gr_name
        except KeyError:
            continue
    return users, groups
