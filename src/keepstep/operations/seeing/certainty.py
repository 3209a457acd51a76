"""How sure a run's best is the best: its metric's course is gathered, and the arithmetic asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keepstep.model import Checkpoint
from keepstep.operations.seeing.curves import CurveReader
from keepstep.retention import FEWEST_EVALUATIONS, Certainty, Metric, certainty_of
from keepstep.run import Run

_EVERY_POINT = 10**9


def how_sure(run: Run, ranked: Sequence[Checkpoint], curves: CurveReader | None = None) -> Certainty | None:
    """How sure the first of the ranked checkpoints of a run is the best of them.

    None with fewer than 8 evaluations on the present course, and where the logs can't be read. `curves` is a reader of
    the run that is there already.
    """
    metric = run.policy.metric
    if metric is None or not ranked:
        return None
    try:
        return certainty_of(evaluations(run, metric, curves), ranked, metric)
    except OSError:
        return None


def certainty_of_best(run: Run, best: Checkpoint | None = None) -> Certainty | None:
    """How sure the run's best is, or, from there on, the next best that is taken in its place; as `how_sure`."""
    ranked = run.ranking(spoiled=True)
    wanted = best or run.best
    place = next((n for n, c in enumerate(ranked) if wanted and c.generation == wanted.generation), len(ranked))
    return how_sure(run, [c for c in ranked[place:] if c is ranked[place] or not c.spoiled])


def evaluations(run: Run, metric: Metric, curves: CurveReader | None = None) -> list[float]:
    """Values of the metric on the present course, in order of step: as they were logged, or, where few or none were,
    as commits and late metrics have them, those of removed checkpoints included.
    """
    logged = _logged(curves or CurveReader(run), metric)
    found = logged if len(logged) >= FEWEST_EVALUATIONS else {**_recorded(run, metric), **logged}
    return [found[step] for step in sorted(found)]


def _logged(curves: CurveReader, metric: Metric) -> dict[int, float]:
    # A metric's name without eval_ may be that of what the training itself logs.
    for name in (metric.name, f"eval_{metric.name}"):
        strands = curves.curves(names=(name,), points=_EVERY_POINT).strands[name]
        found = {step: value for s in strands if s.live for step, value in zip(s.steps, s.values, strict=True)}
        if found:
            return found
    return {}


def _recorded(run: Run, metric: Metric) -> dict[int, float]:
    """Values by step that the event log tells of; what a rewind left behind is dropped."""
    steps: dict[int, int] = {}
    values: dict[int, float] = {}
    for event in run.events.read():
        match event:
            case {"event": "committed", "generation": int(generation), "step": int(step)}:
                steps[generation] = step
            case {"event": "timeline", "from_generation": int(last)}:
                steps = {generation: step for generation, step in steps.items() if generation <= last}
            case _:
                pass
        if event["event"] in ("committed", "metrics") and isinstance(generation := event.get("generation"), int):
            values.update((generation, value) for value in _value(metric, event.get("metrics")))
    return {step: values[generation] for generation, step in sorted(steps.items()) if generation in values}


def _value(metric: Metric, metrics: Any) -> Iterator[float]:
    try:
        value = metric.value(metrics)
        if value is not None:
            yield float(value)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return
