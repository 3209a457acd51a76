"""What of a run stays while it is trained: its policy and its budget, applied after each commit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from keepstep.checkpointer.headroom import Headroom
from keepstep.checkpointer.judged import Judged
from keepstep.model import Checkpoint
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.repository import Dispose
from keepstep.retention import Before, Plan, Policy
from keepstep.run import Run

RESUMED_FROM = "resumed from"
"""Why a checkpoint stays for the session that went on from it."""


class Keeping:
    """Decides for one session of a run. What it went on from stays until it ends, as what the loop judges best does."""

    def __init__(self, run: Run, policy: Policy, headroom: Headroom, judged: Judged) -> None:
        self._run, self._policy, self._headroom, self._judged = run, policy, headroom, judged
        self._resumed_from: int | None = None
        self._held_before: dict[Before, str] = {}

    def hold(self, checkpoint: Checkpoint) -> None:
        """Keep what the session goes on from, a checkpoint of the run or of a previous one in its directory."""
        if checkpoint.run_id == self._run.id:
            self._resumed_from = checkpoint.generation
        else:
            self._held_before = {(checkpoint.run_id, checkpoint.generation): RESUMED_FROM}

    def let_go(self) -> None:
        """Apply the policy a last time, without regard to what was resumed from."""
        if self._resumed_from is not None or self._held_before:
            self._resumed_from, self._held_before = None, {}
            apply_plan(self._run, self.planned())

    def decide(self, dispose: Dispose | None) -> Plan:
        """Apply the policy to what is committed now; returns the plan that was carried out."""
        plan = self.planned()
        apply_plan(self._run, plan, dispose=dispose)
        return plan

    def make_room(self, step: int, dispose: Callable[[], None]) -> None:
        """Return when there is room for the checkpoint of `step`. Raises DiskFull."""
        self._headroom.make(self._run, self._policy, step, partial(self.planned, always=True), dispose)

    def planned(self, *, always: bool = False) -> Plan:
        """What the policy and the budget say of what is committed now; what stays was looked at where anything goes,
        and with `always` where nothing does.
        """
        held = self._judged.held(self._run)
        if self._resumed_from is not None:
            held |= {self._resumed_from: RESUMED_FROM}
        more: Any = {"also_protected": held, "held_before": self._held_before}
        plan = partial(self._run.plan, self._policy, budget=self._headroom.limits.budget, **more)
        return self._run.settled(plan, always=always)
