"""How a save grows with the size of the state and the number of tensors: measured at three sizes, then on paper."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.saves import machine, tables
from benchmarks.saves.campaign import Campaign
from benchmarks.saves.report import table
from benchmarks.saves.results import Results
from benchmarks.saves.simulation import Course, Outcome, Rates, simulate
from benchmarks.saves.spec import Leg
from benchmarks.saves.tables import SaveRow

SIZES = ("stack:8", "stack:40", "stack:124")
"""Millions of parameters; 12 bytes each with the moments."""
COUNTS = ("many:250", "many:2500")
PAPER_GB = (0.1, 0.5, 1.5, 7, 14, 42, 140)
PAPER_TENSORS = 1000
PAPER = {
    "CPU, memcpy 10 GB/s; NVMe 2.5": Rates(10, 2.5),
    "GPU, PCIe 4 ×16 at 22 GB/s; NVMe 5": Rates(22, 5),
    "GPU, PCIe 5 ×16 at 45 GB/s; 4 NVMe 20": Rates(45, 20),
    "GPU, PCIe 4 ×16 at 22 GB/s; NFS 1": Rates(22, 1),
}
PAPER_STEP = 1.0
PAPER_EVERY = 50
OURS = "keepstep"


def main(given: list[str]) -> None:
    """Measure, compare with the simulation, and say what it predicts for larger states."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saves scaling", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="directory for scaling.json and scaling.md")
    parser.add_argument("--directory", type=Path, default=Path(), help="disk for the checkpoints (default: here)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", nargs=3, default=SIZES, metavar="stack:MILLIONS", help=f"default: {' '.join(SIZES)}")
    parser.add_argument("--anew", action="store_true", help="throw away what OUTPUT holds")
    options = parser.parse_args(given)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "scaling.json"
    disk = options.directory.resolve()
    known = path.exists() and not options.anew
    results = Results.read(path) if known else Results(path, machine.describe(disk))
    plain = Leg("", ("none", OURS), rounds=options.rounds, quiet=6, resumes=False)
    legs = [replace(plain, workload=name) for name in options.sizes]
    # Steps are short here: a save must be over before the next one, or what is measured is the wait for it.
    legs += [replace(plain, workload=name, every=50, limits=False) for name in COUNTS]
    campaign = Campaign(results, disk, None)
    for leg in legs:
        campaign.run(leg)
    text = render(results, legs[: len(options.sizes)], legs[len(options.sizes) :])
    (options.output / "scaling.md").write_text(text, encoding="utf-8")
    print(text)


def render(results: Results, sizes: list[Leg], counts: list[Leg]) -> str:
    """Markdown: measured against simulated, then the simulation alone."""
    per_tensor = _per_tensor(results, counts)
    rates = _rates(results, sizes, per_tensor)
    measured = [(leg, row) for leg in sizes if (row := _ours(results, leg)) is not None]
    predicted = {leg.name: _predict(results, leg, row, rates) for leg, row in measured}
    calibrated = (
        "Copy and write bandwidth are the limits measured in the same run "
        f"({rates.copy:.1f} and {rates.write:.2f} GB/s); the call's fixed time, its commit and the contention "
        f"({rates.contention:.2f}) are taken from the smallest size alone; a tensor costs {per_tensor * 1e6:.0f} µs, "
        "from the two counts of tensors. The larger sizes are predictions."
    )
    parts = [
        "# How a save grows",
        f"Machine: {machine.sentence(results.machine)}.",
        "## Measured and simulated",
        calibrated,
    ]
    parts += [_check_table(results, measured, predicted), "## Number of tensors", _count_table(results, counts)]
    parts += ["## On paper", _paper_words(rates), _paper_table(rates)]
    return "\n\n".join(parts) + "\n"


def _ours(results: Results, leg: Leg) -> SaveRow | None:
    row = next((row for row in tables.save_rows(results, leg) if row.method == OURS), None)
    return None if row is None or not row.costs else row


def _per_tensor(results: Results, counts: list[Leg]) -> float:
    """Seconds that the save call takes longer for one more tensor."""
    points = [(_tensors(leg), row) for leg in counts if (row := _ours(results, leg))]
    if len(points) < 2:
        return 0.0
    (few, low), (many, high) = points[0], points[-1]
    return max(0.0, (_of(high, "blocked") - _of(low, "blocked")) / (many - few))


