"""A small disk: a file system of its own with room for a few checkpoints, where the machine lets one be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096
"""Bytes in which a file system in memory gives out its room."""


@contextmanager
def small_disk(where: Path, size_bytes: int) -> Generator[Path]:
    """An empty tmpfs at `where`, which is made; skips the test where mounting is not allowed, as it is to root."""
    where.mkdir()
    options = f"size={pages(size_bytes)}"
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], capture_output=True, check=False
        ).returncode
    except OSError:
        done = 1
    if done != 0:
        pytest.skip("a small file system can't be mounted here; that takes Linux and root")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def pages(size_bytes: int) -> int:
    """Bytes that a file of this size takes."""
    return -(-size_bytes // PAGE) * PAGE
