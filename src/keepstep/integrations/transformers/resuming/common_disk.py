"""Whether all ranks see one output_dir: asked once, before anything is read or written together."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from keepstep import layout
from keepstep.errors import SettingsError
from keepstep.snapshot.ranks import Ranks

SECONDS = 10.0
"""How long a rank looks for what rank 0 wrote: file systems of several nodes may show it late."""


def require_common(output_dir: Path, ranks: Ranks) -> None:
    """Raises SettingsError on all ranks where one does not see in its `output_dir` what rank 0 writes into its own."""
    if ranks.single:
        return
    name, word = ranks.agree(partial(_write, output_dir))
    try:
        ranks.together(partial(_look, output_dir, name, word, ranks.rank))
    finally:
        if ranks.leads:
            with suppress(OSError):
                (output_dir / name).unlink()


def _write(output_dir: Path) -> tuple[str, str]:
    """Write a word that nobody can guess; returns the file's name and the word."""
    name, word = f"{layout.META}/seen-by-all-{uuid.uuid4().hex}", uuid.uuid4().hex
    path = output_dir / name
    path.write_text(word, encoding="utf-8")
    return name, word


def _look(output_dir: Path, name: str, word: str, rank: int, *, sleep: Callable[[float], None] = time.sleep) -> None:
    until = time.monotonic() + SECONDS
    while not _sees(output_dir / name, word):
        if time.monotonic() > until:
            raise SettingsError(
                f"rank {rank}, on {os.uname().nodename}, does not see in {output_dir} what rank 0 writes there: a "
                "checkpoint of several processes is one directory, in which all of them write",
                hint="Put the output_dir on a file system that all nodes share, under one path, and give all "
                "processes the same (a time of day in its name may differ).",
            )
        sleep(0.2)


def _sees(path: Path, word: str) -> bool:
    with suppress(OSError):
        return path.read_text(encoding="utf-8") == word
    return False
