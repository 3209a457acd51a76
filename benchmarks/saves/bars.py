"""The picture for a stranger: what a save adds to a training, one bar a method, and the noise of the measurement."""

from __future__ import annotations

from pathlib import Path

from benchmarks.saves import tables
from benchmarks.saves.results import Results
from benchmarks.saves.spec import Leg

OURS = "keepstep"
_OWN, _OTHERS, _NOISE = "#1f7a4d", "#9aa5b1", "0.88"


def draw(results: Results, leg: Leg, path: Path) -> bool:
    """Draw all rounds of a leg; False when there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in tables.save_rows(results, leg) if row.method != tables.NONE]
    shown = [(row, spread) for row in rows if (spread := row.spread("inflation")) is not None]
    if not shown:
        return False
    shown.sort(key=lambda pair: pair[1].median, reverse=True)
    noise = max((row.noise.noise for row, _ in shown if row.noise), default=0.0)
    figure, axis = pyplot.subplots(figsize=(9, 0.36 * len(shown) + 1.5))
    axis.axvspan(-noise, noise, color=_NOISE, label=f"noise of a run without saves: ± {noise:.2f} s")
    values = [max(spread.median, 0.0) for _, spread in shown]
    colours = [_OWN if row.method == OURS else _OTHERS for row, _ in shown]
    axis.barh([row.label for row, _ in shown], values, color=colours, height=0.7)
    axis.errorbar(
        [spread.median for _, spread in shown],
        range(len(shown)),
        xerr=[spread.noise for _, spread in shown],
        fmt="none",
        ecolor="0.2",
        elinewidth=1,
        capsize=2.5,
        label="half of the saves",
    )
    for place, (_, spread) in enumerate(shown):
        axis.annotate(
            f"{spread.median:.2f} s", (max(spread.median, 0.0) + spread.noise, place), (5, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axis.margins(x=0.1, y=0.01)
    axis.set_xlabel("seconds that one save adds to the training until it is durable (less is better)")
    axis.set_title(f"{tables.about(results, leg)}: {tables.state_bytes(results, leg) / 1e9:.3g} GB a save", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, loc="upper right", frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
