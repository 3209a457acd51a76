"""The directory that an export is made in, and what becomes of one whose process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep.operations.export import workplace as place
from keepstep.operations.export.workplace import workplace

KILLED = """
import os, signal, sys
from pathlib import Path
from keepstep.operations.export.workplace import workplace
with workplace(Path(sys.argv[1])) as directory:
    (directory / "half.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _kill_one(target: Path) -> Path:
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = target.parent.glob(".*.exporting")
    return left


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "YOUNG", 0.0)
    target = tmp_path / "out[1]"
    left = _kill_one(target)
    (tmp_path / ".out[1].notes.exporting").mkdir()
    (tmp_path / ".other.0123456789ab.exporting").mkdir()
    with workplace(target) as directory:
        assert not left.exists()
        directory.rename(target)
    assert _left(tmp_path) == [".other.0123456789ab.exporting", ".out[1].notes.exporting", "out[1]"]


def test_one_that_is_being_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "YOUNG", 0.0)
    with workplace(tmp_path / "out") as first:
        with workplace(tmp_path / "out") as second:
            assert first.is_dir() and second.is_dir()
        assert first.is_dir()
    assert _left(tmp_path) == []


def test_a_young_one_may_not_be_locked_yet(tmp_path: Path) -> None:
    left = _kill_one(tmp_path / "out")
    with workplace(tmp_path / "out"):
        assert left.is_dir()
