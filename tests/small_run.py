"""A tiny training for tests of the core: what it writes, how it saves, and what must hold afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from keepstep import layout
from keepstep.checkpointer import Checkpointer, Facts, Fresh
from keepstep.model import Checkpoint, Kind
from keepstep.repository import MANIFEST_NAME
from keepstep.retention import Metric, Policy
from keepstep.run import Run
from keepstep.stores import LocalStore

LOSS = Metric("eval_loss", "min")
FILES = ("model.bin", "state/optimizer.bin")


def content(name: str, step: int, size: int = 200) -> bytes:
    """The bytes of one file of one step."""
    return (f"{name} of step {step};".encode() * size)[:size]


def writer(step: int) -> Callable[[Path], None]:
    """Writes one checkpoint's files as a framework does, without any sync."""

    def write(directory: Path) -> None:
        for name in FILES:
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(content(name, step))

    return write


def make_checkpointer(path: Path, keep: str = "all", fresh: Fresh = "refuse") -> Checkpointer:
    """A checkpointer under a policy given as a spec."""
    return Checkpointer(path, Policy.from_spec(keep, LOSS), fresh=fresh)


def save(checkpointer: Checkpointer, step: int, loss: float | None = None, kind: Kind = Kind.FULL) -> Checkpoint:
    """Save one step."""
    metrics = {} if loss is None else {"eval_loss": loss}
    return checkpointer.save(Facts(step, kind=kind, metrics=metrics), writer(step))


def make_run(path: Path, *steps: int, keep: str = "all") -> Run:
    """A finished run with these steps; the loss of step N is 1/N."""
    checkpointer = make_checkpointer(path, keep)
    checkpointer.begin("auto")
    for step in steps:
        save(checkpointer, step, 1 / step)
    checkpointer.close()
    return Run.open(path)


def made_elsewhere(path: Path, *steps: int, finished: bool = False) -> Run:
    """The same by another process, of which this one knows nothing; `finished`: its loop said that it had ended."""
    child = os.fork()
    if child == 0:
        try:
            checkpointer = make_checkpointer(path)
            checkpointer.begin("auto")
            for step in steps:
                save(checkpointer, step, 1 / step)
            checkpointer.close(finished=finished)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    return Run.open(path)


def steps(run: Run) -> list[int]:
    """Steps of the committed checkpoints by generation."""
    return [checkpoint.step for checkpoint in run.checkpoints]


def litter(path: Path) -> list[str]:
    """What a killed process left behind in a run directory."""
    store = LocalStore(path)
    rooms = [f"{room}/{e.path}" for room in (layout.STAGING, layout.TRASH, layout.REPLACED) for e in store.list(room)]
    intents = [key for key in (layout.REWIND, layout.RETURN, layout.SWAP) if store.exists(key)]
    return rooms + intents + [e.path for e in store.list(layout.META) if e.path.endswith(".tmp")]


def assert_sound(run: Run) -> None:
    """Everything that is called checkpoint-N is complete, and every listed checkpoint holds."""
    names = {entry.path for entry in run.store.list("") if entry.path.startswith("checkpoint-")}
    assert names == {checkpoint.name for checkpoint in run.repository.listing().checkpoints}
    for checkpoint in run.checkpoints:
        assert run.verify(checkpoint).ok
        for name in FILES:
            assert checkpoint.path is not None
            assert (checkpoint.path / name).read_bytes() == content(name, checkpoint.step)


def manifest_of(checkpoint: Checkpoint) -> Path:
    """The path of a checkpoint's manifest."""
    assert checkpoint.path is not None
    return checkpoint.path / MANIFEST_NAME
