"""FSDP2 on the oldest libraries: what is served there, and why the rest is refused, proved by the stock Trainer.

transformers 4 takes what divides a training from `accelerate launch`: from the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from keepstep.integrations.transformers.setup.sharding import leaves_state_empty
from tests.sharded.legs import FULL, SHARDED, Leg, outcome, ride_as
from tests.training.ranked import logs_of, run_ranks
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(300),
    pytest.mark.skipif(NEWEST, reason="what is said of the oldest"),
]
LAUNCHED: dict[str, Any] = {
    "arguments": {"fsdp": "full_shard"}, "fsdp": {"version": 2, "sync_module_states": False}
}  # fmt: skip
BARE: dict[str, Any] = {**LAUNCHED, "keepstep": None}
GATHERED = (
    Leg("gathered", state=FULL, **LAUNCHED),
    Leg("gathered resumed", state=FULL, copy="gathered", upto=2, **LAUNCHED),
)
SHARDS = (
    Leg("refused", **LAUNCHED),
    Leg("stock", **BARE, resume=None),
    Leg("stock resumed", copy="stock", upto=2, **(BARE | {"resume": True})),
)


def _ride(rank: int, home: Path, state: str, legs: tuple[Leg, ...]) -> None:
    os.environ |= {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": state}
    ride_as(rank, home, legs)


def test_gathered_states_are_resumed_and_shards_refused_since_the_stock_trainer_loses_the_optimizer_s_state(
    tmp_path: Path,
) -> None:
    assert run_ranks(tmp_path, _ride, tmp_path, FULL, GATHERED) == [0, 0], logs_of(tmp_path)
    whole, again = outcome(tmp_path, "gathered"), outcome(tmp_path, "gathered resumed")
    assert again.receipt is not None and again.receipt["level"] == "exact", (again.error, logs_of(tmp_path))
    assert (again.weights, again.optimizer) == (whole.weights, whole.optimizer)

    assert run_ranks(tmp_path, _ride, tmp_path, SHARDED, SHARDS) == [0, 0], logs_of(tmp_path)
    stock, resumed = outcome(tmp_path, "stock"), outcome(tmp_path, "stock resumed")
    assert not resumed.error and (stock.weights, stock.optimizer) == (whole.weights, whole.optimizer)
    loaded = outcome(tmp_path, "gathered resumed").loaded
    assert resumed.loaded[0] == loaded[0] and (resumed.loaded[1] != loaded[1]) == bool(leaves_state_empty())
    assert (resumed.weights != stock.weights) == bool(leaves_state_empty())
    assert (outcome(tmp_path, "refused").kind == "SettingsError") == bool(leaves_state_empty())
