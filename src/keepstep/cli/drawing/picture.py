"""A replayed training as a PNG: the metric with what is on disk in the end, and the disk use. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from keepstep.errors import SettingsError
from keepstep.operations.simulation.replay import Replay

_INK, _SHADE, _MARK = "#1f5f8b", "#b9d4e6", "#c2571a"


def draw(replayed: Replay, path: Path) -> None:
    """Write the picture to `path`. Raises SettingsError without matplotlib or without a save, OSError."""
    if find_spec("matplotlib") is None:
        raise SettingsError("drawing a PNG needs matplotlib", hint='Install it: pip install "keepstep[plot]"')
    if not replayed.moments:
        raise SettingsError("there is nothing to draw: no step was saved", hint="Save more often, or crash later.")
    # By name: most of matplotlib's calls have no types, and the core is checked without it.
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(9, 5), dpi=120, layout="constrained")
    metric = replayed.policy.metric
    panels = figure.subplots(2 if metric else 1, 1, sharex=True, squeeze=False)[:, 0]
    if metric:
        _draw_metric(panels[0], replayed, metric.name)
    _draw_disk(panels[-1], replayed)
    panels[-1].set_xlabel("step")
    # The file's name decides on the format otherwise, and "--png disk" names none.
    figure.savefig(path, format="png")


def _draw_metric(panel: Any, replayed: Replay, name: str) -> None:
    saved = [m.checkpoint for m in replayed.moments if name in m.checkpoint.metrics]
    kept = [checkpoint for checkpoint in replayed.on_disk if name in checkpoint.metrics]
    panel.plot([c.step for c in saved], [c.metrics[name] for c in saved], ".-", color=_INK, label="saved")
    panel.plot([c.step for c in kept], [c.metrics[name] for c in kept], "o", color=_MARK, label="on disk in the end")
    panel.set_ylabel(name)
    panel.legend(frameon=False)


def _draw_disk(panel: Any, replayed: Replay) -> None:
    unit, name = _unit(replayed)
    steps = [moment.checkpoint.step for moment in replayed.moments]
    kept = [sum(unit(c.size_bytes) for c in moment.kept) for moment in replayed.moments]
    most = [sum(unit(c.size_bytes) for c in moment.most) for moment in replayed.moments]
    width = 0.8 * (steps[0] if len(steps) == 1 else min(b - a for a, b in pairwise(steps)))
    panel.bar(steps, most, width, color=_SHADE, label="during the save")
    panel.bar(steps, kept, width, color=_INK, label="after it")
    panel.set_ylabel(f"on disk ({name})")
    panel.legend(frameon=False)


def _unit(replayed: Replay) -> tuple[Callable[[int], float], str]:
    """How a checkpoint of so many bytes counts: in GB, or as one where no size is known."""
    sized = bool(replayed.moments[0].checkpoint.size_bytes)
    return (_gigabytes, "GB") if sized else (_one, "checkpoints")


def _gigabytes(size: int) -> float:
    return size / 1e9


def _one(size: int) -> float:
    return 1.0
