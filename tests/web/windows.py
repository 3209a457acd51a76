"""What the browser tests share: one Chromium, one server over demonstration runs, a window for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.web import browser, runs
from tests.web.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests."""
    from playwright.sync_api import sync_playwright

    browser.find_chromium()
    with sync_playwright() as playwright:
        launched = browser.launch(playwright)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Ui]:
    """A server over runs of every kind; nothing changes them."""
    root: Path = tmp_path_factory.mktemp("runs")
    runs.finished(root / "sft")
    runs.rewound(root / "dpo")
    runs.damaged(root / "damaged")
    runs.cluttered(root / "cluttered")
    runs.Run.create(root / "new", runs.Policy.from_spec("latest:2"))
    for name in HOSTILE:
        runs.finished(root / name, steps=200)
    with browser.serving(root, shared=True) as ui:
        yield ui


@pytest.fixture
def look(chromium: Browser) -> Iterator[Callable[..., browser.Eyes]]:
    """Opens windows; each is judged after the test, and closed.

    A server that is shared has one for all tests that ask for nothing else, or for one of their own (`alone`).
    """
    opened: list[browser.Eyes] = []

    def opens(ui: browser.Ui, *, alone: bool = False, **options: Any) -> browser.Eyes:
        if alone or options or not ui.shared:
            eyes = browser.Eyes.open(chromium, ui, **options)
        elif ui.window is None:
            eyes = ui.window = browser.Eyes.open(chromium, ui)
        else:
            eyes = ui.window
            eyes.anew()
        opened.append(eyes)
        return eyes

    yield opens
    for eyes in opened:
        eyes.close()
