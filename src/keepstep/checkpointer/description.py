"""What a checkpointer manages, in one line for people."""

from __future__ import annotations

from pathlib import Path

from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint
from keepstep.retention import Policy
from keepstep.run import Limits, Run
from keepstep.units import format_size


def describe(path: Path, policy: Policy, limits: Limits, every: str, run: Run | None) -> str:
    """The run's directory, what is kept and by which metric, the limits, and what is there now; it never fails.

    `run` is the one that trains, None where none does.
    """
    parts = [f"{path}: keeping {policy.describe()}"]
    parts += [f"metric {policy.metric.name} ({policy.metric.direction})"] if policy.metric else ["no metric"]
    parts += [f"budget {format_size(limits.budget)}"] if limits.budget is not None else []
    parts += [f"{format_size(limits.min_free)} stay free"] if limits.min_free else []
    parts += ["shares its room with others of its tree"] if limits.shared else []
    parts += [f"a save {every} at least"] if every else []
    parts.append(_there(path, run))
    return "; ".join(parts)


def _there(path: Path, run: Run | None) -> str:
    try:
        found = run or Run.open(path)
        checkpoints, best = found.checkpoints, found.best
    except (KeepstepError, OSError):
        return "no checkpoint yet"
    state = "training" if run is not None else "not training"
    if not checkpoints:
        return f"no checkpoint yet ({state})"
    count = "1 checkpoint" if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"
    size = format_size(sum(checkpoint.size_bytes for checkpoint in checkpoints))
    ranked = f", best step {best.step}{_value(best, found.policy)}" if best is not None else ""
    return f"{count}, {size}{ranked}, newest step {checkpoints[-1].step} ({state})"


def _value(checkpoint: Checkpoint, policy: Policy) -> str:
    value = policy.metric.value(checkpoint.metrics) if policy.metric else None
    return "" if value is None else f" ({value:.6g})"
