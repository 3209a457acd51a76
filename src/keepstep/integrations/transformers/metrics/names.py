"""Which metrics a trainer's evaluations will have, where that can be known before the first."""

from __future__ import annotations

from typing import Any

from keepstep.integrations.transformers.metrics.evaluations import TIMINGS, did_you_mean
from keepstep.integrations.transformers.setup.bystanders import is_of, overrides
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.integrations.transformers.setup.own_code import OURS, is_stock
from keepstep.retention import Metric

_ADD_METRICS = ("evaluate", "_evaluate", "evaluation_loop", "prediction_loop", "log")
"""Methods in which trainers of others add to what an evaluation has."""


def warn_of_unknown(trainer: Any, metric: Metric | None) -> bool:
    """True, which is said with what may be meant, where the trainer's evaluations are known not to have the metric."""
    names = _evaluated(trainer)
    if metric is None or names is None or metric.name in names or metric.name.endswith(TIMINGS):
        return False
    text = "%s is not what this trainer evaluates (%s): nothing can be ranked by it%s"
    logger.warning(text, metric.name, ", ".join(names), did_you_mean(metric.name, names))
    return True


def _evaluated(trainer: Any) -> list[str] | None:
    """Names of what an evaluation of a stock trainer has, clock times aside; None where others may add some."""
    own = not all(is_stock(trainer, name) for name in _ADD_METRICS)
    heard = any(overrides(callback, "on_evaluate") for callback in _of_others(trainer))
    if own or heard or trainer.compute_metrics is not None or not trainer.args.skip_memory_metrics:
        return None
    if trainer.eval_dataset is None:
        return None
    if isinstance(trainer.eval_dataset, dict):
        return [f"eval_{name}_loss" for name in trainer.eval_dataset]
    return ["eval_loss"]


def _of_others(trainer: Any) -> list[Any]:
    """Callbacks that may add to the metrics that they hear of."""
    return [c for c in trainer.callback_handler.callbacks if not is_of(c, ("transformers.", OURS))]
