"""An unchanged command line that is ended by signals, again and again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.supervision.test_attached import trl_sft

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]


def test_trl_sft_killed_and_preempted_in_turn(tmp_path: Path) -> None:
    """`KEEPSTEP_TEST_KILLS` says how often; a preempted one saves, and counts as no failure."""
    times = int(os.environ.get("KEEPSTEP_TEST_KILLS", "2"))
    trl_sft(tmp_path, [("SIGKILL", "SIGTERM")[n % 2] for n in range(times)], steps=6 + 3 * times)
