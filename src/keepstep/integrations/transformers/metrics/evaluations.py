"""What evaluations say about the present step: its metrics, and whether it is a new best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepstep.integrations.transformers.setup.messages import logger
from keepstep.model import Checkpoint
from keepstep.retention import Metric

_TIMINGS = ("_runtime", "_per_second", "_preparation_time")
"""Endings of what a trainer logs of the clock beside every evaluation."""


class Evaluations:
    """The metrics of the last evaluated step, and the comparison by which a new best is found."""

    def __init__(self, metric: Metric | None) -> None:
        self._metric = metric
        self._step = -1
        self._values: dict[str, float] = {}
        self._warned = False

    def start(self, step: int = -1, values: Mapping[str, float] | None = None) -> None:
        """Begin anew, or with what is known of a step."""
        self._step, self._values, self._warned = step, dict(values or {}), False

    def note(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Add an evaluation's metrics to those of its step; returns the numbers among them, clock times aside."""
        found = {name: float(metrics[name]) for name in _names(metrics) if isinstance(metrics[name], (int, float))}
        self._values = {**(self._values if self._step == step else {}), **found}
        self._step = step
        return found

    def of(self, step: int) -> dict[str, float]:
        """Metrics of a step, empty when it was not evaluated."""
        return dict(self._values) if self._step == step else {}

    def new_best(self, metrics: Mapping[str, Any], before: float | None, step: int) -> float | None:
        """The metric's value when it beats `before`; None when not, or when it is missing or NaN, which is said."""
        metric = self._metric
        if metric is None:
            return None
        value = metric.value({name: float(v) for name, v in metrics.items() if isinstance(v, (int, float))})
        if value is None:
            self._warn_missing(metric, metrics)
        elif math.isnan(value):
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
        return other is None or not self._metric.better(other, mine)

    def _warn_missing(self, metric: Metric, metrics: Mapping[str, Any]) -> None:
        if not self._warned:
            names = ", ".join(sorted(_names(metrics)))
            text = "%s is not among the evaluation's metrics (%s): nothing is ranked by it"
            logger.warning(text, metric.name, names)
        self._warned = True


def _names(metrics: Mapping[str, Any]) -> list[str]:
    return [name for name in metrics if name != "epoch" and not name.endswith(_TIMINGS)]
