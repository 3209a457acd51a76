"""The picture: step time against step, one line per method, the saves marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.saves import estimator
from benchmarks.saves.methods import METHODS
from benchmarks.saves.results import Results
from benchmarks.saves.spec import Leg


def draw(results: Results, leg: Leg, path: Path) -> bool:
    """Draw the first round of a leg; False when there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = {name: _first(results, leg, name) for name in METHODS}
    drawn = {name: record for name, record in records.items() if record is not None}
    if not drawn:
        return False
    figure, axes = pyplot.subplots(len(drawn), 1, sharex=True, sharey=True, figsize=(9, 1.1 * len(drawn) + 1))
    for axis, (name, record) in zip([axes] if len(drawn) == 1 else axes, drawn.items(), strict=True):
        _line(axis, METHODS[name].label, record)
    figure.supxlabel(
        "steps since the first save that counts (dot: the step that begins with a save; grey: undisturbed)"
    )
    figure.supylabel("seconds per step")
    figure.suptitle(leg.name)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _first(results: Results, leg: Leg, method: str) -> dict[str, Any] | None:
    whole = (record for record in results.of(leg, "course", method) if "refused" not in record)
    return next(whole, None)


def _line(axis: Any, label: str, record: dict[str, Any]) -> None:
    boundaries = record["boundaries"]
    counted = [save["step"] for save in record["saves"] if save["counts"]]
    zero = counted[0] if counted else 0
    first = max(record["warm_steps"] + 1, zero - 3)
    steps = range(first, len(boundaries))
    seconds = [boundaries[step] - boundaries[step - 1] for step in steps]
    axis.axhline(estimator.quiet_step(record), color="0.8", linewidth=0.8)
    axis.plot([step - zero for step in steps], seconds, linewidth=1.2)
    # The step after a save began holds what the save took.
    hit = [step + 1 for step in counted if step + 1 < len(boundaries)]
    axis.plot([step - zero for step in hit], [boundaries[s] - boundaries[s - 1] for s in hit], "o", markersize=4)
    axis.set_title(label, fontsize=8, loc="left", pad=2)
    axis.tick_params(labelsize=7)
