"""The page follows a run as it changes, says when the server is gone, and finds it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from keepstep.web.sources import FRESH_SECONDS
from tests.training import processes
from tests.web import runs
from tests.web.browser import DRAWN, Eyes, keep_figures, serving, start

Look = Callable[..., Eyes]

WATCH = """key => {
  window.seen = {};
  const look = () => {
    const step = document.querySelector('[data-live=step]')?.textContent;
    if (step && !(step in window.seen)) window.seen[step] = Date.now();
  };
  const all = {subtree: true, childList: true, characterData: true};
  new MutationObserver(look).observe(document.querySelector('main'), all);
}"""


def test_points_and_commits_appear_by_themselves(look: Look, tmp_path: Path) -> None:
    with runs.training(tmp_path / "run", "best:2,latest:1", max_steps=900) as trained, serving(tmp_path) as ui:
        trained.go(300)
        eyes = look(ui)
        page = eyes.visit(f"#/run/{ui.keys()['run']}")
        page.wait_for_selector(DRAWN)
        page.wait_for_selector("[data-connection=live]")
        assert "300 of 900" in eyes.text(".title-main") and "training" in eyes.text(".title-main")
        page.evaluate(WATCH)
        delays: list[float] = []
        for step in (310, 320, 330, 340, 350):
            appended = time.time()
            trained.go(step)
            page.wait_for_function("text => text in window.seen", arg=f"{step} of 900")
            delays.append(page.evaluate("text => window.seen[text]", f"{step} of 900") / 1000 - appended)
        keep_figures("live update, from append to DOM (s)", {"each": [round(delay, 3) for delay in delays]})
        trained.go(400)
        page.wait_for_selector("a[data-row] >> text=400")
        page.wait_for_function(
            "() => document.querySelector('#live').textContent.includes('Checkpoint of step 400 committed')"
        )
        eyes.picture("run-live")
        eyes.visit(f"#/run/{ui.keys()['run']}/health")
        page.get_by_label("Search events").type("committed")
        trained.go(500)
        page.wait_for_selector(".events >> text=Step 500 is safe on disk")
        page.keyboard.type(" or")
        assert page.get_by_label("Search events").input_value() == "committed or", "typing goes on while events come"


def test_a_server_that_is_gone_is_said_and_the_page_goes_on_when_it_is_back(look: Look, tmp_path: Path) -> None:
    run = runs.finished(tmp_path / "run", steps=300)
    ui = start(tmp_path)
    try:
        eyes = look(ui)
        eyes.expected += [
            "ERR_CONNECTION_REFUSED",
            "ERR_INCOMPLETE",
            "ERR_EMPTY_RESPONSE",
            "401",
            "ERR_CONNECTION_RESET",
        ]
        page = eyes.visit(f"#/run/{ui.keys()['run']}")
        page.wait_for_selector(DRAWN)
        port = urlsplit(ui.link).port
        ui.stop()
        page.wait_for_selector("text=Connection to keepstep ui lost")
        assert "300" in eyes.text("table.grid"), "what was shown stays"
        again = start(tmp_path, "--port", str(port))
        try:
            page.wait_for_selector("text=This page's link has ended", timeout=30_000)
            page.goto(again.link)
            page.wait_for_selector("[data-connection=live]")
            page.wait_for_selector("#banner .notice", state="detached")
        finally:
            again.stop()
    finally:
        if ui.process.poll() is None:
            ui.stop()
    assert run.checkpoints


def test_a_run_that_begins_while_the_page_begins_is_shown(chromium: Any, tmp_path: Path) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    with serving(tmp_path) as ui:
        context = chromium.new_context()
        page = context.new_page()
        page.route("**/api/stream*", hold)
        page.goto(ui.link)
        page.wait_for_selector("text=No run here yet")
        runs.finished(tmp_path / "sft", steps=200)
        time.sleep(FRESH_SECONDS + 0.2)
        held[0].continue_()
        page.wait_for_selector("a[data-row]", timeout=30_000)
        context.close()


def _train(run: Path, save_steps: int, max_steps: int) -> None:
    """A training that can be watched: what a process of its own does."""
    from transformers import TrainerCallback

    import keepstep
    from tests.training.course import settle
    from tests.training.tiny import Recipe, build

    class Slow(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            time.sleep(0.1)

    settle()
    arguments = {
        "logging_steps": 1, "save_steps": save_steps, "eval_strategy": "steps", "eval_steps": 4, "max_steps": max_steps,
        "metric_for_best_model": "eval_loss", "greater_is_better": False,
    }  # fmt: skip
    trainer = build(Recipe(arguments=arguments), run)
    trainer.add_callback(Slow())
    keepstep.attach(trainer)
    trainer.train(resume_from_checkpoint="auto")


@contextmanager
def training(home: Path, save_steps: int, max_steps: int) -> Iterator[BaseProcess]:
    """Trains in `home/run` for as long as the block runs."""
    process = processes.begin(_train, home / "run", save_steps, max_steps, log=home / "log")
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.training
@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_real_training_is_followed_from_its_first_step_to_its_end(look: Look, tmp_path: Path) -> None:
    with serving(tmp_path) as ui:
        eyes = look(ui)
        page = eyes.page
        with training(tmp_path, save_steps=4, max_steps=24):
            page.locator("a[data-row]").first.wait_for(timeout=240_000)
            page.locator("a[data-row]").first.click()
            page.wait_for_selector(DRAWN, timeout=120_000)
            page.wait_for_selector(".title-main >> text=training")
            page.wait_for_selector("a[data-row] >> text=12", timeout=120_000)
            page.wait_for_selector(".title-main >> text=finished", timeout=120_000)
            page.wait_for_selector(".title-main >> text=24 of 24")
        assert "eval_loss" in eyes.text(".panel-head")
        eyes.picture("run-real-training")


@pytest.mark.training
@pytest.mark.timeout(900)
def test_a_real_training_is_asked_to_save_and_to_stop(look: Look, tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--allow-write") as ui,
        serving(tmp_path) as reading,
        training(tmp_path, save_steps=4000, max_steps=6000) as process,
    ):
        eyes = look(ui)
        page = eyes.page
        page.locator("a[data-row]").first.wait_for(timeout=240_000)
        page.locator("a[data-row]").first.click()
        page.wait_for_selector(".title-main >> text=training", timeout=120_000)
        only = look(reading).visit(f"#/run/{reading.keys()['run']}")
        only.wait_for_selector(".title-main >> text=training")
        assert not only.locator("[data-ask]:visible").count(), "a page that only reads has no buttons"
        page.click("[data-ask=save]")
        page.wait_for_selector(".asked >> text=Saved as checkpoint-", timeout=120_000)
        page.wait_for_selector("a[data-row]", timeout=120_000)
        eyes.picture("run-asked")
        page.click("[data-ask=stop]")
        page.get_by_role("button", name="Cancel").click()
        assert process.is_alive()
        page.click("[data-ask=stop]")
        eyes.picture("run-stop", full=False)
        page.click("[data-action=confirm]")
        page.wait_for_selector(".asked >> text=The training is stopped", timeout=120_000)
        page.wait_for_selector(".title-main >> text=stopped", timeout=120_000)
        assert not page.locator("[data-ask]:visible").count(), "nobody is there to be asked"
        eyes.picture("run-stopped", full=False)
        assert processes.end(process, tmp_path / "log") == 75


def test_nothing_moves_for_who_wants_it_still(look: Look, tmp_path: Path) -> None:
    with runs.training(tmp_path / "run", "best:2,latest:1", max_steps=900) as trained, serving(tmp_path) as ui:
        trained.go(300)
        half = trained.run.path / ".keepstep" / "staging" / "9" / "checkpoint-400"
        half.mkdir(parents=True)
        (half / "model.safetensors").write_bytes(bytes(30_000))
        eyes = look(ui)
        eyes.visit(f"#/run/{ui.keys()['run']}")
        eyes.page.wait_for_selector(DRAWN)
        eyes.page.wait_for_selector(".pulse", state="attached")
        moving: dict[str, list[str]] = {}
        for wish in ("no-preference", "reduce"):
            eyes.page.emulate_media(reduced_motion=wish)  # type: ignore[arg-type]
            moving[wish] = eyes.page.evaluate("document.getAnimations().map(motion => motion.animationName)")
        assert {"beat", "pulse"} <= set(moving["no-preference"])
        assert moving["reduce"] == []