def _rates(results: Results, sizes: list[Leg], per_tensor: float) -> Rates:
    limits = [(tables.limit_bytes(results, leg), tables.limit_rows(results, leg)) for leg in sizes]
    copy = median(size / rows["memcpy, 1 thread"].median / 1e9 for size, rows in limits)
    write = median(size / _write_seconds(rows) / 1e9 for size, rows in limits[1:])
    plain = Rates(copy, write, per_tensor=per_tensor)
    row = _ours(results, sizes[0])
    if row is None:
        return plain
    state = tables.state_bytes(results, sizes[0])
    moving = state / copy / 1e9 + state / write / 1e9
    blocked, inflation = _of(row, "blocked"), _of(row, "inflation")
    return replace(
        plain,
        fixed=max(0.0, blocked - per_tensor * _tensors(sizes[0])),
        commit=max(0.0, _of(row, "durable") - blocked - moving),
        contention=max(0.0, (inflation - blocked) / moving),
    )


def _write_seconds(rows: dict[str, tables.Spread]) -> float:
    return next(spread.median for name, spread in rows.items() if "write" in name)


def _tensors(leg: Leg) -> int:
    """Tensors of a model and its optimizer, which has three for each parameter: its step and two moments."""
    kind, number = leg.workload.split(":")
    return 4 * int(number) * (2 if kind == "stack" else 1)


def _predict(results: Results, leg: Leg, row: SaveRow, rates: Rates) -> Outcome:
    course = Course(row.quiet_step, every=leg.every)
    return simulate(tables.state_bytes(results, leg), _tensors(leg), rates, course)


def _of(row: SaveRow, name: str) -> float:
    return row.median(name) or 0.0


def _check_table(results: Results, measured: list[tuple[Leg, SaveRow]], predicted: dict[str, Outcome]) -> str:
    body: list[list[str]] = []
    for leg, row in measured:
        state, guess = tables.state_bytes(results, leg), predicted[leg.name]
        cells = [f"{_of(row, name):.3f} / {getattr(guess, name):.3f}" for name in ("blocked", "inflation", "durable")]
        arena = "" if row.extra_memory is None else f"{row.extra_memory / 1e9:.2f} / {guess.arena / 1e9:.2f}"
        body.append([f"{state / 1e9:.2f}", f"{row.quiet_step:.2f}", *cells, arena])
    head = ["state, GB", "step, s", "blocked, s", "true inflation, s", "durable after, s", "extra memory, GB"]
    return "Measured / simulated, medians of " + _saves(measured) + ".\n\n" + table(head, body)


def _saves(measured: list[tuple[Leg, SaveRow]]) -> str:
    return f"{min((len(row.costs) for _, row in measured), default=0)} saves"


def _count_table(results: Results, counts: list[Leg]) -> str:
    body: list[list[str]] = []
    for leg in counts:
        row = _ours(results, leg)
        if row is not None:
            figures = [f"{_of(row, name):.3f}" for name in ("blocked", "inflation", "durable")]
            state = tables.state_bytes(results, leg)
            body.append([f"{_tensors(leg):,}", f"{state / 1e6:.2f}", *figures])
    return table(["tensors", "state, MB", "blocked, s", "true inflation, s", "durable after, s"], body)


def _paper_words(rates: Rates) -> str:
    return (
        f"Simulated: {PAPER_TENSORS} tensors per rank, steps of {PAPER_STEP:.0f} s, a save every {PAPER_EVERY} steps, "
        "the fixed times and the cost per tensor from above "
        f"({rates.fixed * 1000:.1f} ms, {rates.per_tensor * 1e6:.0f} µs). "
        "Bandwidths are assumptions, in GB/s per rank. From a GPU nothing contends with the training in this model. "
        "A cell: blocked / inflation / durable after, in seconds. The arena is as large as the state."
    )


def _paper_table(rates: Rates) -> str:
    course = Course(PAPER_STEP, every=PAPER_EVERY)
    body: list[list[str]] = []
    for size in PAPER_GB:
        cells = [f"{size:g}"]
        for name, assumed in PAPER.items():
            contention = rates.contention if name.startswith("CPU") else 0.0
            full = replace(rates, copy=assumed.copy, write=assumed.write, contention=contention)
            outcome = simulate(int(size * 1e9), PAPER_TENSORS, full, course)
            cells.append(f"{outcome.blocked:.3g} / {outcome.inflation:.3g} / {outcome.durable:.3g}")
        body.append(cells)
    return table(["state per rank, GB", *PAPER], body)
