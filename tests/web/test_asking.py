"""What the page asks of a training that runs: it is left as a request, and what is answered is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from keepstep.checkpointer import Preemption
from keepstep.run import Requests, Run
from tests.operations.runs import make_run
from tests.supervision.commands import until
from tests.web.conftest import Page, Start
from tests.web.runs import Trained, training


@contextmanager
def heeding(trained: Trained) -> Iterator[None]:
    """Steps that hear what is asked, as those of a real training do, until it is told to stop."""
    over = threading.Event()

    def step() -> None:
        checkpointer = trained.checkpointer
        while not over.wait(0.02):
            trained.step += 1
            told = checkpointer.heed(trained.step, 2_000)
            if checkpointer.stopping.take_save() or told:
                trained.save()
            if told:
                checkpointer.preempted = Preemption(told.why, trained.step, trained.step)
                checkpointer.close()
                return

    thread = threading.Thread(target=step)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ask(page: Page, what: object, status: int = 202) -> Any:
    return page.post(f"/api/runs/{page.key('a')}/ask", {"what": what}, status)


@contextmanager
def hearing(page: Page) -> Iterator[list[dict[str, Any]]]:
    """What the stream says of requests, as it comes."""
    heard: list[dict[str, Any]] = []
    over, open_ = threading.Event(), threading.Event()

    def listen() -> None:
        with (
            suppress(httpx.HTTPError),
            page.client.stream("GET", "/api/stream", params={"run": page.key("a")}, timeout=30) as stream,
        ):
            open_.set()
            name = ""
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                if line.startswith("data: ") and name == "asked":
                    heard.append(json.loads(line.removeprefix("data: ")))
                if over.is_set():
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    open_.wait(30)
    yield heard
    over.set()


def answered(run: Run) -> list[tuple[str, bool]]:
    return [(event["what"], event["done"]) for event in run.events.read() if event["event"] == "answered"]


def test_a_training_saves_and_stops_as_it_is_asked_to(start: Start, tmp_path: Path) -> None:
    with training(tmp_path / "root" / "a", "latest:5") as trained:
        run = trained.run
        page = start(tmp_path / "root", writable=True)
        with hearing(page) as heard:
            assert ask(page, "save") == {"what": "save"} == ask(page, "save"), "asked twice it is asked once"
            assert len(list((run.path / ".keepstep/requests").iterdir())) == 1
            with heeding(trained):
                until(lambda: any(one["state"] == "answered" for one in heard))
                assert [one["state"] for one in heard] == ["seen", "answered"]
                assert heard[-1]["done"] and heard[-1]["answer"] == f"saved as {run.checkpoints[-1].name}"
                assert ask(page, "stop") == {"what": "stop"}
                until(lambda: len(heard) == 4)
        assert heard[-1] | {"key": ""} == {
            "key": "", "what": "stop", "state": "answered", "done": True, "answer": "the training is stopped",
        }  # fmt: skip
        assert answered(Run.open(run.path)) == [("save", True), ("stop", True)]
        assert ask(page, "save", 409)["error"]["code"] == "nobody-trains"


def test_a_training_that_is_gone_before_it_has_seen_it(start: Start, tmp_path: Path) -> None:
    with training(tmp_path / "root" / "a", "latest:5") as trained:
        page = start(tmp_path / "root", writable=True)
        with hearing(page) as heard:
            ask(page, "stop")
            trained.end(None)
            until(lambda: heard and heard[-1]["state"] != "seen")
    assert heard[-1]["state"] == "unanswered" and "is gone, and has not answered" in heard[-1]["answer"]
    assert not Requests(Run.open(tmp_path / "root/a").store).waiting()


def test_a_page_that_only_reads_asks_for_nothing(start: Start, tmp_path: Path) -> None:
    with training(tmp_path / "root" / "a", "latest:5") as trained:
        page = start(tmp_path / "root")
        assert ask(page, "stop", 403)["error"]["code"] == "read-only"
        assert not Requests(trained.run.store).waiting()


@pytest.mark.parametrize("what", ["kill", 1, None, ["save"], {"save": 1}])
def test_what_is_no_request_is_refused(start: Start, tmp_path: Path, what: object) -> None:
    with training(tmp_path / "root" / "a", "latest:5") as trained:
        page = start(tmp_path / "root", writable=True)
        assert ask(page, what, 400)["error"]["code"] == "body"
        assert not Requests(trained.run.store).waiting()


def test_where_nobody_trains_there_is_nobody_to_ask(start: Start, tmp_path: Path) -> None:
    run = make_run(tmp_path / "root" / "a", {1: 0.5, 2: 0.3}, keep="all")
    page = start(tmp_path / "root", writable=True)
    assert ask(page, "stop", 409)["error"]["hint"]
    assert not Requests(run.store).waiting()


def test_a_forged_request_is_refused(start: Start, tmp_path: Path) -> None:
    with training(tmp_path / "root" / "a", "latest:5") as trained:
        page = start(tmp_path / "root", writable=True)
        address = f"/api/runs/{page.key('a')}/ask"
        for headers in (
            {},
            {"X-Keepstep-CSRF": "x"},
            {"Origin": "http://evil.example", "X-Keepstep-CSRF": page.about["csrf"]},
        ):
            assert page.client.post(address, json={"what": "stop"}, headers=headers).status_code == 403
        assert not Requests(trained.run.store).waiting()
