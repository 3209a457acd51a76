"""What comes first on the page, on a screen and on a phone: of managed, damaged, torn, failed and killed runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stock.written import checkpoint
from tests.web import runs
from tests.web.browser import DRAWN, PHONE, WIDE, Eyes, Ui, serving

Look = Callable[..., Eyes]
SIZES = {"wide": WIDE, "phone": PHONE}
VIEWS = ("", "/disk", "/policy", "/health")
CUT = """() => [...document.querySelectorAll('main .badge')].filter(one => {
  const box = one.getBoundingClientRect();
  if (!box.width) return false;
  const cell = one.closest('td')?.getBoundingClientRect();
  return box.left < 0 || box.right > innerWidth || (cell && box.right > cell.right + 1);
}).map(one => one.textContent)"""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    root: Path = tmp_path_factory.mktemp("first")
    runs.damaged(root / "damaged")
    runs.rewound(root / "failed")
    runs.Trained(root / "killed", "latest:2", max_steps=2_000).go(600).end(None)
    runs.Trained(root / "stopped", "latest:2", max_steps=2_000).go(300).end("stopped")
    runs.Trained(root / "stopped", "latest:2", resume="latest", max_steps=2_000).go(600).end("stopped")
    for step in (8, 16, 24):
        checkpoint(root / "stock", step)
    (root / "stock" / "checkpoint-24" / "trainer_state.json").unlink()
    with serving(root, shared=True) as served:
        yield served


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.quick(1)
def test_nothing_is_wider_than_the_screen_and_no_badge_is_cut(look: Look, ui: Ui, size: str) -> None:
    eyes = look(ui, size=SIZES[size])
    for name, key in ui.keys().items():
        for view in VIEWS:
            page = eyes.visit(f"#/run/{key}{view}")
            if not view:
                page.wait_for_selector(DRAWN)
            eyes.picture(f"first-{name}{view.replace('/', '-')}-{size}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, view)
            assert page.evaluate(CUT) == [], (name, view)
    page = eyes.visit("#/runs")
    assert page.evaluate(CUT) == []
    assert "not managed" in eyes.text(".runs") and "killed" in eyes.text(".runs") and "failed" in eyes.text(".runs")


def test_what_to_ship_and_where_to_resume_come_first(look: Look, ui: Ui) -> None:
    eyes = look(ui)
    page = eyes.visit(f"#/run/{ui.keys()['killed']}")
    assert "Ship checkpoint-600: best eval_loss" in eyes.text(".verdicts")
    assert "Can be resumed from step 600" in eyes.text(".verdicts")
    page.locator("[data-verdict=resume] a").first.click()
    page.wait_for_selector("h1:has-text('Step 600')")
    eyes.visit(f"#/run/{ui.keys()['stock']}")
    assert "from step 16" in eyes.text(".verdicts") and "step 24 (torn)" in eyes.text(".verdicts")


def test_the_ends_of_trainings_are_told_apart(look: Look, ui: Ui) -> None:
    eyes = look(ui)
    for name in ("stopped", "failed", "killed"):
        page = eyes.visit(f"#/run/{ui.keys()[name]}")
        page.wait_for_selector(DRAWN)
        assert name in eyes.text("h1 .badge")
    eyes.visit(f"#/run/{ui.keys()['stopped']}/health")
    assert "stopped" in eyes.text(".attempts") and "killed" not in eyes.text(".attempts")


def test_what_is_damaged_or_torn_offers_no_resume(look: Look, ui: Ui) -> None:
    eyes = look(ui)
    for name, word in (("damaged", "damaged"), ("stock", "torn")):
        page = eyes.visit(f"#/run/{ui.keys()[name]}")
        row = page.locator("tr", has=page.locator(".badge.bad", has_text=word)).first
        assert row.locator(".g-bad").count() == 1
        row.get_by_role("link").click()
        page.wait_for_selector(f"text=This checkpoint is {word}")
        said = eyes.text(".commands")
        assert "keepstep resume" not in said and "keepstep pin" not in said and "prune" not in said
        assert page.locator("h1 .g-bad").count() == 1


def test_a_stock_run_is_only_looked_at(look: Look, ui: Ui) -> None:
    eyes = look(ui)
    key = ui.keys()["stock"]
    page = eyes.visit(f"#/run/{key}")
    assert "not managed" in eyes.text("h1") and "keepstep adopt" in eyes.text("main")
    page = eyes.visit(f"#/run/{key}/checkpoint/2")
    assert "resumable for" in eyes.text("main") and "Digest" not in eyes.text("main")
    for view in ("disk", "policy"):
        eyes.visit(f"#/run/{key}/{view}")
        assert "keepstep adopt" in eyes.text("main") and "keepstep prune" not in eyes.text("main")
        if view == "policy":
            assert page.locator("#apply").is_disabled()
    eyes.visit(f"#/run/{key}/health")
    assert "killed" not in eyes.text(".attempts")


def test_nothing_offers_to_prune_what_trains(look: Look, tmp_path: Path) -> None:
    with runs.training(tmp_path / "run") as trained:
        trained.go(900)
        with serving(tmp_path) as served:
            eyes = look(served)
            for view in VIEWS:
                eyes.visit(f"#/run/{served.keys()['run']}{view}")
                assert "keepstep prune" not in eyes.text("main") and "keepstep thin" not in eyes.text("main")
            eyes.visit(f"#/run/{served.keys()['run']}/disk")
            assert "goes with its next save" in eyes.text("main")


def test_forty_lines_have_forty_colours_and_no_zero_has_a_sign(look: Look, ui: Ui) -> None:
    eyes = look(ui)
    for _ in range(2):
        colours = eyes.page.evaluate(
            """async () => {
          const { colour, tokenOf } = await import(`${location.origin}/static/js/theme.js`);
          return Array.from({ length: 40 }, (_, at) => colour(tokenOf(at)));
        }"""
        )
        assert len(set(colours)) == 40
        eyes.page.keyboard.press("t")
    said = eyes.page.evaluate(
        """async () => {
      const f = await import(`${location.origin}/static/js/format.js`);
      return [f.metric(-0), f.count(-0), f.count(-0.2), f.size(-0), f.percent(-0.001, 1), f.epoch(-0.001)];
    }"""
    )
    assert said == ["0", "0", "0", "0 B", "0 %", "0.00"]
