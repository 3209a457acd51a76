"""A row for each of many runs: what it does, what is best in it, what it takes, and whether it can be resumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from keepstep.errors import CheckpointNotFound
from keepstep.model import Checkpoint
from keepstep.operations.remembering import Known, Memory, Named, is_settled
from keepstep.operations.seeing.certainty import how_sure
from keepstep.operations.seeing.overview import Course, activity
from keepstep.operations.usage.sizes import Sizes, bytes_below, total
from keepstep.retention import Certainty, Metric, certainty_of, rank
from keepstep.run import Run, has_ended, is_run
from keepstep.stock import Glance, Place, glance, named_by_newest
from keepstep.strict import finite_or_name

NOT_MANAGED = "not managed"
"""The state of a run that others write: nobody can ask whether it trains."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run in a list of several; `size_bytes` of its checkpoints, `latest` when the newest was saved."""

    path: Path
    managed: bool
    state: str
    checkpoints: int
    step: int | None
    metric: Metric | None
    best_step: int | None
    best_value: float | None
    size_bytes: int
    latest: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: bytes, times in ISO 8601 UTC."""
        return {
            "run": str(self.path),
            "managed": self.managed,
            "state": self.state,
            "checkpoints": self.checkpoints,
            "step": self.step,
            **_metric_json(self.metric),
            "best_step": self.best_step,
            "best_value": None if self.best_value is None else finite_or_name(self.best_value),
            "size_bytes": self.size_bytes,
            "latest": None if self.latest is None else self.latest.astimezone(UTC).isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Resumable:
    """Whether the newest checkpoint of a run can be resumed from, as far as `by` goes: `manifest`, what was committed
    and is not known to be damaged; `names`, the files that are there. `why` is empty where it can be.
    """

    by: str
    why: str

    @property
    def yes(self) -> bool:
        """True where nothing that was looked at speaks against it."""
        return not self.why


@dataclass(frozen=True, slots=True)
class BestRow:
    """The best checkpoint of one run of several, by what was logged: no byte of it was verified."""

    path: Path
    managed: bool
    checkpoint: Checkpoint
    metric: Metric
    value: float
    size_bytes: int
    resumable: Resumable
    certainty: Certainty | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; bytes."""
        return {
            "run": str(self.path),
            "managed": self.managed,
            "step": self.checkpoint.step,
            "path": str(self.checkpoint.path),
            **_metric_json(self.metric),
            "value": finite_or_name(self.value),
            "size_bytes": self.size_bytes,
            "resumable": self.resumable.yes,
            "resumable_by": self.resumable.by,
            "not_resumable_because": self.resumable.why or None,
            "certainty": None if self.certainty is None else self.certainty.to_json(),
        }


def _metric_json(metric: Metric | None) -> dict[str, Any]:
    return {"metric": metric.name if metric else None, "mode": metric.mode if metric else None}


