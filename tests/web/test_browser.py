"""The page in a real Chromium: every view, themes, phone, keyboard, zoom, hostile names, accessibility."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

import keepstep.web
from keepstep import layout
from tests.web import hostile, runs
from tests.web.browser import DRAWN, PHONE, WIDE, Eyes, Ui, serving

STATIC = Path(keepstep.web.__file__).parent / "static"
VIEWS = {"run": "", "disk": "/disk", "policy": "/policy", "health": "/health"}
Look = Callable[..., Eyes]


def judged(eyes: Eyes) -> list[str]:
    """Rules of axe-core that the page breaks, each with the first element that does."""
    from axe_playwright_python.base import AXE_SCRIPT

    if not eyes.page.evaluate("'axe' in window"):
        eyes.page.evaluate(AXE_SCRIPT)
    found = eyes.page.evaluate("axe.run({resultTypes: ['violations']}).then(found => found.violations)")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


def newest(eyes: Eyes, key: str) -> int:
    """The generation of a run's newest checkpoint."""
    return eyes.page.evaluate("key => fetch(`api/runs/${key}`).then(r => r.json()).then(d => d.latest.generation)", key)


SIZES = {"wide": WIDE, "tablet": (768, 1024), "phone": PHONE, "small": (640, 430)}
"""A page zoomed to 200 % is a small one."""
LOOKS = (("light", "wide"), ("dark", "wide"), ("light", "tablet"), ("light", "phone"), ("dark", "small"))


@pytest.mark.parametrize("view", ["runs", *VIEWS, "checkpoint"])
@pytest.mark.quick(2)
def test_every_view_is_drawn_fits_and_breaks_no_rule_of_accessibility(look: Look, shown: Ui, view: str) -> None:
    eyes = look(shown)
    key = shown.keys()["cluttered"]
    end = f"/checkpoint/{newest(eyes, key)}" if view == "checkpoint" else VIEWS.get(view)
    page = eyes.visit("#/runs" if end is None else f"#/run/{key}{end}")
    if view == "run":
        page.wait_for_selector(DRAWN)
    broken: dict[str, list[str]] = {}
    for scheme, size in LOOKS:
        name = f"{view}-{scheme}" if size == "wide" else f"{view}-{scheme}-{size}"
        eyes.turn(SIZES[size], scheme)
        eyes.picture(name)
        broken[name] = judged(eyes)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the screen"
        assert page.evaluate(SQUEEZED) == [], f"{name} has columns without room"
    assert not any(broken.values()), broken


SQUEEZED = """() => [...document.querySelectorAll('table.grid')].flatMap(table =>
  [...(table.querySelector('tbody tr[data-key]')?.cells ?? [])]
    .filter(cell => getComputedStyle(cell).display !== 'none' && cell.offsetWidth < 40)
    .map(cell => cell.dataset.column))"""


def test_the_run_says_what_there_is_why_it_is_kept_and_what_would_be_lost(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['dpo']}")
    page.wait_for_selector(DRAWN)
    table = eyes.text("table.grid")
    assert "best 1 of 3 by eval_loss" in table and "newest: the recovery point" in table
    assert "candidate" in table and "pinned" in table
    assert "rewound to 700, failed at 1,200" in eyes.text(".lanes")
    assert "killed at 900" in eyes.text(".chart-text") and "2 set aside by a rewind" in eyes.text(".chart-text")
    assert {"best", "removed", "set aside"} <= set(eyes.text(".legend").split("\n"))
    page.get_by_role("button", name="Gone").click()
    assert "not among the best 3" in eyes.text("table.grid")


def test_a_checkpoint_says_what_would_remove_it_and_is_verified_on_demand(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['damaged']}")
    page.get_by_role("link", name="600", exact=True).click()
    page.wait_for_selector("text=What would remove it")
    assert "newer full checkpoint" in eyes.text(".two")
    assert "keepstep export" in eyes.text(".commands")
    page.get_by_role("button", name=re.compile("^Verify")).click()
    page.wait_for_selector("text=Every byte is as it was written")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("h1:has-text('500')")
    eyes.visit(f"#/run/{shown.keys()['damaged']}")
    page.locator("tr", has_text="damaged").get_by_role("link").click()
    page.wait_for_selector("text=model.safetensors")
    assert "Damaged" in eyes.text("section[aria-label=Verification]")


