"""Real processes killed at the entry of every system call that changes something, and killed again in recovery."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.campaign.actions import ACTIONS, Action, check, plain_write, resumes_from
from tests.campaign.victims import Point, die_at, has_strace, points_of

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
PAIRS_PER_ACTION = 14


class Site:
    """Fresh copies of one action's prepared run."""

    def __init__(self, place: Path, action: Action) -> None:
        self.place = place
        self.action = action
        self.original = place / "original"
        action.prepare(self.original)

    def fresh(self) -> Path:
        path = self.place / "victim"
        shutil.rmtree(path, ignore_errors=True)
        if self.original.exists():
            shutil.copytree(self.original, path)
        return path

    def points(self) -> list[Point]:
        return points_of(partial(self.action.act, self.fresh(), plain_write), self.place / "log")

    def kill(self, point: Point) -> tuple[Path, bool]:
        """The run after a kill there, and whether the victim died of it."""
        path = self.fresh()
        return path, die_at(partial(self.action.act, path, plain_write), point)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_a_kill_at_every_point_keeps_the_promises(place: Path, action: Action) -> None:
    site = Site(place, action)
    points = site.points()
    check(site.place / "victim", action, completed=True)
    for point in points:
        path, died = site.kill(point)
        assert died, f"nothing was killed at {point}"
        try:
            check(path, action, completed=False)
        except Exception as error:
            raise AssertionError(f"killed at {point}") from error
    how = "strace" if has_strace() else "the fault injector"
    print(f"{action.name}: {len(points)} kill points by {how}, failed resumes: 0")
    assert len(points) >= 8


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_a_kill_in_the_recovery_from_a_kill_keeps_them_too(place: Path, action: Action) -> None:
    site = Site(place, action)
    chance = random.Random(action.name)
    points = site.points()
    pairs = 0
    for first in chance.sample(points, min(PAIRS_PER_ACTION, len(points))):
        path, _ = site.kill(first)
        again = site.place / "again"
        shutil.rmtree(again, ignore_errors=True)
        if path.exists():
            shutil.copytree(path, again)
        second = chance.choice(points_of(partial(_resume, again), site.place / "log"))
        if die_at(partial(_resume, path), second):
            pairs += 1
        try:
            check(path, action, completed=False)
        except Exception as error:
            raise AssertionError(f"killed at {first}, then in the recovery at {second}") from error
    print(f"{action.name}: {pairs} pairs of kills, failed resumes: 0")
    assert pairs >= min(len(points), PAIRS_PER_ACTION) // 2


def _resume(path: Path) -> None:
    resumes_from(path)
