"""The metric of a training that did not happen: read from a file, or drawn from a formula."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keepstep.errors import SettingsError
from keepstep.paths import expanded

TURN = 0.2
"""Where the U-shape turns, as a part of the training: fine-tuning overfits early."""
SHAPES = ("u-shape", "noisy")
_LARGEST_FILE = 50 * 10**6
_CLOCK = {"wall time", "wall_time", "time", "relative time", "epoch"}


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of a metric by step, and the metric's name as its file says it."""

    name: str
    values: Mapping[int, float]


def make_curve(kind: str, evaluations: Sequence[int], steps: int, seed: int) -> Curve:
    """A shape by name at the evaluated steps, or the curve of a CSV file. Raises SettingsError."""
    if kind == "u-shape":
        return Curve("eval_loss", {step: u_shape(step / steps) for step in evaluations})
    if kind == "noisy":
        noise = random.Random(seed)
        return Curve("eval_loss", {step: noisy(step / steps, noise.gauss(0, 1)) for step in evaluations})
    path = expanded(kind)
    if not path.is_file():
        raise SettingsError(f"{kind} is neither a file nor a shape", hint=f"Name a CSV file, or {' or '.join(SHAPES)}.")
    return read_curve(path)


def u_shape(part: float) -> float:
    """A loss that falls until `TURN` of the training and rises from there on, by overfitting."""
    return round(1 + 4 * (part - TURN) ** 2, 6)


def noisy(part: float, noise: float) -> float:
    """A loss that falls all the time, with noise of a standard deviation of 0.03."""
    return round(1 + math.exp(-5 * part) + 0.03 * noise, 6)


def read_curve(path: Path) -> Curve:
    """Steps and values of a CSV file: a column `step`, and the metric's.

    Columns of times are passed over; with several metrics the first counts. Raises SettingsError.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SettingsError(f"{path} is too large for a curve", hint="Export the metric alone.")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SettingsError(f"{path} can't be read: {reason}", hint=_HINT) from error
    if not rows:
        raise SettingsError(f"{path} is empty", hint=_HINT)
    heading = [name.strip() for name in rows[0]]
    lower = [name.lower() for name in heading]
    metrics = [place for place, name in enumerate(lower) if name and name != "step" and name not in _CLOCK]
    if "step" not in lower or not metrics:
        raise SettingsError(f"{path} has no column 'step' and one of values beside it", hint=_HINT)
    column = metrics[0]
    values: dict[int, float] = {}
    for number, row in enumerate(rows[1:], start=2):
        step, value = _numbers(path, number, row, lower.index("step"), column)
        if value is not None:
            values[step] = value
    if not values:
        raise SettingsError(f"{path} has no value of {heading[column]}", hint=_HINT)
    name = heading[column]
    return Curve("eval_loss" if name.lower() == "value" else name, values)


def _numbers(path: Path, number: int, row: list[str], step: int, column: int) -> tuple[int, float | None]:
    """A row's step and value; None where the step was not evaluated."""
    try:
        at = float(row[step])
        text = row[column].strip() if column < len(row) else ""
        value = float(text) if text else None
    except (ValueError, IndexError):
        raise SettingsError(f"{path}, line {number}: {','.join(row)!r} is no step and value", hint=_HINT) from None
    if not (at.is_integer() and 0 <= at < 2**53):
        raise SettingsError(f"{path}, line {number}: {row[step]!r} is no step", hint=_HINT)
    return int(at), value


_HINT = "Give a CSV file with a heading, such as:  step,eval_loss"
