"""A real Chromium that looks at a real `keepstep ui`: starting both, going to a view, reading what it drew."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright

REPOSITORY = Path(__file__).parents[2]
ARTEFACTS = REPOSITORY / "build"
SCREENSHOTS = ARTEFACTS / "screenshots"
REQUIRED = "KEEPSTEP_REQUIRE_BROWSER"
WIDE, PHONE = (1280, 860), (390, 844)
PICTURES = "KEEPSTEP_TEST_PICTURES"
"""Set to 1, the tests keep pictures of what they look at."""
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
"""For root in a container, which may have no room in /dev/shm."""
PATIENCE_MS = 60_000
"""For what takes a second where nothing else runs: a machine may be as busy as it likes."""
DRAWN = ".chart-focus[data-drawn=yes]"


def find_chromium() -> str:
    """The path of an installed Chromium; skips the test where there is none, fails where one is required."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        why = "no chromium is installed (Debian: apt-get install chromium)"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but {why}")
        pytest.skip(why)
    return found


def launch(playwright: Playwright) -> Browser:
    """The browser, without a window."""
    return playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS, timeout=PATIENCE_MS)


@dataclass
class Ui:
    """A `keepstep ui` process, its link, and the keys of its runs by name.

    Of one that is `shared` by tests, one window is too: most of what a window costs is the loading of the page.
    """

    process: subprocess.Popen[str]
    link: str
    windows: list[Page] = field(default_factory=list)
    shared: bool = False
    window: Eyes | None = None

    @property
    def base(self) -> str:
        """The address of the page without its token."""
        return self.link.partition("?")[0]

    def keys(self) -> dict[str, str]:
        """The key of each run by its name."""
        with httpx.Client(base_url=self.base, timeout=30, trust_env=False, verify=False) as client:
            client.get("/", params={"token": self.link.partition("token=")[2]})
            return {run["name"]: run["key"] for run in client.get("/api/runs").json()["runs"]}

    def stop(self) -> None:
        """End the server as Ctrl-C does."""
        self.process.terminate()
        self.process.wait(timeout=20)
        if self.process.stdout:
            self.process.stdout.close()


def start(*arguments: str | Path) -> Ui:
    """Start a server on these directories; returns when it printed its link."""
    command = [sys.executable, "-m", "keepstep", "ui", *map(str, arguments), "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    link = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S+", link), link
    return Ui(process, link)


@contextmanager
def serving(*arguments: str | Path, shared: bool = False) -> Iterator[Ui]:
    """A server for as long as the block runs."""
    ui = start(*arguments)
    ui.shared = shared
    try:
        yield ui
    finally:
        # Windows go first: what they ask for meanwhile would find nobody.
        for window in ui.windows:
            window.close()
        ui.stop()


@dataclass
class Eyes:
    """One browser window; it remembers what the console said and which hosts were asked.

    `expected` are patterns of console errors that a test causes on purpose.
    """

    context: BrowserContext
    page: Page
    ui: Ui
    console: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    expected: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        browser: Browser,
        ui: Ui,
        *,
        size: tuple[int, int] = WIDE,
        scheme: str = "light",
        zone: str = "UTC",
        **more: Any,
    ) -> Eyes:
        """A fresh window that came in by the link."""
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            locale="en-GB",
            timezone_id=zone,
            **more,
        )  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        eyes = cls(context, page, ui)
        ui.windows.append(page)
        page.on("console", eyes._heard)
        page.on("pageerror", lambda error: eyes.console.append(f"error: {error}"))
        page.on("request", lambda request: eyes.hosts.add(urlsplit(request.url).netloc))
        page.goto(ui.link)
        page.wait_for_selector("main[aria-busy=false]")
        return eyes

    def anew(self) -> None:
        """The window as it was in the beginning: its size and scheme, nothing remembered, at the list of runs."""
        self.turn(WIDE, "light")
        self.page.mouse.move(0, 0)
        self.page.evaluate("localStorage.clear(), delete document.documentElement.dataset.theme")
        self.visit("#/runs")
        for heard in (self.console, self.hosts, self.expected):
            heard.clear()

    def visit(self, view: str) -> Page:
        """Go to `#/...` and wait until it is there."""
        self.page.evaluate("document.querySelector('#main').setAttribute('aria-busy', 'true')")
        if self.page.evaluate("location.hash") == view:
            self.page.reload()
        else:
            self.page.evaluate("hash => { location.hash = hash }", view)
        self.page.wait_for_selector("main[aria-busy=false] > .view")
        return self.page

    def turn(self, size: tuple[int, int], scheme: str) -> None:
        """Give the window this size and the system this scheme of colours; returns when that is drawn."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        # What watches sizes answers in the first frame, and draws in the second.
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def picture(self, name: str, *, full: bool = True) -> None:
        """Keep a screenshot as an artefact, where pictures are asked for."""
        if os.environ.get(PICTURES) != "1":
            return
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(150)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=full)

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.page.locator(selector).first.inner_text()

    def close(self) -> None:
        """Close the window, unless it is shared. What the console said, and requests to other hosts, fail the test."""
        if self.ui.window is not self:
            self.context.close()
        own = {urlsplit(self.ui.base).netloc}
        assert not self.hosts - own, f"other hosts were asked: {self.hosts - own}"
        said = [line for line in self.console if not any(re.search(pattern, line) for pattern in self.expected)]
        assert not said, said

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(f"{message.type}: {message.text} {message.location.get('url', '')}")


def keep_figures(name: str, figures: dict[str, Any]) -> None:
    """Keep measured figures as an artefact: one JSON object by name."""
    ARTEFACTS.mkdir(exist_ok=True)
    path = ARTEFACTS / "web-figures.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {name: figures}, indent=2) + "\n")
