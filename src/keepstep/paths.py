"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading `~` or `~user` put in full; that of a user who isn't there stays as it is written.

    `Path.expanduser` raises RuntimeError for such a one; here it is a path like any other, which does not exist.
    """
    return Path(os.path.expanduser(os.fspath(path)))
