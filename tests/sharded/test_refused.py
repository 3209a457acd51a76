"""Which ways to divide a training are refused, why, and what to do instead: the judgement, by what a trainer shows.

Those that can be built on CPU are refused in real trainings (`test_worlds`); the others show what they would.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import accelerate
import pytest

pytest.importorskip("trl")

from keepstep.errors import ResumeRefused, SettingsError
from keepstep.integrations.transformers.resuming.division import refuse_divided
from keepstep.integrations.transformers.setup.parallel import ranks_of
from keepstep.integrations.transformers.setup.sharding import FSDP_SHARDS, leaves_state_empty

pytestmark = pytest.mark.training
SERVED = "Served are DDP"
LOADS_SHARDS = not leaves_state_empty()


def trainer(
    *,
    world: int = 4,
    kind: str = "FSDP",
    plugin: dict[str, Any] | None = None,
    sizes: dict[str, int] | None = None,
    args: dict[str, Any] | None = None,
    **shown: bool,
) -> Any:
    """What `ranks_of` looks at of a trainer."""
    settings = {"world_size": world, "save_on_each_node": False, "process_index": 1, "ddp_timeout": 1800, "fsdp": [],
                **(args or {})}  # fmt: skip
    fsdp = SimpleNamespace(**{"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT", **(plugin or {})})
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=fsdp), parallelism_config=SimpleNamespace(**sizes) if sizes else None,
        distributed_type=kind,
    )  # fmt: skip
    shows = {"is_fsdp_enabled": kind == "FSDP", **shown}
    return SimpleNamespace(args=SimpleNamespace(**settings), accelerator=accelerator, **shows)


@pytest.mark.parametrize(
    ("shown", "what", "way_out"),
    [
        ({"plugin": {"fsdp_version": 1}}, "FSDP1", '"version": 2'),
        ({"plugin": {"state_dict_type": "LOCAL_STATE_DICT"}}, "LOCAL_STATE_DICT", "SHARDED_STATE_DICT"),
        ({"sizes": {"tp_size": 2}}, "tensor parallelism (tp_size=2)", SERVED),
        ({"sizes": {"tp_size": 2, "dp_shard_size": 2}}, "tensor parallelism (tp_size=2)", SERVED),
        ({"sizes": {"cp_size": 4}}, "context parallelism (cp_size=4)", SERVED),
        ({"sizes": {"sp_size": 2}}, "sequence parallelism (sp_size=2)", SERVED),
        ({"sizes": {"pp_size": 2, "ep_size": 2}}, "pipeline parallelism (pp_size=2) and expert parallelism", SERVED),
        ({"is_tp_enabled": True, "kind": "MULTI_GPU"}, "tensor parallelism", SERVED),
        ({"is_distributed_loading_by_transformers": True}, "divided while it loaded it", "fsdp=True"),
        ({"is_fsdp_xla_enabled": True, "kind": "XLA"}, "FSDP of torch_xla", SERVED),
        ({"kind": "MEGATRON_LM"}, "distributed type MEGATRON_LM", SERVED),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_with_the_reason_and_the_way_out(
    shown: dict[str, Any], what: str, way_out: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        ranks_of(trainer(**shown))
    assert "this training runs on 4 processes with" in refused.value.message and what in refused.value.message
    assert way_out in str(refused.value.hint)


def test_shards_are_refused_under_an_accelerate_that_does_not_put_the_state_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it does without keepstep is in `test_oldest`."""
    monkeypatch.setattr(accelerate, "__version__", "1.12.0")
    with pytest.raises(SettingsError, match=r"accelerate 1.12.0, which leaves the optimizer's state empty") as refused:
        ranks_of(trainer())
    assert "accelerate>=1.13" in str(refused.value.hint) and "FULL_STATE_DICT" in str(refused.value.hint)
    assert ranks_of(trainer(plugin={"state_dict_type": "FULL_STATE_DICT"})).sharded
    (tmp_path / FSDP_SHARDS).mkdir()
    with pytest.raises(ResumeRefused, match=r"accelerate 1.12.0, which leaves") as refused_resume:
        refuse_divided(cast(Any, SimpleNamespace(path=tmp_path)), trainer())
    assert "accelerate 1.13" in str(refused_resume.value.hint)
    monkeypatch.setattr(accelerate, "__version__", "1.13.0.dev0")
    assert ranks_of(trainer()).sharded
    refuse_divided(cast(Any, SimpleNamespace(path=tmp_path)), trainer())


def test_each_node_for_itself_is_refused() -> None:
    with pytest.raises(SettingsError, match="save_on_each_node=True in a training on 4 processes") as refused:
        ranks_of(trainer(kind="MULTI_GPU", args={"save_on_each_node": True}))
    assert "Set save_on_each_node=False" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("shown", "sharded"),
    [
        *[({}, True)] * LOADS_SHARDS,
        *[({"sizes": {"dp_replicate_size": 2, "dp_shard_size": 2, "tp_size": 1}}, True)] * LOADS_SHARDS,
        ({"kind": "MULTI_GPU"}, False),
    ],
)  # fmt: skip
def test_what_is_served_is_known_by_what_each_process_holds(shown: dict[str, Any], *, sharded: bool) -> None:
    ranks = ranks_of(trainer(**shown))
    assert (ranks.rank, ranks.size, ranks.sharded) == (1, 4, sharded)
