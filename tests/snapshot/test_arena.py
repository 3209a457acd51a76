"""One buffer for all saves: its size, its limit, and taking it ahead."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("torch")

from keepstep.formats.memory import PAGE, address
from keepstep.snapshot import arena as arena_module
from keepstep.snapshot.arena import Arena, ArenaTooSmallError, available_memory


def test_what_is_reserved_is_large_enough_aligned_and_used_again() -> None:
    arena = Arena(10 * PAGE)
    first = arena.reserve(PAGE + 1)
    assert first.nbytes == 2 * PAGE and address(first) % PAGE == 0
    assert address(arena.reserve(2 * PAGE)) == address(first)
    assert arena.reserve(3 * PAGE).nbytes == arena.size == 3 * PAGE


def test_a_limit_holds() -> None:
    arena = Arena(PAGE)
    with pytest.raises(ArenaTooSmallError, match="8,192 bytes, the copy of it may take 4,096"):
        arena.reserve(2 * PAGE)
    assert arena.reserve(PAGE).nbytes == PAGE


def test_without_a_limit_half_of_what_is_free_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_memory() < 2**60
    monkeypatch.setattr(arena_module, "available_memory", lambda: 4 * PAGE)
    arena = Arena()
    assert arena.reserve(2 * PAGE).nbytes == 2 * PAGE
    with pytest.raises(ArenaTooSmallError):
        arena.reserve(2 * PAGE + 1)


def test_what_is_prepared_is_there_when_it_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that comes while the memory is still being taken waits for it, and does not take it twice."""
    begun, taken, touch = threading.Event(), [], arena_module.touch

    def touch_slowly(view: memoryview) -> None:
        taken.append(threading.current_thread().name)
        begun.set()
        time.sleep(0.1)
        touch(view)

    monkeypatch.setattr(arena_module, "touch", touch_slowly)
    arena = Arena(4 * PAGE)
    arena.prepare(3 * PAGE)
    assert begun.wait(10)
    assert arena.reserve(2 * PAGE).nbytes == 3 * PAGE
    assert taken == ["keepstep-arena"]


def test_preparing_more_than_the_limit_does_nothing() -> None:
    arena = Arena(PAGE)
    arena.prepare(2 * PAGE)
    assert arena.reserve(PAGE).nbytes == PAGE
