"""The few lines that a managed training says: one at the start, one per commit, one at the end."""

from __future__ import annotations

import logging
import sys

from holdfast.model import Checkpoint
from holdfast.retention import Plan, Policy

logger = logging.getLogger("holdfast")


class _BesideTqdm(logging.Handler):
    """Writes to stderr without breaking a progress bar that is being drawn there."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None:
            tqdm.tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)


def make_visible() -> None:
    """Let holdfast's lines reach stderr in a program that configures no logging; leave every other alone."""
    if not logger.handlers and not logging.getLogger().handlers and logger.level == logging.NOTSET:
        handler = _BesideTqdm()
        handler.setFormatter(logging.Formatter("holdfast: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def human_bytes(count: float) -> str:
    """Decimal units as disks are sold: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def start_line(policy: Policy, directory: str, resume: str, saves: str) -> str:
    """Policy, metric with its direction, run directory, resume point and what it will cost."""
    metric = f"metric {policy.metric.name} ({_direction(policy)})" if policy.metric else "no metric"
    return f"keeping {policy.describe()}; {metric}; run {directory}; {resume}; {saves}"


def commit_line(checkpoint: Checkpoint, plan: Plan, policy: Policy, seconds: float, removed: list[Checkpoint]) -> str:
    """Step, metric, why it is kept, how long training was held up, and what was removed."""
    value = policy.metric.value(checkpoint.metrics) if policy.metric else None
    metric = f", {policy.metric.name} {value:.6g}" if policy.metric and value is not None else ""
    because = "; ".join(plan.reasons(checkpoint.generation))
    gone = f"; removed {', '.join(c.name for c in removed)}" if removed else ""
    size = human_bytes(checkpoint.size_bytes)
    return f"saved step {checkpoint.step}{metric}: {because}; {size} in {seconds:.2f} s{gone}"


def _direction(policy: Policy) -> str:
    assert policy.metric is not None
    return "lower is better" if policy.metric.mode == "min" else "higher is better"
