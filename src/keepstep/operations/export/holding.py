"""What an export reads stays where it is while it lasts, whatever the run's training prunes meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from keepstep.errors import CheckpointNotFound
from keepstep.operations.export.choosing import is_gone
from keepstep.operations.export.plan import ExportPlan, plan_export
from keepstep.operations.export.request import Request
from keepstep.run import Run

ATTEMPTS = 5
"""Times that an export is planned anew, because a training removed or thinned what it was to read."""
WHY = "being exported"


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
