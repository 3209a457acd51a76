"""What an export reads stays where it is while it lasts, whatever the run's training prunes meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, KeepstepError
from keepstep.model import Checkpoint
from keepstep.operations.export.choosing import asks_for_best, choose, is_gone, verify
from keepstep.operations.export.errors import Unreadable
from keepstep.operations.export.plan import ExportPlan, plan_export
from keepstep.operations.export.request import Request
from keepstep.operations.export.target import Target
from keepstep.operations.export.workplace import workplace
from keepstep.run import Run

logger = logging.getLogger("keepstep")
T = TypeVar("T")

ATTEMPTS = 5
"""Times that an export is planned anew, because a training removed or thinned what it was to read."""
WHY = "being exported"


def with_plan(run: Run, request: Request, carry_out: Callable[[ExportPlan], T]) -> T:
    """What `carry_out` returns for the plan of an export, held (`held_plan`) while it lasts.

    Where the best was asked for and is found damaged, the next best takes its place, which is said. Raises what
    `carry_out` raises.
    """
    with run.at_hand(lambda: workplace(Target.of(request.directory, run.path, force=request.force).path)):
        return _with_plan(run, request, carry_out)


def _with_plan(run: Run, request: Request, carry_out: Callable[[ExportPlan], T]) -> T:
    while True:
        members = choose(run, request)
        try:
            with held_plan(run, request) as plan:
                return carry_out(plan)
        except (CheckpointCorrupt, Unreadable) as error:
            found = error if isinstance(error, CheckpointCorrupt) else _damage(run, members)
            if found is None:
                raise
            if not _gives_way(run, request, members):
                raise found from None
            logger.warning("%s.\n  The next best is exported in its place.", found.message.partition(". ")[0])


def _damage(run: Run, members: tuple[Checkpoint, ...]) -> CheckpointCorrupt | None:
    """What a file that can't be read comes from, where it is damage; it is known from then on."""
    try:
        verify(run, members, [member.files for member in members])
    except CheckpointCorrupt as error:
        return error
    return None


def _gives_way(run: Run, request: Request, members: tuple[Checkpoint, ...]) -> bool:
    """True where others are to be exported, now that it is known which are damaged."""
    if not asks_for_best(request):
        return False
    try:
        now = choose(run, request)
    except KeepstepError:
        return False
    return [member.generation for member in now] != [member.generation for member in members]


@contextmanager
def held_plan(run: Run, request: Request) -> Generator[ExportPlan]:
    """The plan of an export, its checkpoints kept in place inside the block. Raises as `plan_export` does.

    A checkpoint that goes between plan and hold is looked for anew: `best` may be another one by then, and a thinned
    one lies elsewhere.
    """
    for _ in range(ATTEMPTS):
        plan = plan_export(run, request)
        with run.reading(plan.members, WHY):
            if not gone(plan):
                yield plan
                return
    raise CheckpointNotFound(
        f"what was to be exported of {run.path} went away {ATTEMPTS} times, while it was being looked up",
        hint="Its training removes checkpoints quickly. Pin one first: keepstep pin RUN REF",
    )


def gone(plan: ExportPlan) -> bool:
    """True when a checkpoint of a plan is no longer where it was."""
    return any(is_gone(plan.run, member) for member in plan.members)


def went_away(plan: ExportPlan) -> CheckpointNotFound:
    """The error for an export whose checkpoint is no longer there."""
    missing = next((m for m in plan.members if is_gone(plan.run, m)), plan.source)
    return CheckpointNotFound(
        f"{missing.path} went away while it was exported",
        hint="It was moved or removed: a resume from an older checkpoint sets it aside. See keepstep ls RUN --all, "
        "and export it by its path, or another one.",
    )
