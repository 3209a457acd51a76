"""What two ranks wrote, once for all tests and processes of a session: nobody changes it, who must copies it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.shards import written


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that `written.write` filled."""
    apart = "PYTEST_XDIST_WORKER" in os.environ
    root = (tmp_path_factory.getbasetemp().parent if apart else tmp_path_factory.getbasetemp()) / "shards"
    with FileLock(f"{root}.lock"):
        if not (root / "done").exists():
            written.write(root)
            (root / "done").touch()
    return root


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a run, or another directory of them, to where it may be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(shards / name, tmp_path / name))

    return copy
