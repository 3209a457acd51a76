"""A loop without any framework: weights, momentum, noise from a generator; its checkpoints are keepstep's."""

from __future__ import annotations

import json
import random
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import StorageError
from keepstep.retention import Metric, Policy
from keepstep.run import Receipt, ResumePoint
from keepstep.testing.integration_adapter import IntegrationAdapter
from keepstep.testing.integration_course import Course, Outcome, digest
from keepstep.testing.integration_process import play, run_process

WEIGHTS, MOMENTUM, STATE = "model.bin", "optimizer.bin", "keepstep_state.json"
SIZE, BATCH = 8192, 256
LOGGED_EVERY = 3


class Loop:
    """A training of 8,192 weights towards zero, 256 of them a step, against noise."""

    def __init__(self) -> None:
        self.step = 0
        self.random = random.Random(11)
        self.weights = array("d", [self.random.random() for _ in range(SIZE)])
        self.momentum = array("d", bytes(8 * SIZE))
        self.losses: list[float] = []
        self.log: list[dict[str, float]] = []

    def train_a_step(self) -> None:
        first, noise = self.random.randrange(SIZE - BATCH), self.random.gauss(0, 0.1)
        for index in range(first, first + BATCH):
            self.momentum[index] = 0.9 * self.momentum[index] + 0.1 * self.weights[index] + noise
            self.weights[index] -= 0.1 * self.momentum[index]
        self.step += 1
        self.losses.append(sum(abs(weight) for weight in self.weights[first : first + BATCH]))
        if self.step % LOGGED_EVERY == 0:
            self.log.append({"step": self.step, "loss": sum(self.losses) / len(self.losses)})
            self.losses.clear()

    def write(self, directory: Path) -> None:
        (directory / WEIGHTS).write_bytes(self.weights.tobytes())
        (directory / MOMENTUM).write_bytes(self.momentum.tobytes())
        (directory / STATE).write_text(json.dumps(self.rest()))

    def read(self, directory: Path) -> None:
        self.weights = array("d", (directory / WEIGHTS).read_bytes())
        self.momentum = array("d", (directory / MOMENTUM).read_bytes())
        rest = json.loads((directory / STATE).read_text())
        self.step, self.losses, self.log = rest["step"], rest["losses"], rest["log"]
        version, numbers, spare = rest["random"]
        self.random.setstate((version, tuple(numbers), spare))

    def rest(self) -> dict[str, Any]:
        """All but the tensors."""
        return {"step": self.step, "losses": self.losses, "log": self.log, "random": self.random.getstate()}

    def outcome(self) -> Outcome:
        parts = {"weights": self.weights, "momentum": self.momentum}
        state = {name: digest(values.tobytes()) for name, values in parts.items()}
        return Outcome({**state, "random": digest(repr(self.random.getstate()).encode())}, self.log)


def train(course: Course) -> Outcome:
    """A training with keepstep as the guide shows it for a loop of one's own."""
    loop = Loop()
    checkpointer = Checkpointer(course.directory, Policy.from_spec(course.keep, Metric("score", "max")))
    point = checkpointer.begin("auto")
    try:
        if point is not None:
            loop.read(point.path)
            checkpointer.note_resumed(receipt(point))
        while loop.step < course.steps:
            loop.train_a_step()
            if course.saves_at(loop.step):
                score = course.scores[loop.step]
                loop.log.append({"step": loop.step, "score": score})
                save(checkpointer, Facts(loop.step, metrics={"score": score}), loop)
    finally:
        checkpointer.close()
    checkpointer.end_well()
    return loop.outcome()


def save(checkpointer: Checkpointer, facts: Facts, loop: Loop) -> None:
    """Save, and train on where there is no room for it."""
    try:
        checkpointer.save(facts, loop.write)
    except StorageError as error:
        if not error.is_full:
            raise
        checkpointer.refuse(facts.step, error)


def receipt(point: ResumePoint) -> Receipt:
    """Everything that the loop has is in its checkpoints: a resume is exact."""
    passed = tuple(verification.summary() for verification in point.passed_over)
    return Receipt(point.checkpoint.step, str(point.path), passed_over=passed)


class RawLoop(IntegrationAdapter):
    """The adapter: this file is its training script."""

    def train(self, course: Course) -> int:
        return run_process([sys.executable, __file__], course)

    def read_with_stock_tools(self, checkpoint: Path) -> Mapping[str, str]:
        return {"weights": digest((checkpoint / WEIGHTS).read_bytes())}


if __name__ == "__main__":
    play(Course.parse(sys.argv[1]), train)
