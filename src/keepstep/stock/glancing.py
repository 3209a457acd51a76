"""One look at a directory of stock checkpoints by names, times and the newest log: many of them in a moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from keepstep.model import Checkpoint, Kind, parse_name
from keepstep.retention import Metric
from keepstep.stock import trainer_state
from keepstep.stock.contents import Contents, ended_ns, lacks_by_names
from keepstep.stock.course import Saved, courses
from keepstep.stock.repository import UNMANAGED
from keepstep.stock.settings import USUAL_METRIC, named_metric
from keepstep.stock.trainer_state import TrainerState
from keepstep.stores import LocalStore


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint's directory: its name, the step and the kind in it, and when the last file was made in it."""

    name: str
    step: int
    kind: Kind
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look found. No file of a checkpoint was examined: nothing here says that one is whole.

    `checkpoints` are in the order of their courses, without their files and their paths, each with its value of
    `metric` where it was
    evaluated at its step; `values` are those of all evaluations that the newest log has, in order of step. `lacks` are
    files that a resume needs and the newest checkpoint has not, by their names.
    """

    path: Path
    places: tuple[Place, ...]
    checkpoints: tuple[Checkpoint, ...]
    metric: Metric | None
    values: tuple[float, ...]
    lacks: tuple[str, ...]

    @property
    def latest(self) -> Checkpoint:
        """The newest checkpoint."""
        return self.checkpoints[-1]

    def path_of(self, checkpoint: Checkpoint) -> Path:
        """Where one of the checkpoints lies."""
        return self.path / self.places[checkpoint.generation - 1].name


LOOKS = 3
"""The newest checkpoints whose arguments are tried."""
MetricOf = Callable[[Path, Sequence[Place]], Metric | None]
"""The metric that a training's own arguments name, by its directory and its checkpoints."""


def places_of(path: Path) -> tuple[Place, ...]:
    """The directories in a directory that are called like checkpoints, by step. Raises OSError."""
    found: list[Place] = []
    with os.scandir(path) as entries:
        for entry in entries:
            parsed = parse_name(entry.name)
            if parsed is not None and entry.is_dir(follow_symlinks=False):
                kind, step = parsed
                found.append(Place(entry.name, step, kind, entry.stat(follow_symlinks=False).st_mtime_ns))
    return tuple(sorted(found, key=_by_step))


def glance(path: Path, metric_of: MetricOf | None = None) -> Glance | None:
    """One look at a directory; None where no checkpoint lies in it. Raises OSError.

    Where the times of the directories don't follow their steps, every log is read, to tell courses apart.
    """
    places = places_of(path)
    if not places:
        return None
    states: dict[str, TrainerState] = {}
    if any(one.mtime_ns > later.mtime_ns for one, later in pairwise(places)):
        states = _states(path, places)
        order = courses([Saved(p.name, p.step, ended_ns(path / p.name), states.get(p.name)) for p in places]).order
        by_name = {place.name: place for place in places}
        places = tuple(by_name[name] for name in order)
    metric = (metric_of or named_by_newest)(path, places)
    log = _log(path, places, metric or _USUAL)
    if metric is None and log:
        metric = _USUAL
    own: dict[str, float | None] = {place.name: log.get(place.step) for place in places}
    if states and metric is not None:
        own |= {name: state.metrics().get(metric.name) for name, state in states.items()}
    checkpoints = tuple(
        _checkpoint(place, number, metric, own[place.name]) for number, place in enumerate(places, start=1)
    )
    return Glance(path, places, checkpoints, metric, tuple(log[step] for step in sorted(log)), _lacks(path, places[-1]))


_USUAL = Metric(USUAL_METRIC, "min")


def named_by_newest(path: Path, places: Sequence[Place]) -> Metric | None:
    """The metric that the newest arguments name, of those that can be read; None where they name none."""
    for place in places[: -LOOKS - 1 : -1]:
        found = named_metric(path / place.name)
        if found is not False:
            return found
    return None


def _states(path: Path, places: Sequence[Place]) -> dict[str, TrainerState]:
    found: dict[str, TrainerState] = {}
    for place in places:
        with suppress(OSError):
            state = trainer_state.read_state(path / place.name)
            if isinstance(state, TrainerState) and state.step == place.step:
                found[place.name] = state
    return found


def _log(path: Path, places: Sequence[Place], metric: Metric) -> dict[int, float]:
    """Values of a metric by step, by the newest log that can be read."""
    for place in reversed(places):
        with suppress(OSError):
            found = trainer_state.values_in(path / place.name, metric.name)
            if found is not None:
                return found
    return {}


def _checkpoint(place: Place, number: int, metric: Metric | None, value: float | None) -> Checkpoint:
    return Checkpoint(
        run_id=UNMANAGED,
        generation=number,
        timeline=1,
        parent=None,
        step=place.step,
        epoch=None,
        kind=place.kind,
        created=datetime.fromtimestamp(place.mtime_ns / 1e9, UTC),
        metrics={} if metric is None or value is None else {metric.name: value},
        files=(),
    )


def _lacks(path: Path, newest: Place) -> tuple[str, ...]:
    entries = LocalStore(path).walk(newest.name)
    return lacks_by_names(Contents(path / newest.name, newest.step, tuple(entries)))


def _by_step(place: Place) -> tuple[int, str]:
    return place.step, place.name
