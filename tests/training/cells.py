"""A cell of the exactness matrix: one recipe, the steps it saves at, and the kills that it must survive."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.training import processes
from tests.training.comparing import differences, load
from tests.training.course import Job, Kill, train
from tests.training.tiny import Recipe

PROCESSES = 2


@dataclass(frozen=True)
class Cell:
    """`saves` are the steps at which the uninterrupted training saves: it is killed after each of them.

    `also` are further lives of a training: each a row of kills, one for each process before the last.
    """

    name: str
    recipe: Recipe
    saves: tuple[int, ...]
    also: tuple[tuple[Kill, ...], ...] = ()
    every: bool = True

    @property
    def lives(self) -> tuple[tuple[Kill, ...], ...]:
        """All rows of kills, those after each save first."""
        after = tuple((Kill("save", number),) for number in range(1, len(self.saves) + 1)) if self.every else ()
        return after + self.also

    @property
    def few(self) -> tuple[tuple[Kill, ...], ...]:
        """Two of its lives: one in its first half, and the last of those that are told apart, or of its second half."""
        lives = self.lives
        return lives if len(lives) <= 2 else (lives[len(lives) // 3], lives[-1 if self.also else 2 * len(lives) // 3])

    @property
    def others(self) -> tuple[tuple[Kill, ...], ...]:
        """The lives that `few` leaves out."""
        return tuple(life for life in self.lives if life not in self.few)

    @property
    def kill_points(self) -> int:
        """Processes that are killed in all."""
        return sum(len(life) for life in self.lives)


def inside(save: int, *points: str) -> tuple[tuple[Kill, ...], ...]:
    """Lives that end inside one save; a point is what is called and, when it is not the first call, its number."""
    parts = [point.rsplit(" ", 1) if point[-1].isdigit() else (point, "1") for point in points]
    return tuple((Kill(what, int(nth), save),) for what, nth in parts)


def failures_of(cell: Cell, home: Path, lives: Sequence[tuple[Kill, ...]] | None = None) -> list[str]:
    """Run all lives of the cell, or these; every kill point that was not resumed exactly, with what differs."""
    reference = _uninterrupted(cell, home / "reference")
    with ThreadPoolExecutor(PROCESSES) as pool:
        pairs = [(life, home / str(number)) for number, life in enumerate(cell.lives if lives is None else lives)]
        found = pool.map(lambda pair: list(_live(cell, reference, *pair)), pairs)
        return [failure for failures in found for failure in failures]


def run_once(home: Path, recipe: Recipe, *kills: Kill, afresh: bool = False, **options: Any) -> int:
    """One child that trains in `home/run` and leaves its outcome in `home/outcome`; returns its exit code."""
    home.mkdir(parents=True, exist_ok=True)
    job = Job(recipe, home / "run", home / "outcome", kills, **options)
    return processes.call(train, job, log=home / "log", afresh=afresh)


def complete(home: Path, recipe: Recipe, *kills: Kill, **options: Any) -> Path:
    """A training that is killed at each of `kills`, and then ends; `options` are those of the last child."""
    for kill in kills:
        assert run_once(home, recipe, kill) == processes.SIGKILLED, log_of(home)
    assert run_once(home, recipe, **options) == 0, log_of(home)
    return home


def log_of(home: Path) -> str:
    """The end of what the children of `home` wrote."""
    return (home / "log").read_text(errors="replace")[-3000:]


def _uninterrupted(cell: Cell, home: Path) -> Path:
    complete(home, cell.recipe)
    lines = (home / "run" / ".keepstep" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines if line]
    saved = tuple(event["step"] for event in events if event["event"] == "committed")
    assert saved == cell.saves, f"{cell.name} saves at {saved}, the cell says {cell.saves}"
    return home


def _live(cell: Cell, reference: Path, life: tuple[Kill, ...], home: Path) -> Iterator[str]:
    where = f"{cell.name}, killed at {', then '.join(map(str, life))}"
    for kill in life:
        code = run_once(home, cell.recipe, kill)
        if code != processes.SIGKILLED:
            yield f"{where}: exit code {code} in place of the kill\n{log_of(home)}"
            return
    if run_once(home, cell.recipe) != 0:
        yield f"{where}: the resume failed\n{log_of(home)}"
        return
    found = [*differences(reference, home), *_receipt_problems(home, load(reference / "outcome")["global_step"])]
    yield from (f"{where}: {difference}" for difference in found)
    if not found:
        shutil.rmtree(home)


def _receipt_problems(home: Path, last: int) -> Iterator[str]:
    """The receipt must say exact, and no step that was trained already may be trained again."""
    outcome = load(home / "outcome")
    receipt = outcome["receipt"]
    if receipt is not None and (receipt["level"] != "exact" or not receipt["verified"]):
        yield f"the receipt says {receipt}"
    step = receipt["step"] if receipt else 0
    if outcome["steps trained"] != last - step:
        yield f"resumed from step {step}, trained {outcome['steps trained']} steps up to {last}"
