"""A checkpoint of stock writers is whole or torn by what is in its directory: every layout, every file gone in turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepstep.model import Kind, parse_name
from keepstep.stock import Contents, Layout, Verdict, examine
from keepstep.stores import LocalStore
from tests.stock.written import LAYOUTS, checkpoint, state_file, torch_file

NOT_MISSED = {"rng_state.pth", "rng_state_0.pth", "README.md", "zero_to_fp32.py"}
"""Without which a checkpoint is whole: numbers drawn differ, or nothing reads them."""
TOLD_BY_SIBLINGS = {"config.json", "adapter_config.json"}
"""That a checkpoint of its own can't miss."""


def verdict(home: Path, lacks: frozenset[str] = frozenset()) -> Verdict:
    parsed = parse_name(home.name)
    assert parsed is not None
    return examine(Contents(home, parsed[1], tuple(LocalStore(home.parent).walk(home.name))), lacks=lacks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_writer_finished_is_whole(tmp_path: Path, layout: str) -> None:
    found = verdict(checkpoint(tmp_path, 4, layout))
    assert (found.problems, found.notes) == ((), ())
    assert found.kind is (Kind.WEIGHTS if layout == "weights" else Kind.FULL)
    assert found.layout is {"fsdp": Layout.FSDP, "deepspeed": Layout.DEEPSPEED}.get(layout, Layout.TRAINER)
    assert found.state is not None and found.state.step == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_file_that_is_gone_is_missed(tmp_path: Path, layout: str) -> None:
    home = checkpoint(tmp_path, 4, layout)
    before = verdict(home)
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        name = path.relative_to(home).as_posix()
        data = path.read_bytes()
        path.unlink()
        found = verdict(home)
        path.write_bytes(data)
        missed = bool(found.problems) or found.lost != before.lost
        if (layout, name) == ("deepspeed", "scheduler.pt"):
            continue  # DeepSpeed may have a scheduler of its own
        assert missed is not (name in NOT_MISSED | TOLD_BY_SIBLINGS), f"{layout}: {name}"


def test_without_its_last_file_a_save_is_torn_and_its_weights_may_hold(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4)
    (home / "trainer_state.json").unlink()
    (problem,) = verdict(home).problems
    assert "written last" in str(problem)


def test_the_step_of_the_state_is_that_of_the_name(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4)
    state_file(home / "trainer_state.json", 6, [])
    assert "is of step 6" in str(verdict(home).problems[0])


def test_without_optimizer_and_scheduler_it_holds_weights(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4)
    for name in ("optimizer.pt", "scheduler.pt"):
        (home / name).unlink()
    found = verdict(home)
    assert (found.kind, found.problems) == (Kind.WEIGHTS, ())
    assert found.lost == ("optimizer.pt", "scheduler.pt")


def test_what_all_others_have_is_missed(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4)
    found = verdict(home, frozenset({"config.json", "tokenizer.json"}))
    assert "config.json is missing" in str(found.problems[0])
    assert "tokenizer.json" in found.notes[0]


def test_a_killed_writer_s_litter_is_named_and_no_part_of_it(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4)
    (home / "model.safetensors").rename(home / ".tmpAb3dEf")
    found = verdict(home)
    assert "has no weights (what a killed save left is there)" in str(found.problems[0])


def test_a_torn_shard_and_an_index_that_names_more_are_found(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4, "sharded")
    shard = home / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "model-00002-of-00002.safetensors has" in str(verdict(home).problems[0])
    shard.unlink()
    assert "is missing" in str(verdict(home).problems[0])


def test_deepspeed_is_torn_while_a_rank_has_not_written(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4, "deepspeed")
    (home / "global_step4" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    assert "not every rank" in str(verdict(home).problems[0])
    (home / "latest").write_text("global_step9")
    assert "which the file latest names" in str(verdict(home).problems[0])


def test_weights_under_a_name_of_the_model_s_own_are_weights(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4)
    (home / "model.safetensors").rename(home / "policy.safetensors")
    assert verdict(home).problems == ()


def test_deepspeed_names_the_rank_whose_optimizer_or_random_state_is_missing(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 4, "deepspeed")
    torch_file(home / "rng_state_1.pth")
    (problem,) = verdict(home).problems
    assert str(problem).startswith("global_step4/zero_pp_rank_1_mp_rank_00_optim_states.pt is missing, which rank 1")
    torch_file(home / "global_step4" / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    assert verdict(home).problems == ()
    (home / "rng_state_0.pth").unlink()
    (problem,) = verdict(home).problems
    assert str(problem) == "rng_state_0.pth is missing: rank 0 would go on with other random numbers"