def test_marks_and_rows_are_reached_with_the_keyboard_alone(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['dpo']}")
    page.wait_for_selector(DRAWN)
    page.keyboard.press("c")
    page.keyboard.press("End")
    page.wait_for_selector(".tip:not([hidden])")
    assert "Step 1,200" in eyes.text(".tip")
    assert "Step 1,200" in (page.locator("#live").text_content() or "")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => document.querySelector('.tip').textContent.includes('Step 1,100')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".tip", state="hidden")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Step 1,200')")
    page.keyboard.press("Escape")
    page.wait_for_selector(DRAWN)
    page.locator("a[data-row][tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent").strip() == "1,100"
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.textContent").strip() == "1,100"
    page.keyboard.press("4")
    page.wait_for_selector("h1:has-text('Health')")


def test_the_pointer_finds_a_mark_and_its_reason(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['dpo']}")
    page.wait_for_selector(DRAWN)
    # The notes stand beside the mark that they speak of: the keyboard says where.
    page.locator(".chart-focus").focus()
    page.keyboard.press("Home")
    note = page.wait_for_selector(".tip:not([hidden])").bounding_box()
    plot = page.locator(".panel.main .u-over").bounding_box()
    assert note is not None and plot is not None
    page.keyboard.press("Escape")
    page.wait_for_selector(".tip", state="hidden")
    x, y = note["x"] - GAP, note["y"] - GAP
    assert plot["x"] <= x <= plot["x"] + plot["width"] and plot["y"] <= y <= plot["y"] + plot["height"]
    page.mouse.move(x + 60, y)
    assert page.locator(".tip:not([hidden])").count() == 0, "none is there"
    page.mouse.move(x, y)
    page.wait_for_selector(".tip:not([hidden])")
    assert "eval_loss" in eyes.text(".tip") and "Removed" in eyes.text(".tip")


GAP = 14
"""Pixels between a point and the note about it."""


def test_a_value_that_is_no_number_is_said_where_the_line_has_its_gap(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['dpo']}")
    page.wait_for_selector(DRAWN)
    said = "loss is not a number (NaN) at step 1,010"
    assert eyes.text(".chart-odd") == f"{said}: the line has a gap there."
    box = page.locator(".panel.main .u-over").bounding_box()
    assert box is not None
    low, high = map(float, (page.locator(".chart-focus").get_attribute("data-range") or "").split(","))
    across = box["x"] + box["width"] * (1_010 - low) / (high - low)
    page.mouse.move(across, box["y"] + 30)
    page.wait_for_function("text => document.querySelector('.tip')?.textContent === text", arg=said)
    value = page.locator(".panel-head .item", has_text=re.compile("^loss")).first.locator(".value")
    assert value.inner_text() == "NaN"
    red = page.evaluate(RED, [1_010, low, high])
    assert red["at"] > 0 and red["beside"] == 0, "a mark at the axis, there and nowhere else"
    page.mouse.move(across - 60, box["y"] + 30)
    page.wait_for_selector(".tip", state="hidden")
    assert float(value.inner_text()) > 0
    eyes.picture("run-nan")
    eyes.visit(f"#/run/{shown.keys()['sft']}")
    page.wait_for_selector(DRAWN)
    assert page.locator(".chart-odd").is_hidden()


RED = """([step, low, high]) => {
  const canvas = document.querySelector('.panel.main canvas'), over = document.querySelector('.panel.main .u-over');
  const [c, o] = [canvas.getBoundingClientRect(), over.getBoundingClientRect()];
  const ratio = canvas.width / c.width;
  const row = canvas.getContext('2d').getImageData(0, (o.bottom - c.top - 2) * ratio, canvas.width, 1).data;
  const found = {at: 0, beside: 0};
  for (let x = 0; x < canvas.width; x += 1) {
    const [red, green, blue] = row.slice(4 * x, 4 * x + 3);
    const place = low + (high - low) * (x / ratio + c.left - o.left) / o.width;
    if (red > 150 && green < 90 && blue < 90) found[Math.abs(place - step) < 6 ? 'at' : 'beside'] += 1;
  }
  return found;
}"""


def test_zooming_asks_the_server_for_the_window_and_the_whole_comes_back(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['sft']}")
    page.wait_for_selector(DRAWN)
    box = page.locator(".panel.main .u-over").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    with page.expect_request(lambda request: "start=" in request.url and "/curves" in request.url) as asked:
        page.mouse.move(box["x"] + box["width"] * 0.25, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=8)
        page.mouse.up()
    start, stop = (int(re.search(rf"{name}=(\d+)", asked.value.url)[1]) for name in ("start", "stop"))  # type: ignore[index]
    assert 400 < start < 520 and 980 < stop < 1_100
    assert "Steps " in eyes.text(".chart-info")
    page.locator(".chart-focus").focus()
    page.keyboard.press("+")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("0")
    page.wait_for_selector(".chart-info:has-text('The whole run')")


