"""A feature played: one process trains undisturbed and saves each step; new ones resume from some of these saves."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers

import keepstep
from tests.matrix.features import FEATURES, Feature, build
from tests.matrix.verdict import Ending, Verdict, judge
from tests.training import processes
from tests.training.comparing import history_differences, load, values_differences
from tests.training.course import StepCounter, leave, settle

PRELOADED = ["tests.training.course", "tests.training.warm", "tests.matrix.features"]


@dataclass(frozen=True)
class Course:
    """What became of a feature: the steps that it was resumed from, and the ending of the worst."""

    feature: Feature
    steps: tuple[int, ...] = ()
    ending: Ending = field(default_factory=Ending)
    seconds: float = 0.0
    missing: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict of ours."""
        return judge(self.ending)


def train(name: str, directory: Path, outcome: Path, resume: str | None) -> None:
    """What each process does."""
    settle()
    transformers.logging.set_verbosity_error()
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    trainer = build(name, directory)
    keepstep.attach(trainer, keep="all")
    counter = StepCounter()
    trainer.add_callback(counter)
    leave(trainer, trainer.train(resume_from_checkpoint=resume), counter.steps, outcome)


def course(name: str, home: Path) -> Course:
    """Play a feature; what it leaves on the disk lies in `home`."""
    feature, began = FEATURES[name], time.monotonic()
    if feature.needs and find_spec(feature.needs) is None:
        return Course(feature, missing=feature.needs)
    processes.PRELOADED[:] = PRELOADED
    if (why := _run(name, home, "whole", None)) is not None:
        return Course(feature, (), Ending(error=f"left alone: {why}"), time.monotonic() - began)
    # A resume from a step in the middle sets aside what follows: each has a copy of its own.
    copies = {step: shutil.copytree(home / "whole", home / str(step)) for step in feature.at}
    endings = [_ending(name, home, step) for step in copies]
    worst = max(endings, key=lambda ending: list(Verdict).index(judge(ending)))
    return Course(feature, feature.at, worst, time.monotonic() - began)


def _run(name: str, home: Path, part: str, resume: str | None) -> str | None:
    """Why it failed, None where it did not."""
    home.mkdir(parents=True, exist_ok=True)
    log, outcome = home / f"{part}.log", home / f"{part}.outcome"
    try:
        code = processes.call(train, name, home / part, outcome, resume, log=log)
    except TimeoutError as error:
        return str(error)
    lines = log.read_text(errors="replace").strip().splitlines()
    return None if code == 0 else (lines[-1] if lines else f"exit code {code}")


def _ending(name: str, home: Path, step: int) -> Ending:
    if (why := _run(name, home, str(step), str(home / str(step) / f"checkpoint-{step}"))) is not None:
        return Ending(error=f"resumed from step {step}: {why}")
    whole, resumed = home / "whole.outcome", home / f"{step}.outcome"
    facts = load(resumed)
    off = [*history_differences(load(whole)["history"], facts["history"])]
    off += values_differences(whole / "final.pt", resumed / "final.pt")
    receipt: dict[str, Any] = facts["receipt"]
    why = tuple(reason["text"] for reason in receipt["reasons"])
    text = f"resumed from step {step}: {len(off)} values differ, the first: {off[0]}" if off else ""
    return Ending(off=text, level=receipt["level"], why=why)
