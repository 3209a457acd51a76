"""A quick place for tiny runs: what a kill leaves does not depend on the disk, and there are thousands of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory in memory where there is one."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="keepstep-campaign-", dir=memory))
    yield made
    shutil.rmtree(made, ignore_errors=True)
