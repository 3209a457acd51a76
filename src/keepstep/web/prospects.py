"""What can be done with a run's checkpoints now: whether it can be resumed and from where, what is wrong with which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keepstep.model import Checkpoint, Damage, Kind
from keepstep.repository import missing_files
from keepstep.run import Run, StockRun


def resume_of(run: Run, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """Where a resume would go on from, by what is known without reading a byte: the newest that is whole; or why from
    nothing. `passed_over` are newer ones that are not taken, with the reason.
    """
    passed: list[dict[str, Any]] = []
    for checkpoint in reversed(checkpoints):
        why = obstacle(run, checkpoint)
        if why is None:
            point = {"step": checkpoint.step, "generation": checkpoint.generation}
            return {"from": point, "proof": _proof(run), "why": None, "passed_over": passed}
        passed.append({"step": checkpoint.step, "generation": checkpoint.generation, "why": why})
    why = "nothing was saved yet" if not passed else _together([one["why"] for one in passed])
    return {"from": None, "proof": None, "why": why, "passed_over": passed}


def obstacle(run: Run, checkpoint: Checkpoint) -> str | None:
    """Why no resume goes on from a checkpoint, None where one can."""
    if checkpoint.damage is not Damage.NONE:
        return run.word_for(checkpoint)
    if checkpoint.kind is Kind.WEIGHTS:
        return f"weights only: {missing_files(checkpoint.lost)}" if checkpoint.lost else "weights only"
    return None if checkpoint.resumable else checkpoint.state.value


def flaws_of(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """Whether a resume can go on from a checkpoint, whether its weights can be loaded, and what is torn in it."""
    return {
        "can_resume": obstacle(run, checkpoint) is None,
        "spoiled": checkpoint.spoiled,
        "flaws": list(run.flaws(checkpoint)) if isinstance(run, StockRun) else [],
    }


def _proof(run: Run) -> str:
    return "its digests are checked when it is resumed from" if run.managed else "nothing is missing in it"


def _together(reasons: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(reason.partition(":")[0] for reason in reasons))
    if len(kinds) == 1:
        return f"every checkpoint is {kinds[0]}"
    return f"every checkpoint is {', '.join(kinds[:-1])} or {kinds[-1]}"
