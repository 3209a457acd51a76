"""What the records of a leg come to: one row per method, in the units of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.saves import estimator
from benchmarks.saves.estimator import Cost, Spread
from benchmarks.saves.methods import METHODS
from benchmarks.saves.results import Results
from benchmarks.saves.spec import Leg
from benchmarks.saves.ways import WAY_FACTS

NONE = "none"


@dataclass(frozen=True, slots=True)
class SaveRow:
    """One method over all rounds. `refused` says why there are no figures. Seconds and bytes."""

    method: str
    label: str
    refused: str | None = None
    costs: list[Cost] = field(default_factory=list[Cost])
    noise: Spread | None = None
    """Inflation that the estimator finds without saves, in windows of as many steps."""
    extra_memory: float | None = None
    quiet_step: float = 0.0

    def spread(self, name: str) -> Spread | None:
        """Of one figure over all saves."""
        values = [float(getattr(cost, name)) for cost in self.costs]
        return Spread.of(values) if values else None

    def median(self, name: str) -> float | None:
        """Of one figure over all saves."""
        found = self.spread(name)
        return None if found is None else found.median


@dataclass(frozen=True, slots=True)
class ResumeRow:
    """One way to resume over all rounds; seconds."""

    way: str
    label: str
    verified: bool
    refused: str | None = None
    cold: Spread | None = None
    warm: Spread | None = None
    apart: bool = False
    """Whether cold and warm were measured in a process each."""
    still_cached: float = 0.0
    """Largest share of the files that was in the page cache still when the cold load began."""


def save_rows(results: Results, leg: Leg) -> list[SaveRow]:
    """In the order of the methods."""
    return [_save_row(results, leg, name) for name in METHODS if any(results.of(leg, "course", name))]


def _save_row(results: Results, leg: Leg, name: str) -> SaveRow:
    label = METHODS[name].label
    records = list(results.of(leg, "course", name))
    whole = [record for record in records if "refused" not in record]
    if not whole:
        return SaveRow(name, label, refused=records[0]["refused"])
    costs = [cost for record in whole for cost in estimator.costs(record)]
    still = [record for record in results.of(leg, "course", NONE) if "refused" not in record]
    noise = _noise(still, round(median(cost.steps for cost in costs))) if costs else []
    extra = None
    if still:
        extra = median(record["peak"] for record in whole) - median(record["peak"] for record in still)
    quiet = median(estimator.quiet_step(record) for record in whole)
    return SaveRow(name, label, None, costs, Spread.of(noise) if noise else None, extra, quiet)


def _noise(still: list[dict[str, Any]], steps: int) -> list[float]:
    return [value for record in still for value in estimator.noise(record, steps)]


def resume_rows(results: Results, leg: Leg) -> list[ResumeRow]:
    """In the order of the ways."""
    rows: list[ResumeRow] = []
    for way, (_, label, verified) in WAY_FACTS.items():
        records = list(results.of(leg, "resume", way))
        whole = [record for record in records if "refused" not in record]
        if whole:
            cold, warm = (Spread.of([record[name] for record in whole]) for name in ("cold", "warm"))
            cached = max(record["cached_after_dropping"] for record in whole)
            apart = all(record.get("apart", False) for record in whole)
            rows.append(ResumeRow(way, label, verified, None, cold, warm, apart, cached))
        elif records:
            rows.append(ResumeRow(way, label, verified, refused=records[0]["refused"]))
    return rows


def limit_rows(results: Results, leg: Leg) -> dict[str, Spread]:
    """Seconds for the bytes of the state, by limit."""
    found: dict[str, list[float]] = {}
    for record in results.of(leg, "limits"):
        for name, seconds in record.get("seconds", {}).items():
            found.setdefault(name, []).append(seconds)
    return {name: Spread.of(values) for name, values in found.items()}


def limit_bytes(results: Results, leg: Leg) -> int:
    """What the limits moved; 0 where none was measured."""
    return next((record["bytes"] for record in results.of(leg, "limits") if "bytes" in record), 0)


def state_bytes(results: Results, leg: Leg) -> int:
    """Bytes of the tensors of one checkpoint; 0 where nothing was measured."""
    return next((record["state_bytes"] for record in results.of(leg, "course") if "state_bytes" in record), 0)


def about(results: Results, leg: Leg) -> str:
    """The workload in words."""
    return next((record["about"] for record in results.of(leg, "course") if "about" in record), leg.workload)


def loads(results: Results, leg: Leg) -> list[float]:
    """Load averages before and after each course."""
    return [load for record in results.of(leg, "course") for load in record.get("load", [])]
