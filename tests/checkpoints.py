"""Checkpoints made up for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from keepstep.model import Checkpoint, FileEntry, Kind, State

EPOCH = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
"""Creation time of generation 0 in tests; each generation is ten minutes after the one before."""


def make_checkpoint(
    generation: int,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
    *,
    kind: Kind = Kind.FULL,
    created: datetime | None = None,
    size: int = 1000,
    optimizer: int = 0,
    timeline: int = 0,
    parent: int | None = None,
    state: State = State.COMMITTED,
    run_id: str = "run-test",
) -> Checkpoint:
    """A checkpoint of weights of `size` bytes and, where it has any, an optimizer's state.

    The step is 100 times the generation unless given.
    """
    return Checkpoint(
        run_id=run_id,
        generation=generation,
        timeline=timeline,
        parent=parent,
        step=100 * generation if step is None else step,
        epoch=None,
        kind=kind,
        created=created or EPOCH + timedelta(minutes=10 * generation),
        metrics=dict(metrics or {}),
        files=(
            FileEntry("model.safetensors", size, f"xxh3-128:{generation:032x}"),
            *([FileEntry("optimizer.pt", optimizer, "xxh3-128:" + "0" * 32)] if optimizer else []),
        ),
        state=state,
    )


def make_run(values: Sequence[float | None], *, metric: str = "eval_loss", every: int = 100) -> tuple[Checkpoint, ...]:
    """One full checkpoint per value, saved every so many steps; None is a save without an evaluation."""
    return tuple(
        make_checkpoint(number, number * every, None if value is None else {metric: value})
        for number, value in enumerate(values, start=1)
    )
