"""A soak: killed every few seconds, the disk nearly full, `prune`, `export` and the page beside it."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from keepstep.integrations.transformers.exporting import exporter
from keepstep.web import server
from tests.campaign.soaking import Model, Soak
from tests.campaign.test_failing_disks import mounted
from tests.failures.build import model

SECONDS = float(os.environ.get("KEEPSTEP_TEST_SOAK", "25"))
SIZE = "8m"
"""Five checkpoints; the policy would have up to five, while one more is written."""
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(SECONDS + 300),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@contextmanager
def nearly_full(place: Path) -> Iterator[tuple[Path, str | None]]:
    """A disk that is too small, or, where none may be mounted, a directory and a budget that is."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(mounted(place / "disk", f"size={SIZE}")), None
        except pytest.skip.Exception:
            yield place / "disk", "7MB"


@pytest.fixture
def small(tmp_path: Path) -> Model:
    """The files of a real model, which an export loads."""
    with tempfile.TemporaryDirectory() as place:
        model().save_pretrained(place)
        return Model(*(Path(place, name).read_bytes() for name in ("config.json", "model.safetensors")))


def test_a_soak(tmp_path: Path, small: Model, caplog: pytest.LogCaptureFixture) -> None:
    """`KEEPSTEP_TEST_SOAK` says how many seconds."""
    caplog.set_level(logging.CRITICAL, logger="keepstep")
    assert exporter and server, "what the processes fork from has imported what they need"
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    with nearly_full(tmp_path) as (root, budget):
        seen = Soak(root, tmp_path / "diary", small, SECONDS, random.Random(seed), budget).go()
    print(seen)
    assert seen.violations == []
    assert seen.kills["training"] and seen.done["prune"] and seen.done["export"] and seen.answers
