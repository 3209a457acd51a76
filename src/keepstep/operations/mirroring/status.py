"""How far a mirror is behind its run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keepstep.mirror import Mirror, Record
from keepstep.operations.mirroring.plan import MirrorPlan, plan_mirror
from keepstep.operations.mirroring.syncing import row
from keepstep.retention import Policy
from keepstep.run import Run


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """What is there, what is missing, and how old the newest that a machine without this disk could resume from is."""

    url: str
    records: tuple[Record, ...]
    plan: MirrorPlan
    lag_seconds: float | None
    lag_steps: int | None

    def to_json(self) -> dict[str, Any]:
        newest = self.records[0] if self.records else None
        return {
            "url": self.url,
            "checkpoints": len(self.records),
            "size_bytes": sum(record.checkpoint.size_bytes for record in self.records),
            "newest": None if newest is None else row(newest),
            "missing": len(self.plan.push),
            "missing_bytes": self.plan.push_bytes,
            "lag_seconds": self.lag_seconds,
            "lag_steps": self.lag_steps,
        }


def status(run: Run, mirror: Mirror, policy: Policy) -> MirrorStatus:
    """Compare a run with its mirror. Raises RunNotFound where there is none, MirrorOfAnother, MirrorUnavailable."""
    records = mirror.records()
    plan = plan_mirror(run, mirror, records, policy)
    here = max((c for c in run.checkpoints if c.resumable), key=lambda c: c.generation, default=None)
    there = next((r.checkpoint for r in records if r.checkpoint.resumable), None)
    behind = here is not None and there is not None and here.generation > there.generation
    return MirrorStatus(
        mirror.url,
        records,
        plan,
        (datetime.now(UTC) - there.created).total_seconds() if behind and there is not None else 0.0 if there else None,
        here.step - there.step if behind and here is not None and there is not None else 0 if there else None,
    )
