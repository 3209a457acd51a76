"""What a session writes down as it goes: what a save cost, how exact a resume is, the numbers of its steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keepstep.checkpointer.journal import Causes, no_causes
from keepstep.checkpointer.tenure import Tenure
from keepstep.model import Checkpoint
from keepstep.retention import Plan, Policy
from keepstep.run import Brought, Ending, Receipt, Run


class Ledger(ABC):
    """The event log and the history of the run that a checkpointer holds, as it writes them.

    `receipt` says, after a resume, how exact it is and why (None before, and after a fresh start); `plan` is what the
    policy decided last.
    """

    policy: Policy
    receipt: Receipt | None = None
    plan: Plan | None = None
    _tenure: Tenure | None = None
    _brought: Brought | None = None

    @property
    @abstractmethod
    def run(self) -> Run:
        """The run on disk that is trained."""

    @property
    def _run(self) -> Run | None:
        """The run while it is held, None before and afterwards."""
        return None if self._tenure is None else self._tenure.run

    def note_kept(self, checkpoint: Checkpoint, *, blocked: float, durable: float, **more: Any) -> None:
        """Put into the event log what a save cost, in seconds of training held up and until it was durable, and why
        the policy keeps it.
        """
        metric, plan = self.policy.metric, self.plan
        self.run.events.append(
            "kept",
            generation=checkpoint.generation,
            step=checkpoint.step,
            name=checkpoint.name,
            size_bytes=checkpoint.size_bytes,
            metric=None if metric is None else metric.name,
            value=None if metric is None else metric.value(checkpoint.metrics),
            reasons=list(plan.reasons(checkpoint.generation)) if plan else [],
            blocked_seconds=blocked,
            durable_seconds=durable,
            **more,
        )

    def note_resumed(self, receipt: Receipt) -> Receipt:
        """Keep the receipt of a resume here and in the event log; returns it with where its checkpoint came from,
        and what its course is compared with.
        """
        if self._brought is not None and self._brought.step == receipt.step:
            receipt = replace(receipt, brought=self._brought)
        self.receipt = receipt if self._tenure is None else self._tenure.journal.expect(receipt)
        self.run.events.append("resumed", **self.receipt.to_json())
        return self.receipt

    def log(self, step: int, values: Mapping[str, float], *, epoch: float | None = None) -> None:
        """Put numbers of a step into the run's history, and compare them with what an interrupted attempt had logged.

        `receipt` then says how they came out. Outside of a session it does nothing; it never fails.
        """
        if self._tenure is not None and self._run is not None:
            self.receipt = self._tenure.journal.log(self.receipt, step, epoch, values)

    def begin_log(self, max_steps: int, causes: Causes = no_causes) -> None:
        """Begin an attempt of the history anew, of so many steps; without it the first `log` does. `causes` are asked
        for what may have made a resumed course another one.
        """
        if self._tenure is not None and self._run is not None:
            self._tenure.journal.begin(self.receipt, max_steps, causes)

    def end_log(self, how: Ending | None) -> None:
        """End the attempt, where one is under way; None where it is not known how, as of one that is killed."""
        if self._tenure is not None:
            self.receipt = self._tenure.journal.end(self.receipt, how)
