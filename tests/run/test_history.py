"""The history of a run is written whatever the disk says, and read whatever is in it."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.run import History, Point
from keepstep.run import history as module
from keepstep.stores import LocalStore

FILE = layout.METRICS


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.make_directory(layout.META)
    return store


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def steps(store: LocalStore) -> list[int]:
    return [point.step for point in History(store).points]


def test_what_is_logged_is_read(store: LocalStore) -> None:
    history = History(store)
    assert history.begin(max_steps=9) == 1
    history.log(1, 0.5, {"loss": 2.5, "lr": 1e-5})
    history.log(2, None, {"eval_loss": math.nan, "high": math.inf, "low": -math.inf})
    history.end("finished")
    again = History(store)
    assert again.begin(from_step=1, from_generation=7, timeline=3) == 2
    again.end("failed")

    read = History(store)
    first, second = read.read().points

    assert (first.attempt, first.step, first.epoch, first.values) == (1, 1, 0.5, {"loss": 2.5, "lr": 1e-5})
    assert (second.epoch, second.values["high"], second.values["low"]) == (None, math.inf, -math.inf)
    assert math.isnan(second.values["eval_loss"])
    one, two = read.attempts
    assert (one.number, one.from_step, one.max_steps, one.ended) == (1, None, 9, "finished")
    assert (two.number, two.from_step, two.from_generation, two.timeline, two.ended) == (2, 1, 7, 3, "failed")
    for line in store.local_path(FILE).read_text().split():
        json.loads(line, parse_constant=pytest.fail)


def test_reading_again_takes_what_was_added(store: LocalStore) -> None:
    writer, reader = History(store), History(store)
    assert reader.read().points == []
    writer.begin()
    writer.log(1, None, {"loss": 1.0})
    assert [point.step for point in reader.read().points] == [1]
    assert reader.attempts[0].ended is None
    writer.log(2, None, {"loss": 1.0})
    writer.end("finished")
    news = reader.read()
    assert (news.anew, [point.step for point in news.points]) == (False, [2])
    assert reader.attempts[0].ended == "finished"
    store.delete(FILE)
    assert reader.read() == module.News(True, [])
    assert reader.attempts == ()


def test_a_line_that_a_crash_tore_spoils_nothing(store: LocalStore) -> None:
    first = History(store)
    first.begin()
    first.log(1, None, {"loss": 1.0})
    first.log(2, None, {"loss": 1.0})
    path = store.local_path(FILE)
    os.truncate(path, path.stat().st_size - 20)

    second = History(store)
    assert second.begin(from_step=1) == 2
    second.log(2, None, {"loss": 3.0})

    read = History(store)
    assert [(p.attempt, p.step) for p in read.read().points] == [(1, 1), (2, 2)]
    assert [attempt.number for attempt in read.attempts] == [1, 2]


def test_foreign_lines_are_passed_over(store: LocalStore) -> None:
    good = {"kind": "point", "attempt": 4, "step": 3, "epoch": None, "time": 1.0, "values": {"loss": 1}}
    bad = [
        {**good, "step": -1}, {**good, "step": 2**60}, {**good, "step": 1.5}, {**good, "attempt": None},
        {**good, "time": 1e300}, {**good, "values": {"loss": []}}, {**good, "kind": "later"}, {}, [],
        {"kind": "begin", "attempt": 5, "started": "2026-01-01", "from_step": None, "from_generation": None},
        {"kind": "end", "attempt": 6, "ended": "exploded", "time": 1},
    ]  # fmt: skip
    lines = [json.dumps(line).encode() for line in (*bad, good)]
    store.append(FILE, b"\n".join([b"\xff\x00", b"NaN", b"[" * 100_000, *lines, b'{"half']), durable=False)
    store.append(FILE, b"\n", durable=False)

    read = History(store)

    assert [point.step for point in read.read().points] == [3]
    # Nobody said where attempt 4 went on from; it did not begin after its own first point.
    assert [(attempt.number, attempt.from_step) for attempt in read.attempts] == [(4, 2)]


@pytest.mark.parametrize("room", range(0, 420, 7))
def test_a_full_disk_keeps_lines_waiting_whole_and_once(
    store: LocalStore, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(store)
    with largest_file(room):
        history.begin()
        for step in range(1, 4):
            history.log(step, None, {"loss": step / 3})
    assert len(caplog.messages) == 1
    assert "wait in memory" in caplog.messages[0]
    history.log(4, None, {"loss": 4.0})

    assert steps(store) == [1, 2, 3, 4]
    history.end("finished")
    read = History(store)
    read.read()
    assert [attempt.ended for attempt in read.attempts] == ["finished"]


def test_a_line_that_lacks_its_end_alone_is_not_written_again(tmp_path: Path) -> None:
    for room in range(420):
        store = LocalStore(tmp_path / str(room))
        store.make_directory(layout.META)
        history = History(store)
        with largest_file(room):
            history.begin()
            for step in range(1, 4):
                history.log(step, None, {"loss": step / 3})
        history.log(4, None, {"loss": 4.0})
        assert steps(store) == [1, 2, 3, 4], room


def test_what_waits_is_bounded(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    history = History(store)
    with largest_file(0):
        history.begin()
        for step in range(9):
            history.log(step, None, {"loss": 1.0})
    history.end("finished")
    assert steps(store) == [0, 1]
    # What is full at the end is not held on to.
    with largest_file(store.local_path(FILE).stat().st_size):
        history.begin()
        history.end("failed")
    assert steps(store) == [0, 1]


@pytest.mark.parametrize("kind", ["pipe", "link", "directory", "unwritable place"])
def test_what_can_not_be_written_hurts_nobody(store: LocalStore, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = store.local_path(FILE)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/full")
    elif kind == "directory":
        path.mkdir()
    else:
        store.delete(layout.META)
    history = History(store)
    history.begin()
    history.log(1, None, {"loss": 1.0})
    history.end("finished")
    assert len(caplog.messages) == 1


def test_one_write_a_line(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(store)
    history.begin()
    written: list[bytes] = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: written.append(bytes(data)) or real(file, data))
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("the file is open already"))
    monkeypatch.setattr(os, "fsync", lambda *_: pytest.fail("nothing is synced"))
    for step in (1, 2):
        history.log(step, None, {"loss": 1.0})
    assert [json.loads(line)["step"] for line in written] == [1, 2]
    assert all(line.endswith(b"}\n") for line in written)


def test_points_are_values() -> None:
    assert Point(1, 2, None, 0.0, {"a": 1.0}) == Point(1, 2, None, 0.0, {"a": 1.0})


def test_no_line_is_blank(tmp_path: Path) -> None:
    """One attempt after the other; only what a kill tore is given an end of its own."""
    store = LocalStore(tmp_path)
    store.make_directory(".keepstep")
    path = tmp_path / ".keepstep" / "metrics.jsonl"
    for step in (1, 2):
        history = History(store)
        history.begin()
        history.log(step, None, {"loss": 1.0})
        history.end("finished")
    assert all(path.read_bytes().splitlines()), "a blank line"
    path.write_bytes(path.read_bytes() + b'{"torn')
    history = History(store)
    history.begin()
    history.log(3, None, {"loss": 1.0})
    history.end(None)
    assert [point.step for point in History(store).points] == [1, 2, 3]
    assert all(path.read_bytes().splitlines())
