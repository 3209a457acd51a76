"""Where it is safe to go on from: chosen among a run's checkpoints, and verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.model import Checkpoint, Kind
from keepstep.repository import Check, Foreign, Listing, Verification
from keepstep.run.references import Reference


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where it is safe to go on from, why, and which newer ones were passed over for what.

    `passed_over` are damaged checkpoints, `unusable` directories whose manifest is missing or can't be read.
    """

    checkpoint: Checkpoint
    reason: str
    passed_over: tuple[Verification, ...] = ()
    unusable: tuple[Foreign, ...] = ()

    @property
    def path(self) -> Path:
        assert self.checkpoint.path is not None
        return self.checkpoint.path


def newest(path: Path, listing: Listing, check: Check) -> ResumePoint:
    """The newest checkpoint of the run in `path` that holds. Raises CheckpointNotFound."""
    passed: list[Verification] = []
    for checkpoint in reversed([c for c in listing.checkpoints if c.resumable]):
        verification = check(checkpoint)
        if verification.ok:
            why = "the newest checkpoint" if not passed else "the newest checkpoint that holds"
            return ResumePoint(checkpoint, f"step {checkpoint.step}: {why}; verified", tuple(passed))
        passed.append(verification)
    if passed:
        raise CheckpointNotFound(
            f"{path} has no valid checkpoint left: " + "; ".join(v.summary() for v in passed),
            hint=f"Inspect them with: keepstep verify {path}",
        )
    raise CheckpointNotFound(f"{path} has no checkpoint to resume from", hint=_why_nothing(listing))


def named(path: Path, listing: Listing, checkpoint: Checkpoint, reference: Reference, check: Check) -> ResumePoint:
    """Exactly `checkpoint` of the run in `path`, which was asked for as `reference`. Raises ResumeRefused."""
    if checkpoint.kind is not Kind.FULL:
        raise ResumeRefused(
            f"step {checkpoint.step} of {path} holds weights only, no optimizer state to resume from",
            hint=f"Start a new run from its weights (from_pretrained({str(checkpoint.path)!r})), write them as a model "
            f"(keepstep export {path} {_name(checkpoint, reference)} DIR), or resume from another one: "
            + _resumable_steps(listing),
        )
    verification = check(checkpoint)
    if not verification.ok:
        raise ResumeRefused(
            f"step {checkpoint.step} of {path} is damaged: " + "; ".join(map(str, verification.problems)),
            hint="Resume from another one: " + _resumable_steps(listing, but=checkpoint),
        )
    return ResumePoint(checkpoint, f"step {checkpoint.step}, asked for as {str(reference)!r}; verified")


def _name(checkpoint: Checkpoint, reference: Reference) -> str:
    """What a command line names the checkpoint by."""
    return str(reference) if isinstance(reference, str) and reference in ("best", "latest") else str(checkpoint.step)


def _resumable_steps(listing: Listing, but: Checkpoint | None = None) -> str:
    steps = [str(checkpoint.step) for checkpoint in listing.checkpoints if checkpoint.resumable and checkpoint != but]
    return f"steps {', '.join(steps)}" if steps else "there is none"


def _why_nothing(listing: Listing) -> str:
    if any(checkpoint.kind is Kind.WEIGHTS for checkpoint in listing.checkpoints):
        return (
            "Its checkpoints hold weights only (save_only_model=True): start a new run from the weights of one, "
            "in another output_dir."
        )
    if listing.foreign:
        return "; ".join(f"{foreign.path.name} is not one: {foreign.reason}" for foreign in listing.foreign)
    return "Nothing was saved yet."
