"""Thinning one checkpoint that a person names: its weights stay, what only a resume needs goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint, Kind
from keepstep.operations.removing.alone import alone_in
from keepstep.operations.removing.pruning import check_recovery_point
from keepstep.repository import OnBytes, missing_files
from keepstep.retention import Latest, Plan, Policy
from keepstep.run import Reference, Run


class ThinRefused(KeepstepError):
    """A checkpoint that must stay whole, or has nothing to drop."""

    code = "thin-refused"


@dataclass(frozen=True, slots=True)
class Thinned:
    """A checkpoint before and after its thinning."""

    before: Checkpoint
    after: Checkpoint

    @property
    def freed_bytes(self) -> int:
        return self.before.size_bytes - self.before.thinned().size_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "step": self.after.step,
            "generation": self.after.generation,
            "path": str(self.after.path),
            "size_bytes": self.after.size_bytes,
            "freed_bytes": self.freed_bytes,
        }


def thin(run: Run, reference: Reference, on_bytes: OnBytes | None = None) -> Thinned:
    """Take the run's lock and thin one checkpoint, after a check that there is another one to resume from.

    Raises RunLocked, CheckpointNotFound, ThinRefused, CheckpointCorrupt, StorageError.
    """
    with alone_in(run, "thinning"):
        checkpoint = run.find(reference)
        check_recovery_point(run, check_thinnable(run, checkpoint), on_bytes)
        return Thinned(checkpoint, run.thin(checkpoint, "asked for"))


def check_thinnable(run: Run, checkpoint: Checkpoint) -> Plan:
    """A plan that keeps what must stay whole beside a checkpoint. Raises ThinRefused where it is one of these."""
    _refuse(run, checkpoint)
    plan = run.plan(Policy((Latest(1),)))
    decision = next(d for d in plan.decisions if d.checkpoint.generation == checkpoint.generation)
    if decision.stays:
        raise ThinRefused(
            f"step {checkpoint.step} of {run.path} stays whole: {'; '.join(decision.reasons)}",
            hint=_WAY_OUT.get(decision.reasons[0], "Thin an older one."),
        )
    return plan


_WAY_OUT = {"pinned": "Unpin it first: keepstep unpin drops its pin and its tags."}


def _refuse(run: Run, checkpoint: Checkpoint) -> None:
    if checkpoint.lost:
        raise ThinRefused(
            f"step {checkpoint.step} of {run.path} holds weights only already: {missing_files(checkpoint.lost)}",
            hint="What is left beside them is small, and goes with the checkpoint.",
        )
    if checkpoint.kind is Kind.WEIGHTS:
        raise ThinRefused(
            f"step {checkpoint.step} of {run.path} holds weights only already",
            hint=f"To leave the run with them: keepstep export {run.path} {checkpoint.step} DIR",
        )
    if checkpoint.damage:
        raise ThinRefused(
            f"step {checkpoint.step} of {run.path} is damaged: it stays as it is, until a person decides",
            hint=f"See what is wrong: keepstep verify {run.path} {checkpoint.step}",
        )
    if not checkpoint.weights_apart:
        raise ThinRefused(
            f"step {checkpoint.step} of {run.path} has its weights in DeepSpeed's files alone, which a resume needs: "
            "it stays whole",
            hint='To have them apart from now on: "stage3_gather_16bit_weights_on_model_save": true in DeepSpeed\'s '
            f"config. To have these: keepstep export {run.path} {checkpoint.step} DIR",
        )
    if not checkpoint.thinnable:
        raise ThinRefused(
            f"step {checkpoint.step} of {run.path} can't be told apart into weights and what only a resume needs",
            hint="Both are known by the names that transformers gives them: model.safetensors or "
            "adapter_model.safetensors, and optimizer.pt, scheduler.pt, rng_state.pth.",
        )
