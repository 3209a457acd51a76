"""The janitor frees the bytes of removed checkpoints in the background, and is done when it is told to finish."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from keepstep.checkpointer import janitor as janitor_module
from keepstep.checkpointer.janitor import Janitor
from keepstep.checkpointer.priority import NICENESS, lower_priority
from keepstep.stores import LocalStore


def _trash(root: Path, name: str) -> Path:
    directory = root / name / "checkpoint-1"
    directory.mkdir(parents=True)
    for file in ("model.safetensors", "optimizer.pt"):
        (directory / file).write_bytes(b"x" * 1000)
    return directory


def test_what_is_disposed_of_is_gone_when_it_has_finished(tmp_path: Path) -> None:
    _trash(tmp_path, "a")
    _trash(tmp_path, "b")
    janitor = Janitor(LocalStore(tmp_path))
    janitor.dispose("a")
    janitor.dispose("b")
    janitor.finish()
    assert not list(tmp_path.iterdir())
    _trash(tmp_path, "c")
    janitor.dispose("c")
    janitor.finish()
    assert not list(tmp_path.iterdir()), "it works again after it has finished"


def test_finishing_skips_the_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _trash(tmp_path, "a")
    monkeypatch.setattr(janitor_module, "REST", 1e9)
    janitor = Janitor(LocalStore(tmp_path))
    janitor.dispose("a")
    done = threading.Thread(target=janitor.finish, daemon=True)
    done.start()
    done.join(20)
    assert not done.is_alive() and not (tmp_path / "a").exists()


def test_other_names_of_a_file_keep_its_bytes(tmp_path: Path) -> None:
    directory = _trash(tmp_path, "a")
    os.link(directory / "model.safetensors", tmp_path / "backup")
    with (directory / "optimizer.pt").open("rb") as reader:
        janitor = Janitor(LocalStore(tmp_path))
        janitor.dispose("a")
        janitor.finish()
        assert reader.read() == b"x" * 1000
    assert (tmp_path / "backup").read_bytes() == b"x" * 1000


def test_what_can_not_be_deleted_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _trash(tmp_path, "a")
    _trash(tmp_path, "b")
    delete = LocalStore.delete

    def refuse(self: LocalStore, path: str) -> None:
        if path.startswith("a"):
            raise PermissionError(path)
        delete(self, path)

    monkeypatch.setattr(LocalStore, "delete", refuse)
    janitor = Janitor(LocalStore(tmp_path))
    janitor.dispose("a")
    janitor.dispose("b")
    janitor.finish()
    assert (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_a_thread_of_low_priority_leaves_the_others_alone() -> None:
    found: list[int] = []

    def work() -> None:
        lower_priority()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [max(NICENESS, before)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
