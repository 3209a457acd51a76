"""Which checkpoints an export is made of: one by its reference or path, or the members of an average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound
from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.checking import note
from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.export.request import Request
from keepstep.repository import OnBytes
from keepstep.run import Reference, Run


def choose(run: Run, request: Request) -> tuple[Checkpoint, ...]:
    """The checkpoints to read. The first gives config and tokenizer; several are averaged.

    Raises CheckpointNotFound, ExportRefused.
    """
    if request.average is None:
        assert request.reference is not None
        return (find(run, request.reference),)
    members = _members(run, request.average)
    if request.reference is None:
        return members
    first = find(run, request.reference)
    if first not in members:
        steps = ", ".join(str(member.step) for member in members)
        raise ExportRefused(
            f"step {first.step} is not among those that are averaged: steps {steps}",
            hint="Leave REF out, or name one of them: its config and tokenizer are taken.",
        )
    return (first, *(member for member in members if member != first))


def asks_for_best(request: Request) -> bool:
    """True where the checkpoints are asked for by their rank."""
    average = request.average
    return request.reference == "best" if average is None else average.strip().startswith("best:")


def find(run: Run, reference: Reference) -> Checkpoint:
    """The checkpoint that a reference names, wherever it lies. Raises CheckpointNotFound."""
    return run.find(reference, aside=True)


def _members(run: Run, spec: str) -> tuple[Checkpoint, ...]:
    best = spec.strip().removeprefix("best:")
    if best != spec.strip():
        members = _best(run, best)
    else:
        members = tuple(find(run, part) for part in spec.split(",") if part.strip())
    steps = [member.step for member in members]
    twice = [step for place, step in enumerate(steps) if step in steps[:place]]
    if twice:
        raise ExportRefused(f"step {twice[0]} is named twice", hint="An average weighs each step once.")
    if len(members) < 2:
        raise ExportRefused(
            f"{spec!r} is {len(members)} checkpoint, and an average needs two",
            hint="Write best:3, or references joined by commas: 300,200",
        )
    return members


def _best(run: Run, text: str) -> tuple[Checkpoint, ...]:
    if not (text.isascii() and text.isdigit() and int(text) >= 2):
        raise ExportRefused(f"best:{text} is no number of checkpoints to average", hint="Write best:3, or 300,200.")
    run.find("best")  # says why, where nothing can be ranked
    ranked = run.ranking()
    if len(ranked) < int(text):
        steps = ", ".join(str(checkpoint.step) for checkpoint in ranked)
        raise ExportRefused(
            f"{run.address} has {len(ranked)} checkpoints that can be ranked, not {text}: steps {steps}",
            hint=f"Average those: --average best:{len(ranked)}" if len(ranked) > 1 else "Keep more: keep='best:3'.",
        )
    return ranked[: int(text)]


def verify(
    run: Run,
    members: tuple[Checkpoint, ...],
    needed: Sequence[Sequence[FileEntry]],
    on_start: Callable[[Checkpoint], None] | None = None,
    on_bytes: OnBytes | None = None,
) -> None:
    """Read every byte of what each member is `needed` for against its manifest. Raises CheckpointCorrupt.

    What only a resume needs is several times as much: it may be gone, and is looked at by its size; where that is not
    what was written, it is a reason to publish nothing from there.
    """
    for checkpoint, files in zip(members, needed, strict=True):
        if on_start is not None:
            on_start(checkpoint)
        verification = run.verify(checkpoint, on_bytes, alone={file.path for file in files})
        if not verification.sound and is_gone(run, checkpoint):
            raise CheckpointNotFound(f"{checkpoint.path} went away, or was saved anew, while it was verified")
        if not verification.sound or len(files) == len(checkpoint.files):
            note(run, verification)
        if not verification.sound:
            raise CheckpointCorrupt(
                f"{verification.summary()}. Nothing was exported",
                hint=f"Export another one; see which hold: keepstep verify {run.address}\n  {verification.way_out()}",
            )


def is_gone(run: Run, member: Checkpoint) -> bool:
    """True when it is no longer where it was: another commit of its step may have taken its place."""
    try:
        return not run.repository.stands(member)
    except (OSError, CheckpointCorrupt):
        return True


def note_exported(run: Run, members: tuple[Checkpoint, ...], path: Path, kind: str) -> None:
    """Put an export into the event log; a run on a read-only disk can be exported all the same."""
    first = members[0]
    others = {} if len(members) == 1 else {"average": [member.step for member in members]}
    with suppress(OSError):
        events = run.whose(first).events
        events.append("exported", step=first.step, generation=first.generation, kind=kind, path=str(path), **others)