def test_scale_smoothing_and_metrics_are_chosen_and_remembered(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['sft']}")
    page.wait_for_selector(DRAWN)
    page.get_by_role("button", name="Log scale").click()
    page.get_by_role("button", name="Smooth").click()
    page.get_by_text("Metrics (").click()
    page.get_by_label("learning_rate").check()
    page.wait_for_selector("[data-panel=learning_rate] canvas")
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("[data-panel=learning_rate] canvas")
    assert page.get_by_role("button", name="Log scale").get_attribute("aria-pressed") == "true"
    assert page.get_by_role("button", name="Smooth").get_attribute("aria-pressed") == "true"


def test_the_theme_follows_the_system_until_it_is_chosen(look: Look, shown: Ui) -> None:
    eyes = look(shown, scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = eyes.page.evaluate(ground)
    eyes.page.get_by_role("button", name="Use the light theme").click()
    light = eyes.page.evaluate(ground)
    assert light != dark
    eyes.page.reload()
    eyes.page.wait_for_selector("main[aria-busy=false]")
    assert eyes.page.evaluate(ground) == light


def test_hostile_names_are_text_and_nothing_else(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit("#/runs")
    listed = eyes.text(".runs")
    assert hostile.SCRIPT in listed and hostile.QUOTES in listed
    assert "\u202e" not in listed and "\\u202egnp.tset" in listed
    for name in hostile.HOSTILE:
        for end in VIEWS.values():
            eyes.visit(f"#/run/{shown.keys()[name]}{end}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert page.title() != "owned"
    assert page.locator("main script").count() == 0


def test_a_run_without_a_checkpoint_and_one_that_is_not_there_say_so(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    eyes.expected.append("404")
    eyes.visit(f"#/run/{shown.keys()['new']}")
    assert "Nothing was saved yet" in eyes.text("main")
    eyes.visit("#/run/nosuchrun")
    assert "Not found" in eyes.text("main [role=alert]")


def test_a_run_that_can_not_be_read_is_said_in_full(look: Look, tmp_path: Path) -> None:
    runs.finished(tmp_path / "whole", steps=200)
    runs.finished(tmp_path / "broken", steps=200)
    wrong = '{"format":1,"run_id":"x","created":"2026-11-20T12:00:00Z","keep":3}'
    (tmp_path / "broken" / layout.RUN).write_text(wrong)
    with serving(tmp_path) as ui:
        eyes = look(ui)
        said = eyes.text(".notices")
        assert "broken can't be read." in said and "run.json is damaged" in said
        assert eyes.page.get_by_role("link", name="whole").count() == 1


@pytest.mark.long
def test_a_training_that_diverged_is_said_to_have_no_best(look: Look, tmp_path: Path) -> None:
    with patch.object(runs, "loss_at", lambda *_: math.nan):
        runs.finished(tmp_path / "diverged", "latest:2", steps=300)
    with serving(tmp_path) as ui:
        eyes = look(ui)
        page = eyes.visit(f"#/run/{ui.keys()['diverged']}")
        page.wait_for_selector(DRAWN)
        assert "eval_loss is not a number in any that is kept" in eyes.text(".chart-text")
        assert "eval_loss is not a number (NaN) from step 100 to 300" in eyes.text(".chart-odd")
        assert "not a number" in eyes.text("[data-stat=best]")


def test_runs_are_searched_sorted_and_compared_best_with_best(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit("#/runs")
    page.get_by_role("button", name="Run", exact=True).click()
    first = eyes.text(".runs tbody tr")
    page.get_by_role("button", name="Run", exact=True).click()
    assert eyes.text(".runs tbody tr") != first
    page.get_by_label("Compare sft").check()
    page.get_by_label("Compare dpo").check()
    page.wait_for_selector(".compare-plot canvas")
    assert "the best" in eyes.text(".compare table") and "+0." in eyes.text(".compare table")
    eyes.picture("compare-light")
    page.get_by_label("Search runs").fill("damag")
    assert page.locator(".runs tbody tr[data-key]").count() == 1


def test_the_page_asks_for_every_module_that_it_has() -> None:
    listed = re.search(r"MODULES = `(.*?)`", (STATIC / "js" / "boot.js").read_text(), re.DOTALL)
    assert listed
    there = {path.relative_to(STATIC / "js").with_suffix("").as_posix() for path in (STATIC / "js").rglob("*.js")}
    assert set(listed[1].split()) == there - {"boot", "main"}


def test_no_markup_is_made_of_strings() -> None:
    for path in (STATIC / "js").rglob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), path
