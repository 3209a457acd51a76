"""Bringing a checkpoint that lies aside back into its run, and with it the course that leads to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from keepstep.model import Checkpoint, State
from keepstep.operations.checking import note
from keepstep.operations.restoring.errors import RestoreChanged, RestoreRefused
from keepstep.repository import Look, OnBytes, Verification
from keepstep.run import Return, Run, rescue, trashed, way_back


@dataclass(frozen=True, slots=True)
class CourseBack:
    """What a restore would move, once every byte of it was verified.

    `left` are damaged ones of the course, which stay where they are. `resumes_now` and `resumes_then` are the newest
    whole checkpoints before and afterwards, None where there is none.
    """

    what: Return
    left: tuple[Verification, ...]
    resumes_now: Checkpoint | None
    resumes_then: Checkpoint | None
    verified: tuple[Verification, ...]
    looks: tuple[Look, ...]
    from_trash: bool = False

    @property
    def changes_course(self) -> bool:
        """True where a resume goes on from another checkpoint afterwards."""
        return _generation(self.resumes_now) != _generation(self.resumes_then)

    @property
    def size_bytes(self) -> int:
        """Bytes of what comes back."""
        return sum(checkpoint.size_bytes for checkpoint in self.what.back)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "kind": "course",
            "step": self.what.checkpoint.step,
            "generation": self.what.checkpoint.generation,
            "came_from": "trash" if self.from_trash else self.what.checkpoint.state.value,
            "restores": [_json(checkpoint) for checkpoint in self.what.back],
            "sets_aside": [_json(checkpoint) for checkpoint in self.what.aside],
            "timeline": self.what.timeline if self.what.aside else None,
            "left": [{**_json(one.checkpoint), "problems": [str(p) for p in one.problems]} for one in self.left],
            "resumes_from": _generation(self.resumes_now),
            "would_resume_from": _generation(self.resumes_then),
            "size_bytes": self.size_bytes,
        }


def plan_course(run: Run, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> CourseBack:
    """What moves when a checkpoint comes back: every byte of what moves into the run is read, and nothing is changed.

    Raises RestoreRefused where it is damaged, or nothing could be resumed from afterwards.
    """
    from_trash = any(checkpoint.path == other.path for other in trashed(run)[0])
    what = run.way_back(checkpoint)
    looks = tuple(run.look(one) for one in what.back)
    found = [run.verify(one, on_bytes) for one in what.back]
    if not found[0].sound:
        raise RestoreRefused(
            f"{checkpoint.path} is damaged, and stays where it is: {'; '.join(map(str, found[0].problems))}",
            hint=f"{found[0].way_out()}; and restore it then",
        )
    left = tuple(one for one in found if not one.sound)
    back = tuple(one.checkpoint for one in found if one.sound)
    what = replace(what, back=back)
    committed = run.checkpoints
    going = {one.generation for one in what.aside}
    then = sorted((*(c for c in committed if c.generation not in going), *back), key=lambda c: c.generation)
    held = {one.checkpoint.generation: one for one in found}
    resumes_then = _newest_whole(run, then, held, on_bytes)
    resumes_now = next((c for c in reversed(committed) if c.resumable and not c.damage), None)
    if resumes_then is None and resumes_now is not None:
        raise RestoreRefused(
            f"with step {checkpoint.step} (generation {checkpoint.generation}) back there would be nothing to resume "
            f"from: it holds weights only, and so does what is left of its course",
            hint=f"It can be used where it lies: keepstep export {run.path} {way_back(checkpoint)} DIR",
        )
    kept = {one.generation for one in back}
    verified = tuple(held.values())
    return CourseBack(
        what, left, resumes_now, resumes_then, verified,
        tuple(look for look in looks if look.generation in kept), from_trash,
    )  # fmt: skip


def _newest_whole(
    run: Run, then: list[Checkpoint], held: dict[int, Verification], on_bytes: OnBytes | None
) -> Checkpoint | None:
    """The newest that can be resumed from, of those that would be in the run: known to hold, every byte."""
    for checkpoint in reversed(then):
        if checkpoint.kind.value != "full" or checkpoint.lost:
            continue
        if checkpoint.generation not in held:
            held[checkpoint.generation] = run.verify(checkpoint, on_bytes)
        if held[checkpoint.generation].resumable:
            return checkpoint
    return None


def restore_course(run: Run, shown: CourseBack) -> Checkpoint:
    """Take the run's lock and move what was shown; returns the checkpoint where it is now.

    Raises RunLocked while a training runs, RestoreChanged when something is another by now, OSError.
    """
    checkpoint = shown.what.checkpoint
    if shown.from_trash:
        rescue(run, checkpoint)
    with run.writing("a restore"):
        now = run.way_back(run.find(way_back(checkpoint), aside=True))
        left = {one.checkpoint.generation for one in shown.left}
        now = replace(now, back=tuple(one for one in now.back if one.generation not in left))
        looks = [run.look(one).stamps for one in now.back]
        if _moves(now) != _moves(shown.what) or looks != [look.stamps for look in shown.looks]:
            raise RestoreChanged(
                f"{run.path} changed after this was shown: nothing was restored", hint="Run it again to see it anew."
            )
        for verification in shown.verified:
            note(run, verification)
        return run.bring_back(now)


def _moves(what: Return) -> tuple[list[int], list[int]]:
    return [c.generation for c in what.back], sorted(c.generation for c in what.aside)


def _generation(checkpoint: Checkpoint | None) -> int | None:
    return None if checkpoint is None else checkpoint.generation


def _json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "generation": checkpoint.generation,
        "timeline": checkpoint.timeline,
        "size_bytes": checkpoint.size_bytes,
        "path": str(checkpoint.path),
    }


def newest_of_timeline(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The checkpoint whose course a timeline is: its newest whole one, or else its newest."""
    found = sorted(checkpoints, key=lambda checkpoint: checkpoint.generation)
    whole = [c for c in found if c.state is State.SET_ASIDE and c.kind.value == "full"]
    return (whole or found or [None])[-1]
