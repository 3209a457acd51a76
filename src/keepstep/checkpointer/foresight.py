"""What a budget can never hold is refused before the first step, not at a save hours later."""

from __future__ import annotations

from keepstep.errors import SettingsError
from keepstep.retention import Metric, Plan, fit, size
from keepstep.run import Limits, Run
from keepstep.stores import Room
from keepstep.units import format_size

_WAYS = "or make checkpoints smaller (save_only_model=True, an adapter, an 8-bit optimizer)"


def require_room(run: Run, limits: Limits, plan: Plan, *, metric: Metric | None, one: int, saves: int) -> None:
    """Raises SettingsError where the limits can't hold what must be there while `saves` checkpoints are to come.

    That is what on disk may not be given up, and the one that is being written, of `one` bytes at least; from the
    second save on the newest and the one that is being written. `plan` is what the policy says of those on disk now.
    """
    if saves < 1 or one < 1:
        return
    stays = sum(map(size, fit(plan, -1, metric, why="").left))
    need = max(stays + one, 2 * one if saves > 1 else 0)
    if need > stays + one:
        what = f"the newest checkpoint and the one that is being written, at least {format_size(one)} each"
    elif stays:
        what = (
            f"{format_size(stays)} in {run.path} that may not be given up, and one more of at least {format_size(one)}"
        )
    else:
        what = f"a checkpoint of at least {format_size(one)}"
    _hold(limits.budget, need, what)
    if limits.min_free:
        _leave_free(run.store.room(), limits, need, what)
        _has_floor(run, limits, one, sum(map(size, plan.left)) - stays)


def _hold(budget: int | None, need: int, what: str) -> None:
    if budget is not None and need > budget:
        raise SettingsError(
            f"budget={format_size(budget)} can't hold what must always be there: {what}; {format_size(need)} in all",
            hint=f"Raise it to more than {format_size(need)}, {_WAYS}.",
        )


def _leave_free(room: Room, limits: Limits, need: int, what: str) -> None:
    if limits.min_free + need > room.total_bytes:
        raise SettingsError(
            f"min_free={format_size(limits.min_free)} of a disk of {format_size(room.total_bytes)} leaves no room for "
            f"{what}",
            hint=f"Lower it, move output_dir to a larger disk, {_WAYS}.",
        )


def _has_floor(run: Run, limits: Limits, one: int, may_go: int) -> None:
    """The floor is below what is free, or would be once all has gone that may go; others may free more meanwhile."""
    free = run.store.room().free_bytes
    if limits.on_disk_full in ("finish", "stop") and free + may_go < limits.min_free + one:
        raise SettingsError(
            f"min_free={format_size(limits.min_free)} can't be kept: {format_size(free)} are free, "
            f"{format_size(may_go)} of {run.path} may go, and one checkpoint takes at least {format_size(one)}",
            hint="Free some room, lower it, or wait for room at each save with on_disk_full='pause'.",
        )
