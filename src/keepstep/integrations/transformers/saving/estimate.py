"""How many checkpoints a training will write, and what they will take of the disk, before the first one is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keepstep.checkpointer import Headroom
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.operations.planning.disk import Kept, free_bytes, most_of
from keepstep.retention import Policy
from keepstep.units import format_size


def planned_saves(args: Any, state: Any) -> int:
    """Saves that the schedule asks for from now on; new bests in between, where they are asked for, come on top."""
    strategy = plain(args.save_strategy)
    left = max(state.max_steps - state.global_step, 0)
    if strategy == "steps" and state.save_steps:
        return -(-left // int(state.save_steps))
    if strategy == "best" and state.eval_steps:
        return -(-left // int(state.eval_steps))
    if strategy == "epoch":
        return max(state.num_train_epochs - int(state.epoch or 0), 0)
    return 0


def describe_saves(trainer: Any, state: Any, policy: Policy, headroom: Headroom, *, weights: int, every: str) -> str:
    """For the start line: saves to come, the size of one, the most that will be on disk, what is free, the verdict.

    `weights` is what is left of one once it is thinned or exported; `every` how often one is due by the clock.
    """
    saves = planned_saves(trainer.args, state)
    if saves == 0:
        return f"a save {every} and at the end" if every else "nothing is scheduled to be saved"
    one, limits = headroom.expected, headroom.limits
    kept = _most_kept(policy, saves, trainer.args, state)
    export = min(weights, one)
    peak = kept.bytes(one, export) + one
    if limits.budget is not None:
        peak = min(peak, limits.budget)
    peak += export  # what `save_model` or an export writes beside them; no budget counts it
    free = free_bytes(Path(trainer.args.output_dir))
    fits = "fits" if peak + limits.min_free <= free else "DOES NOT FIT: older ones go as room runs out"
    if one + limits.min_free > free:
        fits = "NO ROOM FOR ONE"
    count = f"{saves} {'save' if saves == 1 else 'saves'} to come" + (f", and one {every}" if every else "")
    return (
        f"{count}, about {format_size(one)} each; at most "
        f"{format_size(peak)} on disk (kept, one in flight, one export), {format_size(free)} free: {fits}"
    )


def _most_kept(policy: Policy, saves: int, args: Any, state: Any) -> Kept:
    """The most that the policy keeps, as `keepstep plan` bounds it; rules that go by time may keep all saves."""
    if policy.metric is None or plain(args.eval_strategy) != "steps" or not state.eval_steps:
        evaluations = range(0)
    else:
        evaluations = _every(state.eval_steps, state.max_steps)
    match plain(args.save_strategy):
        case "steps":
            scheduled = _every(state.save_steps, state.max_steps)
        case "best":
            scheduled = _every(state.eval_steps, state.max_steps)
        case _:
            scheduled = _every(-(-state.max_steps // max(saves, 1)), state.max_steps)
    courses = [sorted({*scheduled, *more, state.max_steps}) for more in ((), evaluations)]
    return most_of(policy, courses) or Kept(max(map(len, courses)))


def _every(steps: float, last: int) -> range:
    """Multiples up to the last step."""
    return range(max(int(steps), 1), last + 1, max(int(steps), 1))