class Survey:
    """Looks at runs one by one. Of a managed one it reads manifests and logs; of another, names, times, the newest log,
    and, for sizes, how long each file is where that is not remembered.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._sizes = Sizes(memory)

    def end(self) -> None:
        """Keep the cache small."""
        self._memory.trim()

    def row(self, path: Path) -> RunRow:
        """A run as it is listed. Raises RunNotFound and what `Run.open` raises, OSError."""
        if (found := self._glance(path)) is not None:
            best = _first(found.checkpoints, found.metric)
            return _row(
                path, found.checkpoints, found.metric, best, total(self._sizes.of(path, found.places)), NOT_MANAGED
            )
        run = Run.open(path)
        checkpoints, metric = run.checkpoints, run.policy.metric
        newest = checkpoints[-1] if checkpoints else None
        course = Course(ended="finished") if has_ended(run) else Course()
        state = activity(run, newest.step if newest else None, course).value
        size = sum(checkpoint.size_bytes for checkpoint in checkpoints)
        return _row(path, checkpoints, metric, _first(checkpoints, metric), size, state)

    def best(self, path: Path) -> BestRow:
        """The best of a run. Raises CheckpointNotFound where none can be ranked; as `row`."""
        if (found := self._glance(path)) is not None:
            metric, ranked = found.metric, rank(found.checkpoints, found.metric) if found.metric else ()
            sure = certainty_of(found.values, ranked, metric) if metric and ranked else None
            if ranked:
                ranked = (structs.replace(ranked[0], path=found.path_of(ranked[0])), *ranked[1:])
            size = bytes_below(found.path_of(ranked[0])) if ranked else 0
            why = f"{found.latest.name} lacks {' and '.join(found.lacks)}" if found.lacks else ""
            return _best(path, metric, ranked, size, Resumable("names", why), sure, managed=False)
        run = Run.open(path)
        metric, checkpoints = run.policy.metric, run.checkpoints
        ranked = rank(checkpoints, metric) if metric else ()
        size = ranked[0].size_bytes if ranked else 0
        return _best(path, metric, ranked, size, _resumable(checkpoints), how_sure(run, ranked), managed=True)

    def _glance(self, path: Path) -> Glance | None:
        """A look at what keepstep does not manage; None for a run of its own, and for what is no run."""
        if is_run(path) or not path.is_dir():
            return None
        return glance(path, self._metric_of)

    def _metric_of(self, path: Path, places: Sequence[Place]) -> Metric | None:
        newest = places[-1]
        known = self._memory.recall(path)
        named = known.named
        if named is not None and (named.checkpoint, named.mtime_ns) == (newest.name, newest.mtime_ns):
            return _metric_of(named)
        metric = named_by_newest(path, places)
        # What says None is told in a moment, and need not be remembered.
        if metric is not None and is_settled(newest.mtime_ns):
            named = Named(newest.name, newest.mtime_ns, metric.name, metric.mode)
            self._memory.keep(path, Known(known.sizes, named))
        return metric


def _metric_of(named: Named) -> Metric | None:
    if named.metric is None or named.mode not in ("min", "max"):
        return None
    return Metric(named.metric, named.mode)


def _first(checkpoints: Sequence[Checkpoint], metric: Metric | None) -> Checkpoint | None:
    return next(iter(rank(checkpoints, metric)), None) if metric else None


def _row(  # noqa: PLR0917
    path: Path,
    checkpoints: Sequence[Checkpoint],
    metric: Metric | None,
    best: Checkpoint | None,
    size: int,
    state: str,
) -> RunRow:
    newest = checkpoints[-1] if checkpoints else None
    return RunRow(
        path=path,
        managed=state != NOT_MANAGED,
        state=state,
        checkpoints=len(checkpoints),
        step=newest.step if newest else None,
        metric=metric,
        best_step=best.step if best else None,
        best_value=metric.value(best.metrics) if metric and best else None,
        size_bytes=size,
        latest=newest.created if newest else None,
    )


def _best(  # noqa: PLR0917
    path: Path,
    metric: Metric | None,
    ranked: Sequence[Checkpoint],
    size: int,
    resumable: Resumable,
    sure: Certainty | None,
    *,
    managed: bool,
) -> BestRow:
    if metric is None or not ranked:
        why = f"none has a value of {metric.name}" if metric else "it has no metric to rank by"
        raise CheckpointNotFound(f"{path} has no best checkpoint: {why}", hint=f"See what there is: keepstep ls {path}")
    value = metric.value(ranked[0].metrics)
    return BestRow(path, managed, ranked[0], metric, math.nan if value is None else value, size, resumable, sure)


def _resumable(checkpoints: Sequence[Checkpoint]) -> Resumable:
    newest = checkpoints[-1] if checkpoints else None
    if newest is None:
        return Resumable("manifest", "it has no checkpoint")
    if newest.damage:
        return Resumable("manifest", f"{newest.name} is damaged")
    return Resumable("manifest", "" if newest.resumable else f"{newest.name} holds weights only")
