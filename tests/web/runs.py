"""Runs to look at: `python -m tests.web.runs DIRECTORY` makes several, `--large` also one of 10,000 checkpoints."""

from __future__ import annotations

import argparse
import math
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec.structs import replace

from keepstep import layout
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.model import Checkpoint, FileEntry, Kind
from keepstep.repository import MANIFEST_NAME, manifest
from keepstep.retention import Metric, Policy
from keepstep.run import Exactness, History, Reason, Receipt, Run
from keepstep.run.events import EventLog
from keepstep.stores import LocalStore
from tests.operations.runs import flip

LOSS = Metric("eval_loss", "min")
WEIGHTS, OPTIMIZER = 40_000, 80_000
"""Bytes of a demonstration checkpoint's files."""
VERSIONS = {"torch": "2.9.0", "transformers": "5.2.0", "world_size": 1, "parameters": 124_000_000, "dtype": "bfloat16"}
ARGUMENTS = {"learning_rate": 2e-5, "per_device_train_batch_size": 8, "seed": 42}


def write(directory: Path) -> None:
    """Files with the names that transformers gives them."""
    (directory / "model.safetensors").write_bytes(os.urandom(WEIGHTS))
    (directory / "optimizer.pt").write_bytes(os.urandom(OPTIMIZER))
    (directory / "scheduler.pt").write_bytes(b"s" * 1_000)
    (directory / "trainer_state.json").write_text("{}")


def loss_at(step: int, noise: random.Random, turn: int = 1_200) -> float:
    """A training loss that falls; after `turn` an evaluation's rises."""
    return 0.6 + 2.2 * math.exp(-step / 400) + 0.05 * noise.gauss(0, 1) + max(step - turn, 0) * 2e-4


class Trained:
    """A training without a model: it logs, saves, and holds the run's lock, as a real one does."""

    def __init__(
        self, path: Path, keep: str, *, resume: str | int | None = None, max_steps: int = 2_000, seed: int = 1
    ):
        self.checkpointer = Checkpointer(path, Policy.from_spec(keep, LOSS))
        point = self.checkpointer.begin(resume)
        self.run = self.checkpointer.run
        self.noise = random.Random(seed)
        self.history = History(self.run.store)
        came_from = point.checkpoint if point else None
        self.step = came_from.step if came_from else 0
        self.max_steps = max_steps
        self.history.begin(
            from_step=came_from.step if came_from else None,
            from_generation=came_from.generation if came_from else None,
            timeline=self.run.repository.current_timeline(),
            max_steps=max_steps,
        )
        if came_from is not None:
            reason = Reason(Exactness.EQUIVALENT, "torch was 2.8.0, now 2.9.0")
            self.checkpointer.note_resumed(Receipt(came_from.step, str(came_from.path), (reason,)))

    def go(self, until: int, *, every: int = 10, save_every: int = 100, nan_at: int | None = None) -> Trained:
        """Log and save up to a step."""
        while self.step < until:
            self.step += every
            value = loss_at(self.step, self.noise)
            rate = 2e-5 * (1 - self.step / self.max_steps)
            self.history.log(
                self.step,
                self.step / 500,
                {"loss": math.nan if self.step == nan_at else value, "learning_rate": rate, "grad_norm": 1 + value},
            )
            if self.step % save_every == 0:
                self.save()
        return self

    def save(self) -> Checkpoint:
        """An evaluation and a save of the present step."""
        metrics = {"eval_loss": loss_at(self.step, self.noise) + 0.05, "eval_runtime": 3.2}
        self.history.log(self.step, self.step / 500, metrics)
        facts = Facts(
            self.step,
            epoch=self.step / 500,
            metrics=metrics,
            written_by=VERSIONS,
            fingerprint={"arguments": ARGUMENTS, "versions": {"torch": VERSIONS["torch"]}},
        )
        return self.checkpointer.save(facts, write)

    def end(self, how: str | None = "finished") -> Run:
        """End the training well, with an error, or (None) as if it had been killed."""
        if how is not None:
            self.history.end(how)  # type: ignore[arg-type]
        self.checkpointer.close()
        return Run.open(self.run.path)


@contextmanager
def training(path: Path, keep: str = "best:3,latest:2", **options: object) -> Iterator[Trained]:
    """A training under way: the lock is held while the block runs."""
    trained = Trained(path, keep, **options)  # type: ignore[arg-type]
    try:
        yield trained
    finally:
        trained.end(None)


