"""Renders results: Markdown with its tables, and the plot."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from benchmarks.saves import machine, tables
from benchmarks.saves.estimator import Spread
from benchmarks.saves.methods import METHODS
from benchmarks.saves.results import Results
from benchmarks.saves.spec import Leg
from benchmarks.saves.targets import TARGETS, Measured

FILE = "report.md"
OURS = "keepstep"
FEWEST = 4
"""Saves of each method below which nothing is said of which is better."""
TARGET_WORKLOAD = "gpt2"
"""The state of 1.49 GB that the targets are set for."""
_NOTES = """\
*Blocked*: the training thread's time in the save call and at any later wait that the method imposes. *True inflation*:
wall time from the save to the end of the step in which it is durable (or to the next save), less as many undisturbed
steps of the same process. *Noise*: what the same estimator finds in windows of as many steps where nothing is saved.
*Durable*: from the call until every file is synced, by the method or by an fsync of the harness; *sync*: how much of it
came after the method said it was done. *CPU*: seconds of the process and its children over undisturbed steps; what the
kernel's own write-back threads use is in nobody's. *Memory*: peak over a run without saves. Medians, [smallest,
largest], and after ± how far half of the values lie from the middle; n: saves over all rounds. *Against keepstep*: how
the inflation compares with that of the fast engine, where the distance is larger than the noise of both and of a run
without saves.
"""


def write_report(results: Results, output: Path, plot: Path | None = None) -> str:
    """Write `report.md` and the plots of the first leg; returns the Markdown."""
    steps = plot or output / "steps.png"
    bars = _draw(results, steps.with_name("bars.png"), output, "bars", "what a save adds to a training, by method")
    text = render(results, _draw(results, steps, output, "steps", "step time against step"), bars)
    (output / FILE).write_text(text, encoding="utf-8")
    return text


def render(results: Results, image: str = "", bars: str = "") -> str:
    """The whole report; `image` and `bars` are lines that say where the plots are."""
    head = ["# What a save costs", *filter(None, [bars]), f"Machine: {machine.sentence(results.machine)}."]
    parts = [*head, _NOTES.strip()]
    for leg in results.legs.values():
        parts += _leg(results, leg)
    return "\n\n".join([*parts, *filter(None, [image])]) + "\n"


def _leg(results: Results, leg: Leg) -> list[str]:
    state = tables.state_bytes(results, leg)
    loads = tables.loads(results, leg)
    load = f"; load average {min(loads):.1f} to {max(loads):.1f}, the training itself included" if loads else ""
    rows = tables.save_rows(results, leg)
    steps = [row.quiet_step for row in rows if row.quiet_step]
    step = f", undisturbed steps of {min(steps):.2f} to {max(steps):.2f} s" if steps else ""
    head = f"{tables.about(results, leg)}: {state / 1e9:.3g} GB of tensors{step}{load}."
    parts = [f"## {leg.name}", head[:1].upper() + head[1:], save_table(rows, state)]
    absent = [method.label for name, method in METHODS.items() if name not in {row.method for row in rows}]
    if absent and leg.workload == TARGET_WORKLOAD:
        parts.append(f"Not in this run: {', '.join(absent)}.")
    resumes = tables.resume_rows(results, leg)
    if resumes:
        parts += ["### Resuming, until the state is ready", resume_table(resumes)]
    limits = tables.limit_rows(results, leg)
    if limits:
        parts += ["### Limits of the machine, in the same run", limit_table(limits, tables.limit_bytes(results, leg))]
    if leg.workload == TARGET_WORKLOAD and (limits or resumes):
        by_name = {row.method: row for row in rows}
        measured = Measured(by_name, {row.way: row for row in resumes}, limits, state)
        parts += ["### Targets", target_table(measured)]
    return parts


def save_table(rows: list[tables.SaveRow], state: int) -> str:
    """One row per method."""
    names = ["method", "blocked, s", "true inflation, s", "noise, s", "against keepstep", "durable after, s", "sync, s"]
    ours = next((row for row in rows if row.method == OURS), None)
    body: list[list[str]] = []
    for row in rows:
        if row.refused is not None:
            body.append([row.label, f"refused: {_one_line(row.refused)}", *[""] * 9])
            continue
        durable, claimed, size = (row.median(name) or 0.0 for name in ("durable", "claimed", "size"))
        saves = row.method != tables.NONE
        overlapped = sum(cost.overlapped for cost in row.costs)
        count = f"{len(row.costs)}" + (f", {overlapped} overlapped by the next" if overlapped else "")
        body.append(
            [
                row.label,
                _spread(row.spread("blocked"), 4) if saves else "",
                _spread(row.spread("inflation"), 2),
                _spread(row.noise, 2),
                against(row, ours),
                _spread(row.spread("durable"), 2) if saves else "",
                f"{durable - claimed:.2f}" if saves else "",
                _spread(row.spread("cpu"), 2),
                _memory(row.extra_memory, state) if saves else "",
                f"{size / 1e9:.3g} GB" if size > 1e8 else f"{size / 1e6:.3g} MB" if saves else "",
                count,
            ]
        )
    return table([*names, "CPU, s", "memory", "bytes", "n"], body)


def against(row: tables.SaveRow, ours: tables.SaveRow | None) -> str:
    """How a method's inflation compares with ours, in words; empty where there is nothing to compare."""
    if ours is None or row.method in (tables.NONE, OURS):
        return ""
    theirs, own = row.spread("inflation"), ours.spread("inflation")
    if theirs is None or own is None:
        return ""
    if min(theirs.count, own.count) < FEWEST:
        return "too few saves"
    floor = max(each.noise.noise for each in (row, ours) if each.noise) if row.noise or ours.noise else 0.0
    if not theirs.differs_from(own, floor):
        return "not told apart"
    return f"{theirs.median - own.median:+.2f} s"


