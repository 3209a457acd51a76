"""The Trainer behind the adapter: the tiny model of the exactness tests, trained in processes of their warm server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from keepstep.testing.integration_adapter import IntegrationAdapter
from keepstep.testing.integration_course import Course, Outcome, digest
from keepstep.testing.integration_process import play
from tests.training import processes
from tests.training.comparing import WALL_TIME
from tests.training.course import Job
from tests.training.course import train as train_job
from tests.training.tiny import Recipe


class TrainerAdapter(IntegrationAdapter):
    """`keepstep.attach` on a Trainer that logs every third step."""

    def train(self, course: Course) -> int:
        return processes.call(play, course, train, log=course.log)

    def read_with_stock_tools(self, checkpoint: Path) -> Mapping[str, str]:
        weights = LlamaForCausalLM.from_pretrained(checkpoint).state_dict()
        return dict(_digests(weights, "weights"))


def train(course: Course) -> Outcome:
    """One training, as a script of a user's runs it."""
    arguments = {
        "max_steps": course.steps, "save_steps": course.every, "eval_strategy": "steps", "eval_steps": course.every,
        "metric_for_best_model": "accuracy", "logging_steps": 3,
    }  # fmt: skip
    recipe = Recipe(scores=course.scores, arguments=arguments, keepstep={"keep": course.keep})
    left = Path(course.home, "left")
    train_job(Job(recipe, Path(course.directory), left))
    state = torch.load(left / "final.pt", weights_only=False)
    history = json.loads((left / "outcome.json").read_text())["history"]
    timeless = [{name: entry[name] for name in entry if not name.endswith(WALL_TIME)} for entry in history]
    return Outcome(dict(_digests(state)), timeless)


def _digests(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """A digest of every tensor and every other value, by its path."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _digests(part, f"{where}/{name}".lstrip("/"))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, part in enumerate(value):
            yield from _digests(part, f"{where}/{number}")
    elif isinstance(value, torch.Tensor):
        yield where, digest(value.numpy().tobytes())
    else:
        yield where, digest(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
