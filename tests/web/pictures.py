"""The pictures of the documentation: `python -m tests.web.pictures docs/web` trains nothing, and looks at real runs."""

from __future__ import annotations

import argparse
import math
import random
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from msgspec.structs import replace
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from keepstep.run import MirrorNotes, Run
from tests.web import browser, runs
from tests.web.browser import DRAWN, Eyes, Ui, serving

MEGABYTE = 10**6
WEIGHTS, OPTIMIZER = 45 * MEGABYTE, 90 * MEGABYTE


def write(directory: Path) -> None:
    """Files of an adapter's size; holes, so that they cost no room."""
    for name, size in (("adapter_model.safetensors", WEIGHTS), ("optimizer.pt", OPTIMIZER), ("scheduler.pt", 1_465)):
        with (directory / name).open("wb") as file:
            file.truncate(size)
    (directory / "trainer_state.json").write_text("{}")


def loss_at(step: int, noise: random.Random, turn: int = 1_200) -> float:
    """A loss that falls fast, then slowly, and is overfitted from step 6,000 on; `turn` plays no part."""
    overfitted = 0.16 * (max(step - 6_000, 0) / 4_000) ** 2
    return 0.72 + 1.6 * math.exp(-step / 900) + 0.25 * math.exp(-step / 3_500) + overfitted + 0.03 * noise.gauss(0, 1)


def build(root: Path) -> runs.Trained:
    """Some runs; the one that is returned is in training."""
    for name, seed, steps in (("mistral-7b-dpo", 3, 3_000), ("qwen2-1.5b-sft", 5, 4_000)):
        runs.Trained(root / name, "best:2,latest:1", max_steps=steps, seed=seed).go(steps, save_every=500).end()
    runs.Trained(root / "gemma-2b-reward", "latest:3", max_steps=6_000, seed=8).go(1_500, save_every=500).end("failed")
    keep, path = "best:3,latest:2,every:4000", root / "llama3-8b-lora"
    runs.Trained(path, keep, max_steps=10_000).go(2_730, save_every=200).end(None)
    runs.Trained(path, keep, resume=2_600, max_steps=10_000, seed=2).go(5_080, save_every=200).end("failed")
    trained = runs.Trained(path, keep, resume=4_800, max_steps=10_000, seed=4).go(7_460, save_every=200)
    run = Run.open(path)
    best = min(run.checkpoints, key=lambda one: one.metrics["eval_loss"])
    run.pin_board.tag(best.generation, "release")
    return trained


def send_to_mirror(run: Run) -> None:
    """Note what a training would: the newest is on its way, all others are there."""
    *there, newest = run.checkpoints
    notes = MirrorNotes(run.store, "s3://team/llama3-8b-lora", run.id)
    notes.looked(reversed(there), {newest.generation: newest.size_bytes})
    notes.sends(newest)
    sending = replace(notes.note.sending, since=notes.note.time - 2.6)
    notes.note = replace(notes.note, sending=sending)
    notes.advance(88 * MEGABYTE)
    notes.begin_training(None, run.lock.owner())


def take(chromium: Browser, ui: Ui, target: Path) -> None:
    """The pictures, each below 100 kB."""
    target.mkdir(parents=True, exist_ok=True)
    key = ui.keys()["llama3-8b-lora"]
    for name, view, scheme, size in (
        ("run-light", f"#/run/{key}", "light", (1280, 1180)),
        ("run-dark", f"#/run/{key}", "dark", (1280, 1180)),
        ("policy", f"#/run/{key}/policy", "light", (1280, 1180)),
        ("runs", "#/runs", "light", (1280, 760)),
    ):
        eyes = Eyes.open(chromium, ui, size=size, scheme=scheme)
        page = eyes.visit(view)
        if name.startswith("run-"):
            page.wait_for_selector(DRAWN)
        if name == "run-light":
            page.locator(".chart-focus").focus()
            page.keyboard.press("End")
            for _ in range(6):
                page.keyboard.press("ArrowLeft")
        if name == "policy":
            page.get_by_label("Keep").fill("best:2,latest:1")
            page.wait_for_selector("tr.changed")
        if name == "runs":
            for box in page.get_by_role("checkbox").all():
                box.check()
            page.wait_for_selector(".compare-plot canvas")
        page.wait_for_timeout(400)
        page.screenshot(path=target / f"{name}.png")
        _shrink(target / f"{name}.png")
        eyes.close()


def _shrink(path: Path) -> None:
    """The same picture in 256 colours, a third as large: those of most of it as they are, and some between all others,
    so that a small sign keeps its own.
    """
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    known = sorted(picture.getcolors(picture.width * picture.height), reverse=True)
    rare = picture.quantize(96, method=Image.Quantize.MAXCOVERAGE).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(part for _, colour in known[:160] for part in colour), *rare][: 3 * 256])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def photograph(root: Path, target: Path) -> None:
    """Build the runs and take the pictures."""
    with patch.multiple(runs, write=write, loss_at=loss_at):
        trained = build(root)
        staging = root / "llama3-8b-lora" / ".keepstep" / "staging" / "0" / "checkpoint-7460"
        staging.mkdir(parents=True)
        with (staging / "optimizer.pt").open("wb") as file:
            file.truncate(61 * MEGABYTE)
        send_to_mirror(Run.open(root / "llama3-8b-lora"))
        with sync_playwright() as playwright, serving(root, "--allow-write") as ui:
            take(browser.launch(playwright), ui, target)
        trained.end(None)


def main() -> None:
    """Build the runs, look, and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    target: Path = parser.parse_args().target.resolve()
    # The path is in the pictures: a short one says nothing of the machine.
    root = Path(tempfile.gettempdir()) / "runs"
    root.mkdir()
    try:
        photograph(root, target)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