def resume_table(rows: list[tables.ResumeRow]) -> str:
    """One row per way."""
    body = [
        [row.label, f"refused: {_one_line(row.refused)}", "", ""]
        if row.refused is not None
        else [row.label, "yes" if row.verified else "no", _spread(row.cold, 2), _spread(row.warm, 2)]
        for row in rows
    ]
    cached = max((row.still_cached for row in rows), default=0.0)
    apart = all(row.apart for row in rows if row.refused is None)
    warm = (
        "Warm: a process of its own, after the files were read once."
        if apart
        else "**Warm was measured in the process that had loaded the checkpoint cold: no resume is like that, and the "
        "figures are too high where memory is kept. The harness measures it in a process of its own now.**"
    )
    note = (
        "Cold: the files' pages were dropped from this machine's page cache (posix_fadvise); "
        f"at most {cached:.0%} of them were there when loading began. A host below this machine may hold them still. "
        f"{warm}"
    )
    return table(["way", "verified", "cold, s", "warm, s"], body) + "\n\n" + note


def limit_table(limits: dict[str, Spread], size: int) -> str:
    """One row per limit."""
    body = [[name, _spread(spread, 3), f"{size / spread.median / 1e9:.2f}"] for name, spread in limits.items()]
    return table([f"{size / 1e9:.2f} GB", "s", "GB/s"], body)


def target_table(measured: Measured) -> str:
    """One row per target: what was measured, what must be, what is aimed at."""
    body: list[list[str]] = []
    for target in TARGETS:
        figure = target.figure(measured)
        limits = ["" if each is None else f"≤ {each:.3g}{target.unit}" for each in (target.must, target.aim)]
        found = "" if figure is None else f"{figure.value:.3g}{target.unit} ± {figure.noise:.2g}"
        body.append([target.what, found, *limits, target.verdict(measured)])
    return table(["keepstep (fast engine)", "measured", "must", "aim", "verdict"], body)


def _draw(results: Results, image: Path, output: Path, what: str, words: str) -> str:
    """Draw the first leg, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return "No plot: matplotlib is not installed here." if what == "steps" else ""
    from benchmarks.saves import bars, plot

    draw = {"bars": bars.draw, "steps": plot.draw}[what]
    for leg in results.legs.values():
        if draw(results, leg, image):
            return f"![{words}]({Path(os.path.relpath(image, output)).as_posix()})"
    return ""


def table(head: list[str], body: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    noise = f" ± {spread.noise:.{digits}f}" if spread.count > 1 else ""
    return f"{spread.median:.{digits}f}{noise} [{spread.low:.{digits}f}, {spread.high:.{digits}f}]"


def _memory(extra: float | None, state: int) -> str:
    if extra is None or not state:
        return ""
    return f"{extra / 2**20:+.0f} MiB ({extra / state:.2f} × state)"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
