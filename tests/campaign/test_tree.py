"""Trainings that race for one budget with real bytes, and are killed inside of saves, beside prunes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.racing import race

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(200)]


def test_racing_and_dying(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`KEEPSTEP_TEST_SECONDS` says how long."""
    seconds = float(os.environ.get("KEEPSTEP_TEST_SECONDS", "25"))
    caplog.set_level(logging.CRITICAL, logger="keepstep")
    seen = race(place / "runs", seconds=seconds, processes=4, saves=16, dies=0.1, prunes=True)
    print(seen)
    assert (seen.over, seen.protected, seen.crashed) == (0, [], [])
    assert seen.killed and {"of runs at rest", "its own"} <= seen.removed.keys()
