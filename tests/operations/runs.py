"""Real runs on disk for tests, and ways to damage them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.model import Kind
from keepstep.retention import Metric, Policy
from keepstep.run import Run

LOSS = Metric("eval_loss", "min")
SIZE = 1000
"""Bytes of every checkpoint: 900 of weights, 100 of optimizer state."""


def write(directory: Path) -> None:
    """The files of one checkpoint."""
    (directory / "model.safetensors").write_bytes(b"w" * 900)
    (directory / "optimizer.pt").write_bytes(b"o" * 100)


@contextmanager
def training(path: Path, keep: str = "all", metric: Metric | None = LOSS) -> Iterator[Checkpointer]:
    """A training that holds the run's lock."""
    checkpointer = Checkpointer(path, Policy.from_spec(keep, metric))
    checkpointer.begin("auto")
    try:
        yield checkpointer
    finally:
        checkpointer.close()


def make_run(
    path: Path,
    losses: Mapping[int, float | None],
    keep: str = "all",
    metric: Metric | None = LOSS,
    kind: Kind = Kind.FULL,
) -> Run:
    """A finished run with a checkpoint of `SIZE` bytes for each step and its loss (None: not evaluated)."""
    with training(path, keep, metric) as checkpointer:
        for step, loss in losses.items():
            metrics = {} if loss is None else {"eval_loss": loss, "eval_runtime": 1.5}
            facts = Facts(step, epoch=step / 100, kind=kind, metrics=metrics, written_by={"torch": "2.0"})
            checkpointer.save(facts, write)
    return Run.open(path)


def flip(path: Path) -> None:
    """Change one byte and nothing else."""
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def cut_manifest(checkpoint: Path) -> None:
    """A manifest of which only the beginning reached the disk."""
    manifest = checkpoint / "keepstep.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
