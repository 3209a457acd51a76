"""Where it is safe to go on from: chosen among a run's checkpoints, and verified."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import structs
from msgspec.structs import replace

from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.log import logger
from keepstep.model import Checkpoint, Kind, State
from keepstep.repository import Check, Foreign, Listing, Problem, Verification, missing_files
from keepstep.run.references import Reference


class ResumePoint(msgspec.Struct, frozen=True):
    """Where it is safe to go on from, why, and which newer ones were passed over for what.

    `passed_over` are damaged checkpoints, `unusable` those that hold weights alone, since somebody took out what a
    resume needs, and directories whose manifest is missing or can't be read. `harmless` is damage in the checkpoint
    itself that no loader reads.
    """

    checkpoint: Checkpoint
    reason: str
    passed_over: tuple[Verification, ...] = ()
    unusable: tuple[Foreign, ...] = ()
    harmless: tuple[Problem, ...] = ()

    @property
    def path(self) -> Path:
        assert self.checkpoint.path is not None
        return self.checkpoint.path

    def moved_to(self, path: Path) -> ResumePoint:
        """The same one, once its checkpoint lies there."""
        return replace(self, checkpoint=structs.replace(self.checkpoint, path=path, state=State.COMMITTED))

    def say_what_is_odd(self) -> None:
        """A line for each newer one that holds weights only, and for what is damaged and nobody reads."""
        for foreign in self.unusable:
            text = "%s is no resume point: %s. Resuming from step %d instead."
            logger.warning(text, foreign.path, foreign.reason, self.checkpoint.step)
        for problem in self.harmless:
            logger.warning("%s of %s; no loader reads it, and the resume goes on", problem, self.path)


def newest(path: str, listing: Listing, check: Check, *, proof: str) -> ResumePoint:
    """The newest checkpoint of the run at `path` that holds; `proof` is said of it. Raises CheckpointNotFound."""
    passed: list[Verification] = []
    stripped: list[Checkpoint] = []
    for checkpoint in reversed([c for c in listing.checkpoints if c.saved_whole]):
        verification = check(checkpoint) if checkpoint.resumable else Verification(checkpoint, ())
        if verification.resumable:
            why = "the newest checkpoint" if not (passed or stripped) else "the newest checkpoint that holds"
            reason = f"step {checkpoint.step}: {why}; {proof}"
            return ResumePoint(checkpoint, reason, tuple(passed), _as_foreign(stripped), verification.problems)
        if verification.ok:
            stripped.append(checkpoint.without((*checkpoint.lost, *verification.lost)))
        else:
            passed.append(verification)
    if passed:
        raise CheckpointNotFound(
            f"{path} has no valid checkpoint left: " + "; ".join(v.summary() for v in passed),
            hint=f"Inspect them with: keepstep verify {path}\n  {passed[0].way_out()}",
        )
    hint = _start_from_weights(stripped[0]) if stripped else _why_nothing(listing)
    raise CheckpointNotFound(f"{path} has no checkpoint to resume from", hint=hint)


def named(
    path: str, listing: Listing, checkpoint: Checkpoint, reference: Reference, check: Check, *, proof: str
) -> ResumePoint:
    """Exactly `checkpoint` of the run at `path`, which was asked for as `reference`. Raises ResumeRefused."""
    if checkpoint.kind is not Kind.FULL:
        raise _weights_only(path, listing, checkpoint, reference)
    verification = check(checkpoint)
    if verification.ok and verification.lost:
        raise _weights_only(path, listing, checkpoint.without(verification.lost), reference)
    if not verification.resumable:
        raise ResumeRefused(
            f"step {checkpoint.step} of {path} is damaged: " + "; ".join(map(str, verification.problems)),
            hint=f"{verification.way_out()}\n  Or resume from another one: "
            + _resumable_steps(listing, but=checkpoint),
        )
    reason = f"step {checkpoint.step}, asked for as {str(reference)!r}; {proof}"
    return ResumePoint(checkpoint, reason, harmless=verification.problems)


def _weights_only(path: str, listing: Listing, checkpoint: Checkpoint, reference: Reference) -> ResumeRefused:
    why = f": {missing_files(checkpoint.lost)}" if checkpoint.lost else ", no optimizer state to resume from"
    return ResumeRefused(
        f"step {checkpoint.step} of {path} holds weights only{why}",
        hint=f"{_from_weights(checkpoint)}write them as a model (keepstep export {path} "
        f"{_name(checkpoint, reference)} DIR), or resume from another one: "
        + _resumable_steps(listing, but=checkpoint),
    )


def _from_weights(checkpoint: Checkpoint) -> str:
    here = checkpoint.path is not None
    return f"Start a new run from its weights (from_pretrained({str(checkpoint.path)!r})), " if here else "Pull it, "


def _as_foreign(stripped: list[Checkpoint]) -> tuple[Foreign, ...]:
    return tuple(
        Foreign(checkpoint.path, f"it holds weights only: {missing_files(checkpoint.lost)}")
        for checkpoint in stripped
        if checkpoint.path is not None
    )


def _start_from_weights(checkpoint: Checkpoint) -> str:
    return (
        f"{checkpoint.name} holds weights only: {missing_files(checkpoint.lost)}. Put that back, or start a new run "
        f"from its weights (from_pretrained({str(checkpoint.path)!r})), in another output_dir."
    )


def _name(checkpoint: Checkpoint, reference: Reference) -> str:
    """What a command line names the checkpoint by."""
    return str(reference) if isinstance(reference, str) and reference in ("best", "latest") else str(checkpoint.step)


def _resumable_steps(listing: Listing, but: Checkpoint | None = None) -> str:
    steps = [
        str(checkpoint.step)
        for checkpoint in listing.checkpoints
        if checkpoint.resumable and not _same(checkpoint, but)
    ]
    return f"steps {', '.join(steps)}" if steps else "there is none"


def _same(one: Checkpoint, other: Checkpoint | None) -> bool:
    return other is not None and one.generation == other.generation


def _why_nothing(listing: Listing) -> str:
    if any(checkpoint.kind is Kind.WEIGHTS for checkpoint in listing.checkpoints):
        return (
            "Its checkpoints hold weights only (save_only_model=True): start a new run from the weights of one, "
            "in another output_dir."
        )
    if listing.foreign:
        return "; ".join(f"{foreign.path.name} is not one: {foreign.reason}" for foreign in listing.foreign)
    return "Nothing was saved yet."
