"""Runs of many points and many checkpoints: little is drawn, all can be reached; figures are kept as artefacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.web import runs
from tests.web.browser import DRAWN, Eyes, Ui, keep_figures, serving

Look = Callable[..., Eyes]

MEASURE = """() => {
  const paint = (name) => performance.getEntriesByName(name)[0]?.startTime ?? null;
  return {
    first_paint_ms: paint('first-paint'),
    first_contentful_paint_ms: paint('first-contentful-paint'),
    largest_contentful_paint_ms: window.largest ?? null,
    curves_drawn_ms: paint('keepstep.curves'),
    heap_bytes: performance.memory?.usedJSHeapSize ?? null,
    transferred_bytes: performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0),
    requests: performance.getEntriesByType('resource').length,
  };
}"""
LARGEST = (
    "new PerformanceObserver(list => { window.largest = list.getEntries().at(-1).startTime })"
    ".observe({type: 'largest-contentful-paint', buffered: true})"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """A run of 200,000 logged points, and one of 5,000 checkpoints."""
    root: Path = tmp_path_factory.mktemp("large")
    runs.large(root / "points", 40, 200_000)
    runs.large(root / "checkpoints", 5_000, 2_000)
    with serving(root, shared=True) as ui:
        yield ui


@pytest.mark.parametrize("name", ["points", "checkpoints"])
@pytest.mark.quick(1)
def test_a_large_run_is_drawn_in_few_points_and_few_rows(look: Look, large: Ui, name: str) -> None:
    eyes = look(large, alone=True)
    address = f"#/run/{large.keys()[name]}"
    page = eyes.page
    found: dict[str, dict[str, float]] = {}
    page.add_init_script(LARGEST)
    for turn in ("first", "again"):
        page.goto("about:blank")
        page.goto(f"{large.base}{address}")
        page.wait_for_selector(DRAWN)
        page.wait_for_timeout(200)
        found[turn] = page.evaluate(MEASURE)
    keep_figures(f"{name}: a run's page", found)
    chart = page.locator(".chart-focus")
    assert int(chart.get_attribute("data-shown") or 0) <= 2_000
    if name == "points":
        assert int(chart.get_attribute("data-total") or 0) == 200_000
    assert page.locator("table.grid tbody tr[data-key]").count() < 60


def test_every_point_is_there_on_zoom(look: Look, large: Ui) -> None:
    eyes = look(large)
    page = eyes.visit(f"#/run/{large.keys()['points']}")
    page.wait_for_selector(DRAWN)
    page.locator(".chart-focus").focus()
    for _ in range(12):
        page.keyboard.press("+")
    page.wait_for_selector(".chart-info:has-text(': all ')")
    shown, total = (page.locator(".chart-focus").get_attribute(f"data-{name}") for name in ("shown", "total"))
    assert shown == total


def test_any_of_many_rows_is_reached_by_keyboard_and_by_search(look: Look, large: Ui) -> None:
    eyes = look(large)
    page = eyes.visit(f"#/run/{large.keys()['checkpoints']}")
    page.wait_for_selector(DRAWN)
    page.locator("a[data-row][tabindex='0']").focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent").strip() == "10"
    assert page.evaluate("document.activeElement.closest('tr').getAttribute('aria-rowindex')") == "5001"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.textContent").strip() == "20"
    page.get_by_label("Search checkpoints").fill("checkpoint-25000")
    page.wait_for_function("() => document.querySelectorAll('table.grid tbody tr[data-key]').length === 1")
    eyes.picture("run-many")
