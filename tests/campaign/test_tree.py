"""A minute of trainings that race for one budget with real bytes, and are killed inside of saves, beside prunes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.racing import race

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(200)]


def test_a_minute_of_racing_and_dying(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="keepstep")
    seen = race(place / "runs", seconds=60, processes=4, saves=16, dies=0.1, prunes=True)
    print(seen)
    assert (seen.over, seen.protected, seen.crashed) == (0, [], [])
    assert seen.killed and {"of runs at rest", "its own"} <= seen.removed.keys()
