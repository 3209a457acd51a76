"""The event log survives torn lines, foreign lines, and writers beside each other."""

from __future__ import annotations

import logging
import math
import multiprocessing
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.run.events import EventLog
from keepstep.stores import LocalStore
from keepstep.stores.memory import MemoryStore
from keepstep.testing.faults import Fault, FaultyStore, Injector


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.make_directory(layout.META)
    return store


def test_events_come_back_in_order_with_their_fields(store: LocalStore) -> None:
    log = EventLog(store)
    assert list(log.read()) == []
    log.append("committed", step=4, generation=1, metrics={"loss": 0.5})
    log.append("removed", step=4, generation=1, reason="not\na best")
    assert [(e["event"], e["step"]) for e in log.read()] == [("committed", 4), ("removed", 4)]
    assert [e.get("reason") for e in log.read()] == [None, "not\na best"]


def test_a_line_torn_at_any_byte_spoils_neither_its_neighbours(store: LocalStore) -> None:
    log = EventLog(store)
    log.append("committed", generation=1)
    whole = store.read(layout.EVENTS, limit=10_000)
    log.append("committed", generation=2)
    line = store.read(layout.EVENTS, limit=10_000)[len(whole) :]
    for length in range(len(line)):
        store.delete(layout.EVENTS)
        store.append(layout.EVENTS, whole + line[:length], durable=False)
        log.append("committed", generation=3)
        found = [event["generation"] for event in log.read()]
        assert found in ([1, 3], [1, 2, 3])
        assert (2 in found) == (length >= len(line) - 1)


@pytest.mark.parametrize(
    "junk",
    [b"\0" * 5000, b"[" * 200_000, b"null", b"{}", b'{"event": 3}', b"\xff\xfe", b"x" * 3_000_000],
    ids=["zeros", "deep", "null", "empty", "no name", "no utf-8", "longer than a piece"],
)
def test_foreign_lines_are_passed_over(store: LocalStore, junk: bytes) -> None:
    log = EventLog(store)
    log.append("committed", generation=1)
    store.append(layout.EVENTS, junk, durable=False)
    log.append("committed", generation=2)
    assert [event["generation"] for event in log.read()] == [1, 2]
    assert log.last_generation() == 2


def test_late_metrics_join_and_the_last_one_wins(store: LocalStore) -> None:
    log = EventLog(store)
    log.append("metrics", generation=1, metrics={"loss": 0.5, "acc": 1})
    log.append("metrics", generation=2, metrics={"loss": math.nan, "high": math.inf, "low": -math.inf})
    log.append("metrics", generation=1, metrics={"loss": 0.25})
    late = log.late_metrics()
    assert late[1] == {"loss": 0.25, "acc": 1.0}
    assert math.isnan(late[2]["loss"])
    assert (late[2]["high"], late[2]["low"]) == (math.inf, -math.inf)


def test_a_metric_that_is_no_number_is_passed_over(store: LocalStore) -> None:
    log = EventLog(store)
    log.append("metrics", generation=1, metrics={"loss": 0.5, "name": "good", "none": None, "list": [1]})
    log.append("metrics", generation="1", metrics={"loss": 9})
    log.append("metrics", generation=1, metrics=[9])
    assert log.late_metrics() == {1: {"loss": 0.5}}


def test_the_last_verification_decides_what_is_damaged(store: LocalStore) -> None:
    log = EventLog(store)
    log.append("verified", generation=1, ok=False)
    log.append("verified", generation=2, ok=False)
    log.append("verified", generation=2, ok=True)
    log.append("verified", generation=3, ok=False)
    log.append("committed", generation=3)
    assert log.damaged() == {1}


def append_many(root: Path, writer: int) -> None:
    log = EventLog(LocalStore(root))
    for number in range(100):
        log.append("committed", generation=writer * 1000 + number, padding="x" * 300)


def test_processes_that_append_at_once_lose_no_line(store: LocalStore) -> None:
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=append_many, args=(store.root, number)) for number in range(4)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    found = [event["generation"] for event in EventLog(store).read()]
    assert sorted(found) == [writer * 1000 + number for writer in range(4) for number in range(100)]


def test_a_disk_that_fails_loses_a_note_with_a_warning_and_raises_for_the_rest(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(FaultyStore(store.root, Injector(Fault(1, sticky=True))))
    with caplog.at_level(logging.WARNING, "keepstep"):
        log.append("committed", generation=1)
    assert "missed 'committed'" in caplog.text
    with pytest.raises(OSError, match="Input/output"):
        log.append("metrics", generation=1, metrics={})


def test_durable_events_survive_a_power_cut() -> None:
    store = MemoryStore()
    store.make_directory(layout.META)
    log = EventLog(store)
    log.append("metrics", generation=1, metrics={"loss": 1.0})
    log.append("committed", generation=2)
    assert [event["event"] for event in EventLog(store.crash()).read()] == ["metrics"]
    assert [event["event"] for event in EventLog(store.crash(lambda _: True)).read()] == ["metrics", "committed"]
