"""Trainings that race for the budget of one tree, in a few seconds: `tests/campaign` has the longer form."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.racing import race


def test_trainings_that_race_and_die_keep_the_budget_and_what_is_protected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="keepstep")
    seen = race(tmp_path / "runs", seconds=4, processes=3, saves=14, dies=0.05)
    print(seen)
    assert (seen.over, seen.protected, seen.crashed) == (0, [], [])
    assert seen.commits > 14, "more than fit: room was made"
