"""The few lines that a managed training says: one at the start, one per commit, one at the end."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Collection

from keepstep.checkpointer import Checkpointer
from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint
from keepstep.operations.seeing.certainty import certainty_of_best
from keepstep.retention import Policy
from keepstep.run import Exactness
from keepstep.units import format_size

logger = logging.getLogger("keepstep")
NAME = "keepstep: "


class _BesideTqdm(logging.Handler):
    """Writes to stderr without breaking a progress bar that is being drawn there."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if sys.stderr.isatty():
            text = _folded(text)
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None:
            tqdm.tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)


def _folded(text: str) -> str:
    """Lines no wider than the terminal, the further ones indented; what is long by itself, a path, stays whole."""
    width = max(_columns() - 1, 40)
    lines = [
        textwrap.fill(line, width, subsequent_indent=" " * len(NAME), break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    ]
    return "\n".join(lines)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def make_visible() -> None:
    """Let keepstep's lines reach stderr in a program that configures no logging; leave every other alone."""
    if not logger.handlers and not logging.getLogger().handlers and logger.level == logging.NOTSET:
        handler = _BesideTqdm()
        handler.setFormatter(logging.Formatter(f"{NAME}%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def listed(names: Collection[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def say_start(checkpointer: Checkpointer, *, resume: str, saves: str) -> None:
    """The receipt, then one line: policy, metric with its direction, directory, resume point, saves to come."""
    receipt = checkpointer.receipt
    if receipt is not None:
        level = logging.INFO if receipt.level is Exactness.EXACT else logging.WARNING
        for line in receipt.lines():
            logger.log(level, "%s", line)
    policy = checkpointer.policy
    metric = f"metric {policy.metric.name} ({policy.metric.direction})" if policy.metric else "no metric"
    logger.info("keeping %s; %s; run %s; %s; %s", policy.describe(), metric, checkpointer.path, resume, saves)


def say_commit(checkpointer: Checkpointer, checkpoint: Checkpoint, blocked: float, durable: float) -> None:
    """Step, metric, why it is kept, seconds that training was held up and until it was durable, what was removed."""
    plan = checkpointer.plan
    assert plan is not None
    because = "; ".join(_telling(plan.reasons(checkpoint.generation)))
    gone = f"; removed {', '.join(c.name for c in plan.remove)}" if plan.remove else ""
    gone += f"; thinned to weights {', '.join(str(c.step) for c in plan.thin)}" if plan.thin else ""
    value = _value(checkpointer.policy, checkpoint)
    size = format_size(checkpoint.size_bytes)
    took = f"held up {blocked:.3f} s, durable after {durable:.2f} s"
    logger.info("saved step %d%s: %s; %s, %s%s", checkpoint.step, value, because, size, took, gone)


def say_turned_away(checkpointer: Checkpointer, step: int) -> None:
    """A save that is due was not begun, because the one before is still on its way to the disk."""
    later = "the latest step is saved once there is room" if checkpointer.owes else "it is left out"
    logger.warning("step %d is due to be saved, but the disk is still busy with the one before: %s", step, later)


def say_end(checkpointer: Checkpointer, save_strategy: str) -> None:
    """What is on disk, the best and the newest; loudly when there is nothing."""
    try:
        run = checkpointer.run
        checkpoints, best, latest = run.checkpoints, run.best, run.latest
    except KeepstepError:
        return
    if latest is None:
        logger.warning("the training ends without a single checkpoint (save_strategy=%r)", save_strategy)
        return
    ranked = f"best {best.name}{_value(checkpointer.policy, best)}" if best else "none is ranked"
    if best and (spoiled := run.spoiled_before(best)):
        named = ", ".join(f"{one.name}{_value(checkpointer.policy, one)}" for one in spoiled)
        ranked += f" of those that hold ({named}: better, but damaged)"
    if best and (why := run.events.unloaded().get(best.generation)):
        ranked += f" (it did not come back into the model: {why})"
    count = "1 checkpoint" if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"
    logger.info("done: %s in %s; %s; newest %s", count, run.path, ranked, latest.name)
    if (sure := certainty_of_best(run)) is not None:
        logger.info("%s", sure.describe())


def _value(policy: Policy, checkpoint: Checkpoint) -> str:
    value = policy.metric.value(checkpoint.metrics) if policy.metric else None
    return f", {policy.metric.name} {value:.6g}" if policy.metric and value is not None else ""


def _telling(reasons: tuple[str, ...]) -> list[str]:
    """Reasons without what every newest checkpoint has, and without values that the line has already."""
    telling = [reason.partition(" (")[0] for reason in reasons if not reason.startswith("newest:")]
    return telling or list(reasons)
