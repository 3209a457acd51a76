"""Changes as they happen: what a stream tells, when it ends, and that nobody looks while nobody listens."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keepstep.web import stream
from keepstep.web.view import RunView
from tests.operations.runs import make_run
from tests.web.conftest import Page, Start
from tests.web.runs import damaged, finished, rewound, training

Events = Iterator[tuple[str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(stream, "ROOT_POLL_SECONDS", 0.02)
    monkeypatch.setattr("keepstep.web.sources.FRESH_SECONDS", 0.0)


@contextmanager
def listening(page: Page, key: str | None = None) -> Iterator[Events]:
    """An open stream whose watchers have had their first look."""
    query = {} if key is None else {"run": key}
    with page.client.stream("GET", "/api/stream", params=query) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        events = parsed(answer.iter_lines())
        wanted = {stream.ALL, *query.values()}
        until(lambda: page.server.hub.watched >= wanted)
        time.sleep(0.3)
        yield events


def parsed(lines: Iterator[str]) -> Events:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def first(events: Events, name: str, part: str | None = None) -> dict[str, Any]:
    return next(data for event, data in events if event == name and (part is None or part in data["changed"]))


def test_a_training_is_followed_point_by_point_and_save_by_save(start: Start, tmp_path: Path) -> None:
    with training(tmp_path / "root" / "a") as trained:
        trained.go(100)
        page = start(tmp_path / "root")
        key = page.key("a")
        with listening(page, key) as events:
            trained.go(150, nan_at=120)
            points = [data for _, data in zip(range(5), (d for e, d in events if e == "points"), strict=False)]
            assert [point["step"] for point in points] == [110, 120, 130, 140, 150]
            assert points[1]["values"]["loss"] is None and points[1]["odd"] == {"loss": "NaN"}
            assert points[0]["odd"] == {} and points[0]["values"]["loss"] > 0
            assert {point["key"] for point in points} == {key}
            trained.go(200)
            changed = first(events, "run", "checkpoints")
            assert {"checkpoints", "disk"} <= set(changed["changed"]) and changed["key"] == key
            assert page.get(f"/api/runs/{key}")["latest"]["step"] == 200
            trained.run.pin_board.pin(1)
            first(events, "run", "checkpoints")


def test_what_is_removed_from_aside_changes_the_disk(start: Start, tmp_path: Path) -> None:
    run = rewound(tmp_path / "root" / "a")
    page = start(tmp_path / "root")
    with listening(page, page.key("a")) as events, run.writing():
        run.remove(run.aside[0], "asked for")
        told = first(events, "run", "events")
        assert "disk" in told["changed"] and "checkpoints" not in told["changed"]


def test_the_end_of_a_training_is_told(start: Start, tmp_path: Path) -> None:
    page = None
    with training(tmp_path / "root" / "a") as trained:
        trained.go(100)
        page = start(tmp_path / "root")
        key = page.key("a")
        stack = listening(page, key)
        events = stack.__enter__()
    first(events, "run", "in_flight")
    assert page.get(f"/api/runs/{key}")["state"] == "killed"
    stack.__exit__(None, None, None)


def test_a_root_that_gains_and_loses_a_run_tells_so(start: Start, tmp_path: Path) -> None:
    make_run(tmp_path / "root" / "a", {1: 0.5})
    page = start(tmp_path / "root")
    with listening(page) as events:
        make_run(tmp_path / "root" / "b", {1: 0.5})
        assert len(first(events, "runs")["keys"]) == 2
        shutil.rmtree(tmp_path / "root" / "b")
        assert len(first(events, "runs")["keys"]) == 1


def test_a_run_that_vanishes_and_comes_back_is_told(start: Start, tmp_path: Path) -> None:
    run = make_run(tmp_path / "root" / "a", {1: 0.5})
    page = start(tmp_path / "root")
    with listening(page, page.key("a")) as events:
        run.path.rename(tmp_path / "elsewhere")
        gone = first(events, "run", "problem")
        assert "gone" in gone["problem"]
        (tmp_path / "elsewhere").rename(run.path)
        assert "checkpoints" in first(events, "run")["changed"]


def test_a_verification_is_told_when_it_is_done(start: Start, tmp_path: Path) -> None:
    run = damaged(tmp_path / "root" / "a")
    page = start(tmp_path / "root")
    key = page.key("a")
    generations = [one.generation for one in run.checkpoints]
    with listening(page, key) as events:
        for generation, ok in ((generations[1], False), (generations[2], True)):
            page.post(f"/api/runs/{key}/verify", {"generation": generation}, 202)
            told = first(events, "verified")
            assert (told["key"], told["generation"], told["ok"]) == (key, generation, ok)
            assert bool(told["problems"]) is not ok
        page.post(f"/api/runs/{key}/verify", {"generation": 99}, 404)
    assert [event["ok"] for event in run.events.read() if event["event"] == "verified"][-2:] == [False, True]


def test_a_verification_of_what_goes_meanwhile_is_told_too(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "root" / "a", {1: 0.5})
    page = start(tmp_path / "root")
    key = page.key("a")
    real = page.get(f"/api/runs/{key}")
    assert real["checkpoints"]
    monkeypatch.setattr("keepstep.web.actions.open_run", lambda path: shutil.rmtree(path) or run)
    with listening(page, key) as events:
        page.post(f"/api/runs/{key}/verify", {"generation": 1}, 202)
        told = first(events, "verified")
        assert told["ok"] is None and "gone" in told["error"]


def test_nobody_looks_while_nobody_listens(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    real = RunView.stamps
    monkeypatch.setattr(RunView, "stamps", lambda view: looks.append(view) or real(view))
    run = finished(tmp_path / "root" / "a", steps=200)
    page = start(tmp_path / "root")
    key, hub = page.key("a"), page.server.hub
    assert hub.watched == frozenset()
    with listening(page, key), listening(page, key):
        assert hub.watched == {stream.ALL, key}
    until(lambda: hub.watched == frozenset())
    time.sleep(0.2)
    count = len(looks)
    time.sleep(0.5)
    assert len(looks) == count > 1
    with listening(page, key) as events:  # and it works again
        run.pin_board.pin(1)
        first(events, "run", "checkpoints")
    until(lambda: hub.watched == frozenset())


def test_a_silent_stream_is_kept_alive(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.05)
    make_run(tmp_path / "root" / "a", {1: 0.5})
    page = start(tmp_path / "root")
    with page.client.stream("GET", "/api/stream") as answer:
        assert next(line for line in answer.iter_lines() if line.startswith(":")) == ": ping"


def test_a_stream_of_an_unknown_run_is_refused(start: Start, tmp_path: Path) -> None:
    make_run(tmp_path / "root" / "a", {1: 0.5})
    assert start(tmp_path / "root").client.get("/api/stream", params={"run": "nothing"}).status_code == 404


def test_too_many_streams_are_refused(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_LISTENERS", 1)
    make_run(tmp_path / "root" / "a", {1: 0.5})
    page = start(tmp_path / "root")
    with listening(page):
        assert page.client.get("/api/stream").status_code == 503
    until(lambda: page.server.hub.watched == frozenset())
    with listening(page):
        pass


def test_a_listener_that_is_far_behind_is_told_to_look_at_everything() -> None:
    listener = stream.Listener()
    for number in range(stream.MOST_WAITING + 1):
        listener.put(("points", number))
    assert listener.queue.get_nowait() == ("behind", {}) and listener.queue.empty()


def test_the_server_ends_at_once_with_streams_open(start: Start, tmp_path: Path) -> None:
    make_run(tmp_path / "root" / "a", {1: 0.5})
    page = start(tmp_path / "root")
    with listening(page, page.key("a")) as events:
        page.server.stop()
        assert list(events) == []
