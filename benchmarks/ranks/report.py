"""Renders what was measured with several ranks: one row for each method, and its ratio to stock SHARDED."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ranks.methods import METHODS
from benchmarks.saves import estimator, machine
from benchmarks.saves.estimator import Cost, Spread
from benchmarks.saves.report import table
from benchmarks.saves.results import Results
from benchmarks.saves.spec import Leg

FILE = "ranks.md"
REFERENCE = "stock-sharded"
HEAD = [
    "method", "held up, s", "of stock SHARDED", "true inflation, s", "noise, s", "durable after, s", "CPU of all, s",
    "bytes", "n",
]  # fmt: skip


def write_report(results: Results, output: Path) -> str:
    """Write `ranks.md`; returns the Markdown."""
    parts = ["# What a save of several ranks costs", f"Machine: {machine.sentence(results.machine)}."]
    for leg in results.legs.values():
        parts += [f"## {leg.name}, a save every {leg.every} steps", _head(results, leg), _table(results, leg)]
    text = "\n\n".join(parts) + "\n"
    (output / FILE).write_text(text, encoding="utf-8")
    return text


def _whole(results: Results, leg: Leg, method: str) -> list[dict[str, Any]]:
    return [record for record in results.of(leg, "course", method) if "refused" not in record]


def _head(results: Results, leg: Leg) -> str:
    whole = [record for method in leg.methods for record in _whole(results, leg, method)]
    loads = [load for record in whole for load in record["load"]]
    steps = [estimator.quiet_step(record) for record in whole]
    if not whole:
        return "Nothing was measured."
    return (
        f"{whole[0]['about']}; undisturbed steps of {min(steps):.2f} to {max(steps):.2f} s; load average "
        f"{min(loads):.1f} to {max(loads):.1f}, the training itself included. Medians, [smallest, largest]."
    )


def _table(results: Results, leg: Leg) -> str:
    costs = {name: [c for record in _whole(results, leg, name) for c in estimator.costs(record)] for name in METHODS}
    reference = median(cost.blocked for cost in costs[REFERENCE]) if costs[REFERENCE] else 0.0
    body = [_row(results, leg, name, costs[name], reference) for name in METHODS if any(_all(results, leg, name))]
    return table(HEAD, body)


def _all(results: Results, leg: Leg, method: str) -> list[dict[str, Any]]:
    return list(results.of(leg, "course", method))


def _row(results: Results, leg: Leg, name: str, costs: list[Cost], reference: float) -> list[str]:
    label = METHODS[name].label
    if not costs:
        reason = _all(results, leg, name)[0].get("refused", "nothing was saved")
        return [label, f"refused: {' '.join(reason.split())[:150]}", *[""] * (len(HEAD) - 2)]
    saves = name != "none"
    steps = round(median(cost.steps for cost in costs))
    noise = [value for record in _whole(results, leg, "none") for value in estimator.noise(record, steps)]
    blocked = median(cost.blocked for cost in costs)
    return [
        label,
        _spread([cost.blocked for cost in costs], 3) if saves else "",
        f"{blocked / reference:.2f}" if saves and reference else "",
        _spread([cost.inflation for cost in costs], 2),
        _spread(noise, 2) if noise else "",
        _spread([cost.durable for cost in costs], 2) if saves else "",
        f"{median(cost.cpu for cost in costs):.2f}",
        f"{median(cost.size for cost in costs) / 1e6:.0f} MB" if saves else "",
        str(len(costs)),
    ]


def _spread(values: list[float], digits: int) -> str:
    spread = Spread.of(values)
    return f"{spread.median:.{digits}f} [{spread.low:.{digits}f}, {spread.high:.{digits}f}]"
