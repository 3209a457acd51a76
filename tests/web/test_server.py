"""The server as a whole: its link, its files, its port, its end, and a disk that hangs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from keepstep import web
from keepstep.operations.seeing.finding import NoDirectory
from keepstep.retention.rules import rule_classes
from keepstep.web import api, lane
from keepstep.web.files import Files
from keepstep.web.server import PageServer, PortTaken
from tests.operations.runs import make_run
from tests.web.conftest import Start


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_run(tmp_path / "runs" / "a", {1: 0.5})
    make_run(tmp_path / "runs" / "b", {1: 0.5})
    return tmp_path / "runs"


def test_the_page_and_its_files(start: Start, root: Path, files: Files) -> None:
    client = start(root, files=files).client
    page = client.get("/")
    assert page.text == "<!doctype html><title>page</title>" and page.headers["content-type"].startswith("text/html")
    script = client.get("/static/js/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["content-encoding"] == "gzip"
    tag = script.headers["etag"]
    assert client.get("/static/js/main.js", headers={"If-None-Match": tag}).status_code == 304
    assert client.head("/static/js/main.js").status_code == 200
    assert client.get("/static/nothing.js").json()["error"]["code"] == "not-found"
    assert client.get("/nothing").status_code == 404


def test_a_file_that_changes_is_read_again(start: Start, root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "index.html").write_text("one")
    client = start(root, files=Files(home)).client
    assert client.get("/").text == "one"
    (home / "index.html").write_text("another")
    assert client.get("/").text == "another"
    (home / "index.html").unlink()
    assert client.get("/").status_code == 404


def test_a_port_that_is_taken_is_told(root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} of this machine is in use"):
            PageServer([root], port=port)


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoDirectory):
        PageServer([tmp_path / "nothing"])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_on_a_signal_with_a_stream_open(root: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "keepstep", "ui", str(root), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        link = process.stdout.readline().strip()
        with httpx.Client(timeout=20, trust_env=False) as client:
            client.get(link)
            with client.stream("GET", link.partition("?")[0] + "api/stream") as answer:
                assert next(answer.iter_lines()).startswith("retry")
                process.send_signal(how)
                began = time.monotonic()
                code = process.wait(20)
                # Not how long it takes on this machine, but that no stream, and no grace for one, is waited for.
                assert time.monotonic() - began < 10
        assert code == (0 if how is signal.SIGINT else -how)
        assert process.stderr.read() == ""


class Hung:
    """A file system that does not answer until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, *_: object) -> None:
        self.go.wait(60)


def test_a_run_on_a_disk_that_hangs_holds_up_no_other(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, hung = start(root), Hung()
    keys = {name: page.key(name) for name in "ab"}
    real = lane.Lane.call

    async def call(self: lane.Lane, function: object, patience: float = 0.0) -> object:
        return await real(self, hung if self._what.endswith("/a") else function, 0.2)  # type: ignore[arg-type]

    monkeypatch.setattr(lane.Lane, "call", call)
    monkeypatch.setattr(api, "ROW_PATIENCE", 0.2)
    rows = {run["name"]: run for run in page.get("/api/runs")["runs"]}
    assert rows["b"]["state"] != "damaged" and rows["b"]["problem"] is None
    assert rows["a"]["state"] == "damaged" and "has not answered" in rows["a"]["problem"]
    assert page.get(f"/api/runs/{keys['a']}", 504)["error"]["code"] == "no-answer"
    assert page.get(f"/api/runs/{keys['b']}")["step"] == 1
    # Once it is known to hang, nobody waits for it again.
    monkeypatch.setattr(lane, "PATIENCE_SECONDS", 0.0)
    assert page.get(f"/api/runs/{keys['a']}", 504)["error"]["code"] == "no-answer"
    hung.go.set()
    monkeypatch.undo()
    for _ in range(100):
        if page.client.get(f"/api/runs/{keys['a']}").status_code == 200:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not come back")


def test_the_page_names_every_rule() -> None:
    page = (Path(web.__file__).parent / "static" / "js" / "views" / "policy.js").read_text()
    table = page[page.index("const RULES") : page.index("const ACTIONS")]
    assert [word for word in rule_classes() if not re.search(rf'["\s]{word}[":]', table)] == []
