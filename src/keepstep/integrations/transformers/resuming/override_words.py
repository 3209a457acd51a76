"""What is overridden at a resume, in words: what continues, and what jumps."""

from __future__ import annotations

from collections.abc import Iterator

from keepstep.integrations.transformers.resuming.in_force import in_force, scheduler_is_given, words_of
from keepstep.integrations.transformers.resuming.override import Override
from keepstep.integrations.transformers.setup.overrides import (
    KINDS,
    OF_BATCH,
    OF_CHANCE,
    OF_OPTIMIZER,
    OF_SCHEDULE,
    WORLD_SIZE,
)
from keepstep.run import Exactness, Reason


def reasons_of_override(override: Override) -> list[Reason]:
    """A reason for each argument that has its new value by an override; none where nothing is resumed."""
    if not override.resumes:
        return []
    return [*_of_optimizer(override), *_of_schedule(override), *_of_batch(override), *_of_chance(override)]


def unchanging(override: Override) -> str:
    """One line about what changes nothing, or is in force without being named; empty where there is none."""
    if not override.resumes:
        return ""
    rest = [name for name in override.names if name in KINDS and name not in override.changed]
    lacking = [name for name in rest if name in OF_OPTIMIZER and name not in in_force(override.trainer)]
    same = [name for name in rest if name not in lacking]
    anyway = [name for name in override.names if name not in KINDS]
    parts = [f"{', '.join(same)}: as at the save, nothing changes by it"] if same else []
    parts += [f"{', '.join(lacking)}: no part of this optimizer"] if lacking else []
    parts += [f"{', '.join(anyway)}: in force anyway, named or not"] if anyway else []
    return f"override: {'; '.join(parts)}" if parts else ""


def _of_optimizer(override: Override) -> Iterator[Reason]:
    for name, (before, now) in override.optimizer.items():
        text = (
            f"{name} {words_of(before)} → {words_of(now)} from step {override.step}: the optimizer's moments continue"
        )
        if name == "learning_rate":
            text += f"; {_counts_from(override)}; {_rate_goes(override)}"
        yield Reason(Exactness.APPROXIMATE, text)


def _counts_from(override: Override) -> str:
    if getattr(override.trainer.lr_scheduler, "base_lrs", None):
        return f"the schedule counts from the new peak at step {override.step} of {override.samples.max_steps}"
    return "the scheduler goes on from the new rate, by the metric"


def _rate_goes(override: Override) -> str:
    before, now = (words_of(rates, 6) for rates in override.rates)
    return f"the rate stays {now}" if before == now else f"the rate jumps from {before} to {now} at this step"


def _of_schedule(override: Override) -> Iterator[Reason]:
    total, planned = override.samples.max_steps, override.planned
    for name in (name for name in OF_SCHEDULE if name in override.names and override.differs(name)):
        parts: list[str] = []
        level = Exactness.APPROXIMATE
        ends = name in ("num_train_epochs", "max_steps")
        if ends:
            parts.append(f"it ends at step {total}" + (f", before at {planned}" if planned != total else ""))
        if scheduler_is_given(override.trainer):
            parts.append("the scheduler that is handed over makes nothing of it")
        else:
            if ends and total > planned and _stays(override):
                level = Exactness.EXACT
            elif ends and total != planned:
                parts.append("the schedule is stretched" if total > planned else "the schedule is shortened")
            else:
                parts.append(f"the schedule is the new one's at step {override.step} of {total}")
            parts.append(_rate_goes(override))
            parts += [f"exact up to step {planned}"] if level is Exactness.EXACT else []
        yield Reason(level, f"{_change(override, name)}: {'; '.join(parts)}")


def _stays(override: Override) -> bool:
    """True where the plan of now has one rate from here to the end that was planned, and it is that of the save."""
    scheduler, step, last = override.trainer.lr_scheduler, override.step, max(override.planned - 1, override.step)
    if not hasattr(scheduler, "lr_lambdas") or override.rates[0] != override.rates[1] or override.optimizer:
        return False
    later = (step + 1, (step + last) // 2, last)
    return all(plan(number) == plan(step) for plan in scheduler.lr_lambdas for number in later)


def _of_batch(override: Override) -> Iterator[Reason]:
    names = [name for name in OF_BATCH if name in override.names and override.differs(name)]
    if not names:
        return
    before, now = override.samples.before, override.samples.now
    parts: list[str] = []
    if before is None or now is None or not before.samples:
        parts.append("no epoch is under way; the next one is divided anew")
    elif override.trainer.args.ignore_data_skip:
        parts.append(f"ignore_data_skip=True begins epoch {now.epoch + 1} anew")
    else:
        parts.append(f"{before.samples:,} samples seen stay seen")
        parts.append(f"epoch {now.epoch + 1} goes on at sample {before.samples:,} of {now.rows:,}")
        if odd := now.batches % now.accumulation:
            parts.append(f"its next step has {now.accumulation - odd} of {now.accumulation} batches")
    total, planned = override.samples.max_steps, override.planned
    parts.append(f"the global step stays {override.step}, which counts steps made, of {total} ({planned} before)")
    parts += ["random numbers are divided in another way"] if WORLD_SIZE in names else []
    level = Exactness.APPROXIMATE
    if before is not None and now is not None and before.batch * before.accumulation == now.batch * now.accumulation:
        level = Exactness.EQUIVALENT if WORLD_SIZE not in names else level
        parts.append("a step has the same samples as before")
    else:
        parts.append(_rate_goes(override))
    yield Reason(level, f"{', '.join(_change(override, name) for name in names)}: {'; '.join(parts)}")


def _of_chance(override: Override) -> Iterator[Reason]:
    for name in (name for name in OF_CHANCE if name in override.changed):
        what = "the running epoch keeps its order, those that follow have the new seed's"
        if name == "seed" and override.differs("seed"):
            what = f"random numbers are the new seed's from here on; {what}"
        yield Reason(Exactness.APPROXIMATE, f"{_change(override, name)} from step {override.step}: {what}")


def _change(override: Override, name: str) -> str:
    before, now = ("not set" if value is None else value for value in (override.before.get(name), override.now(name)))
    return f"{name} {before} → {now}"
