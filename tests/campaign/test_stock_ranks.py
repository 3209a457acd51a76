"""The same faults, thrown at the stock Trainer with FSDP2: what keepstep is measured against (`docs/scale.md`)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.sharded.faults import Fault
from tests.sharded.legs import Leg, outcome, ride
from tests.training.ranked import logs_of
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5"),
]
SHARD = "pytorch_model_fsdp_0/__1_0.distcp"


def test_the_stock_trainer_trains_on_with_wrong_weights_and_stumbles_over_half_a_checkpoint(tmp_path: Path) -> None:
    legs = (
        Leg("whole", keepstep=None, resume=None),
        Leg("resumed", keepstep=None, copy="whole", upto=4, resume=True),
        Leg("flipped", keepstep=None, copy="whole", upto=4, flips=((4, SHARD),), resume=True),
    )
    assert ride(tmp_path, *legs) == [0, 0], logs_of(tmp_path)
    whole, resumed, flipped = (outcome(tmp_path, leg.name) for leg in legs)
    assert resumed.weights == whole.weights
    assert not flipped.error and flipped.weights != whole.weights, "one bit, and nobody said anything"

    killed = Leg("killed", keepstep=None, resume=None, faults=((1, Fault("shards", "kill", nth=4, anywhere=True)),))
    assert ride(tmp_path, killed)[1] == -signal.SIGKILL, logs_of(tmp_path)
    left = sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*"))
    assert left == ["checkpoint-2", "checkpoint-4"], "half a checkpoint, called like a whole one"
    again = Leg("again", keepstep=None, copy="killed", upto=99, resume=True)
    assert ride(tmp_path, again) == [0, 0], logs_of(tmp_path)
    one = outcome(tmp_path, "again")
    assert (one.kind, one.step) == ("FileNotFoundError", 0), one
    assert "checkpoint-4" in one.error, "checkpoint-2, which is whole, is not tried"