def finished(path: Path, keep: str = "best:3,latest:2,every:500", steps: int = 2_000) -> Run:
    """A run from its first to its last step."""
    return Trained(path, keep, max_steps=steps).go(steps).end()


def rewound(path: Path) -> Run:
    """A run that was stopped, resumed from an older checkpoint (a second timeline), and stopped again."""
    Trained(path, "best:3,latest:3", max_steps=1_500).go(900).end(None)
    run = Trained(path, "best:3,latest:3", resume=700, max_steps=1_500, seed=2).go(1_200, nan_at=1_010).end("failed")
    run.pin_board.pin(run.checkpoints[0].generation)
    run.pin_board.tag(run.checkpoints[-1].generation, "candidate")
    return run


def damaged(path: Path) -> Run:
    """A run with a flipped byte, found by a verification."""
    run = Trained(path, "latest:4", max_steps=600).go(600).end()
    victim = run.checkpoints[1]
    flip(path / victim.name / "model.safetensors")
    run.note_verified(run.verify(victim))
    return run


def cluttered(path: Path) -> Run:
    """A run with much beside its checkpoints: set aside, in quarantine, left over, of an older run, not managed."""
    run = rewound(path)
    victim = run.checkpoints[-2]
    flip(path / victim.name / "model.safetensors")
    with run.writing():
        run.quarantine(run.verify(victim))
    for place, size in (
        (f"{layout.STAGING}/0123/optimizer.pt", 11_000),
        (f"{layout.TRASH}/4567/model.safetensors", 7_000),
        (f"{layout.PREVIOUS}/old/checkpoint-100/model.safetensors", 40_000),
        ("checkpoint-50/model.safetensors", 30_000),
        ("training.log", 3_000),
    ):
        (path / place).parent.mkdir(parents=True, exist_ok=True)
        (path / place).write_bytes(bytes(size))
    return Run.open(path)


def large(path: Path, checkpoints: int, points: int = 0, *, metric: str = "eval_loss") -> Run:
    """A run of so many committed checkpoints and logged points, written without a sync and without bytes of tensors."""
    path.mkdir(parents=True)
    run = Run.create(path, Policy.from_spec("all", LOSS))
    noise, began = random.Random(0), datetime(2026, 1, 1, tzinfo=UTC)
    files = (
        FileEntry("model.safetensors", 1_000_000, "xxh3-128:" + "1" * 32),
        FileEntry("optimizer.pt", 2_000_000, "xxh3-128:" + "2" * 32),
        FileEntry("trainer_state.json", 1_000, "xxh3-128:" + "3" * 32),
    )
    store, log = LocalStore(path), EventLog(LocalStore(path))
    blank = Checkpoint(run.id, 0, 1, None, 0, None, Kind.FULL, began, {}, files, VERSIONS, {"arguments": ARGUMENTS})
    lines: list[bytes] = []
    for number in range(1, checkpoints + 1):
        step = number * 10
        metrics: Mapping[str, float] = {metric: loss_at(number, noise, checkpoints // 2)}
        created = began + timedelta(minutes=number)
        one = replace(blank, generation=number, step=step, created=created, metrics=metrics, parent=number - 1 or None)
        (path / one.name).mkdir()
        (path / one.name / MANIFEST_NAME).write_bytes(manifest.encode(one))
        lines.append(
            log_line(
                created, "committed", step=step, generation=number, timeline=1, kind="full", metrics=dict(metrics),
                size_bytes=one.size_bytes, replaces=[],
            )
        )  # fmt: skip
        lines.append(log_line(created, "kept", step=step, generation=number, blocked_seconds=0.01, durable_seconds=0.8))
    store.append(layout.EVENTS, b"".join(lines), durable=False)
    if points:
        history = History(store)
        history.begin(max_steps=points)
        for step in range(1, points + 1):
            history.log(step, None, {"loss": loss_at(step // 100, noise)})
        history.end("finished")
    del log
    return run


def log_line(time: datetime, event: str, **fields: object) -> bytes:
    """A line of an event log as it would have been written then."""
    import msgspec

    return msgspec.json.encode({"time": time, "event": event, **fields}) + b"\n"


def main() -> None:
    """Make the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    root: Path = options.directory
    finished(root / "sft")
    rewound(root / "dpo" / "rewound")
    cluttered(root / "cluttered")
    damaged(root / "damaged")
    Run.create(root / "new", Policy.from_spec("latest:2"))
    if options.large:
        large(root / "large", 10_000, 200_000)


if __name__ == "__main__":
    main()
