"""What of a run's records is lost or damaged, what can be rebuilt of it, and doing that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepstep.errors import KeepstepError
from keepstep.run import Damaged, Run, RunLock, examine, mend
from keepstep.stores import LocalStore


class RepairChanged(KeepstepError):
    """The records changed between showing a repair and carrying it out."""

    code = "repair-changed"


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair of the run in `path` would do, record by record; `kept` are keys of what it has kept beside."""

    path: Path
    run_id: str
    damaged: tuple[Damaged, ...]
    kept: tuple[str, ...] = ()

    @property
    def mendable(self) -> tuple[Damaged, ...]:
        """What it can put right."""
        return tuple(record for record in self.damaged if record.mendable)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {
            "run_id": self.run_id,
            "damaged": [
                {
                    "path": record.key,
                    "what": record.what,
                    "repair": record.repair,
                    "lost": record.lost,
                    "kept_beside": record.keeps,
                    "mendable": record.mendable,
                }
                for record in self.damaged
            ],
            "kept": list(self.kept),
        }


def plan_repair(path: str | os.PathLike[str]) -> Repair:
    """What is lost or damaged of the records of the run in a directory. Nothing is changed.

    Raises RunNotFound where neither a run nor a manifest is there, LayoutTooNew.
    """
    run_id, damaged = examine(LocalStore(Path(path)))
    return Repair(Path(path), run_id, damaged)


def repair(shown: Repair) -> Repair:
    """Take the run's lock and rebuild what was shown; what was damaged is kept beside it. No checkpoint is touched.

    Returns the same with what was kept. Raises RunLocked, RepairChanged when something else is damaged by now, OSError.
    """
    store = LocalStore(shown.path)
    lock = RunLock(store)
    lock.acquire("a repair")
    try:
        now = plan_repair(shown.path)
        if _lasting(now) != _lasting(shown):
            raise RepairChanged(
                f"the records of {shown.path} changed after this was shown: nothing was repaired",
                hint="Run it again to see it anew.",
            )
        kept = mend(store, now.damaged, datetime.now(UTC))
    finally:
        lock.release()
    run = Run.open(shown.path)
    with run.writing("a repair"):  # which does what any start does
        what = [f"{record.key} {record.what}: {record.repair}" for record in shown.mendable]
        run.events.append("repaired", what=what, lost=[r.lost for r in shown.damaged if r.lost], kept=list(kept))
    return Repair(shown.path, shown.run_id, shown.damaged, kept)


def _lasting(found: Repair) -> list[tuple[str, str]]:
    """What no process mends by itself meanwhile: taking the lock names another owner."""
    return [(record.key, record.what) for record in found.damaged if record.keeps or record.make is not None]
