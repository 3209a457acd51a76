"""A real server in a thread, a client that has its cookie, and no waiting for the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from keepstep.web.files import Files
from keepstep.web.server import PageServer
from tests.web.windows import chromium, look, shown  # noqa: F401 - fixtures of the browser tests

Start = Callable[..., "Page"]


class Page:
    """A running server: its address, and a client that was let in."""

    def __init__(self, server: PageServer) -> None:
        self.server = server
        self.base = f"http://127.0.0.1:{server.port}"
        self.token = server.link.partition("token=")[2]
        # Certificates, which take a while to read, have no part in plain HTTP.
        self.client = httpx.Client(base_url=self.base, timeout=30, trust_env=False, verify=False)
        self.client.get("/", params={"token": self.token})

    def get(self, address: str, status: int = 200, **query: object) -> object:
        """The JSON of an answer, after its status was checked."""
        answer = self.client.get(address, params={name: str(value) for name, value in query.items()})
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, address: str, body: object, status: int = 200) -> object:
        """The JSON of an answer to a POST as the page sends it."""
        csrf = self.about["csrf"]
        answer = self.client.post(address, json=body, headers={"X-Keepstep-CSRF": csrf})
        assert answer.status_code == status, answer.text
        return answer.json()

    @property
    def about(self) -> dict[str, str]:
        """What the server says of itself."""
        return self.client.get("/api/about").json()

    def key(self, name: str) -> str:
        """The key of a run by its name in the list."""
        return {run["name"]: run["key"] for run in self.client.get("/api/runs").json()["runs"]}[name]


def stranger_get(address: str, **options: Any) -> httpx.Response:
    """What a client gets that was not let in."""
    return httpx.get(address, trust_env=False, verify=False, **options)


@contextmanager
def serving(*places: Path, **options: object) -> Iterator[Page]:
    """A server of these places in a thread of its own."""
    server = PageServer(list(places), **options)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        page = Page(server)
        with closing(page.client):
            yield page
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server of these places; it ends with the test."""
    with ExitStack() as stack:
        yield lambda *places, **options: stack.enter_context(serving(*places, **options))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Files of a page, among them some that must not be served."""
    base = tmp_path_factory.mktemp("files")
    home = base / "page"
    (home / "js").mkdir(parents=True)
    (home / "index.html").write_text("<!doctype html><title>page</title>")
    (home / "js" / "main.js").write_text("'use strict';\n" + "// some words of the page\n" * 400)
    (home / "NOTICE").write_text("no file of the page")
    (base / "secret.txt").write_text("a secret")
    (home / "link.txt").symlink_to(base / "secret.txt")
    return Files(home)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.stores.local.os.fsync", os.fstat)
