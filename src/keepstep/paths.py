"""Paths as people write them, and the directory where what was read may be kept."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading `~` or `~user` put in full; that of a user who isn't there stays as it is written.

    `Path.expanduser` raises RuntimeError for such a one; here it is a path like any other, which does not exist.
    """
    return Path(os.path.expanduser(os.fspath(path)))


NO_CACHE = "KEEPSTEP_NO_CACHE"
"""Environment variable that keeps nothing."""


def cache_home() -> Path | None:
    """`$XDG_CACHE_HOME/keepstep`, or `~/.cache/keepstep`; None without a home, or where `KEEPSTEP_NO_CACHE` is set."""
    if os.environ.get(NO_CACHE, "") not in ("", "0"):
        return None
    given = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored: XDG Base Directory Specification.
    base = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    return Path(base, "keepstep") if os.path.isabs(base) else None
