"""What evaluations say about the present step: its metrics, and whether it is a new best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepstep.integrations.transformers.metrics.numbers import number
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.model import Checkpoint
from keepstep.retention import Metric, nearest

TIMINGS = ("_runtime", "_per_second", "_preparation_time")
"""Endings of what a trainer logs of the clock beside every evaluation."""


class Evaluations:
    """The metrics of the last evaluated step, and the comparison by which a new best is found."""

    def __init__(self, metric: Metric | None) -> None:
        self.known_missing = False
        """True where it was said before that the metric is none of this trainer's."""
        self.start(metric)

    def start(self, metric: Metric | None, step: int = -1, values: Mapping[str, float] | None = None) -> None:
        """Begin anew, or with what is known of a step."""
        self._metric = metric
        self._step, self._values = step, dict(values or {})
        self._found = metric is not None and metric.value(self._values) is not None
        self._warned = False

    def note(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Add an evaluation's metrics to those of its step; returns the numbers among them.

        Clock times are left out, unless one is what checkpoints are ranked by.
        """
        found = {name: value for name, value in _numbers(metrics).items() if not _is_timing(name)}
        chosen = self._value(metrics)
        if self._metric is not None and chosen is not None:
            found.setdefault(self._metric.name, chosen)
        self._values = {**(self._values if self._step == step else {}), **found}
        self._step = step
        return found

    def of(self, step: int) -> dict[str, float]:
        """Metrics of a step, empty when it was not evaluated."""
        return dict(self._values) if self._step == step else {}

    def new_best(self, metrics: Mapping[str, Any], before: float | None, step: int) -> float | None:
        """The metric's value when it beats `before`; None when not, or when it is missing or NaN, which is said."""
        metric, value = self._metric, self._value(metrics)
        if metric is None:
            return None
        if value is None:
            self._warn_missing(metric, metrics, step)
            return None
        self._found = True
        if math.isnan(value):
            logger.warning("%s is NaN at step %d: it ranks last", metric.name, step)
        elif before is None or math.isinf(before) or metric.better(value, before):
            return value
        return None

    def best_path(self, metrics: Mapping[str, float], mine: Path, best: Checkpoint | None) -> str | None:
        """The best checkpoint's path once the one at `mine` is committed, for stock tools; None when none is ranked."""
        if self._leads(metrics, best):
            return str(mine)
        return str(best.path) if best else None

    def _leads(self, metrics: Mapping[str, float], best: Checkpoint | None) -> bool:
        mine = self._metric.value(metrics) if self._metric else None
        if self._metric is None or mine is None or math.isnan(mine):
            return False
        other = self._metric.value(best.metrics) if best else None
        return other is None or self._metric.better(mine, other)

    def _value(self, metrics: Mapping[str, Any]) -> float | None:
        return self._metric.value(_numbers(metrics)) if self._metric else None

    def _warn_missing(self, metric: Metric, metrics: Mapping[str, Any], step: int) -> None:
        """Once a training: the names that there are, and those that may be meant."""
        if self._warned:
            return
        self._warned = True
        if metric.name in metrics:
            kind = type(metrics[metric.name]).__name__
            logger.warning("%s is a %s at step %d, no number: nothing is ranked by it", metric.name, kind, step)
        elif self._found:
            text = "%s is not among the metrics of step %d: a step without it is not ranked"
            logger.warning(text, metric.name, step)
        elif not self.known_missing:
            names = [name for name in _numbers(metrics) if not _is_timing(name)]
            text = "%s is not among the evaluation's metrics (%s): nothing is ranked by it%s"
            logger.warning(text, metric.name, ", ".join(sorted(names)), did_you_mean(metric.name, names))


def did_you_mean(name: str, names: list[str]) -> str:
    """`; did you mean eval_loss?`, empty where no name is like it."""
    likely = nearest(name, names)
    return f"; did you mean {' or '.join(likely)}?" if likely else ""


def _numbers(metrics: Mapping[Any, Any]) -> dict[str, float]:
    """What of an evaluation is a number, by a name that is a text; the epoch is no metric."""
    found = {name: number(value) for name, value in metrics.items() if isinstance(name, str) and name != "epoch"}
    return {name: value for name, value in found.items() if value is not None}


def _is_timing(name: str) -> bool:
    return name.endswith(TIMINGS)
