"""What each rank will write, planned from a config, and what two ranks then wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstep.cli.main import main
from tests.shards.test_dcp import MODEL

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def planned(*words: object) -> dict[str, object]:
    done = CliRunner().invoke(main, ["plan", *map(str, words), "--format", "json"], catch_exceptions=False)
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["llama", "tied", "bf16"])
def test_a_plan_is_what_the_ranks_write(shards: Path, kind: str) -> None:
    dtype = "bf16" if kind == "bf16" else "fp32"
    found = planned(shards / f"{kind}-config", "--fsdp", 2, "--dtype", dtype)
    home = shards / kind / "checkpoint-2"
    sizes = {path.relative_to(home).as_posix(): path.stat().st_size for path in home.rglob("*") if path.is_file()}
    for rank, one in enumerate(found["ranks"]):
        due = sizes[f"{MODEL}/__{rank}_0.distcp"] + (sizes[f"{MODEL}/.metadata"] if rank == 0 else 0)
        assert one["weights"] == pytest.approx(due, rel=0.03), (rank, "weights")
    states = sum(size for path, size in sizes.items() if path.startswith("optimizer_0"))
    # The settings of the parameter groups are pickles of one value each: some 20 kB, whatever the model.
    assert found["checkpoint_bytes"]["optimizer"] == pytest.approx(states - 12 * 1261, rel=0.05)


def test_the_ranks_are_the_checkpoint_and_share_it_evenly() -> None:
    words = ("--params", "13B", "--steps", 1000, "--save-every", 100, "--limit", 2)
    found, one = planned(*words, "--fsdp", 8), planned(*words)
    ranks = found["ranks"]
    assert (ranks[0]["first"], ranks[0]["last"], ranks[-1]["last"]) == (0, 0, 7)
    total = sum(r["total"] * (r["last"] - r["first"] + 1) for r in ranks)
    assert total == found["checkpoint_bytes"]["total"] == pytest.approx(one["checkpoint_bytes"]["total"], rel=0.001)
    assert all(r["weights"] == pytest.approx(26e9 / 8, rel=0.02) for r in ranks)
    assert max(r["total"] for r in ranks) < total / 8 * 1.01
    assert found["disk"]["peak_bytes"] == 4 * total
    assert found["disk"]["phases"][-1]["phase"] == one["disk"]["phases"][-1]["phase"]
    assert one["ranks"] == []


LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 16, "head_dim": 8,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
WRITTEN = {
    "2": ("--zero 2", (28_016 + 33_317, 0), 44_639),
    "3": ("--zero 3", (11_753, 11_753), 44_037),
    "3, LoRA": ("--zero 3 --lora-r 4 --lora-target q_proj,v_proj", (3_064 + 11_007, 11_007), 6_867),
}
"""By stage: what DeepSpeed 0.19.8 and transformers 5.23 wrote of this model on two ranks, weights and optimizer."""


@pytest.mark.parametrize("stage", WRITTEN)
def test_a_plan_is_what_two_ranks_of_deepspeed_wrote(stage: str, tmp_path: Path) -> None:
    words, weights, optimizer = WRITTEN[stage]
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = planned(tmp_path, *words.split(), "--world-size", 2, "--dtype", "fp32")
    # The names of a base that is frozen are in the files of stage 3, and not in the plan.
    allowed = {"abs": 200 * 21 + 1500} if "LoRA" in stage else {"rel": 0.01}
    ranks = [one for one in found["ranks"] for _ in range(one["first"], one["last"] + 1)]
    assert [one["weights"] for one in ranks] == [pytest.approx(due, **allowed) for due in weights]
    assert [one["optimizer"] for one in ranks] == [pytest.approx(optimizer, rel=0.02)] * 2


def test_replicas_of_shards_write_each_chunk_once() -> None:
    words = ("--params", "7B", "--fsdp", 4)
    one, two = planned(*words), planned(*words, "--replicas", 2)
    assert (two["ranks"][-1]["last"], two["model"]["world_size"]) == (7, 8)
    assert two["checkpoint_bytes"]["weights"] == one["checkpoint_bytes"]["weights"]
    assert max(r["weights"] for r in two["ranks"]) == pytest.approx(one["ranks"][0]["weights"] / 2, rel=0.05)


def test_zero_shares_the_state_and_not_what_rank_0_writes_of_the_model() -> None:
    two = planned("--params", "7B", "--zero", 2, "--world-size", 8)["ranks"]
    three = planned("--params", "7B", "--zero", 3, "--world-size", 8)["ranks"]
    assert [(one["first"], one["last"]) for one in two] == [(0, 0), (1, 7)]
    assert two[0]["weights"] == pytest.approx(2 * 14e9, rel=0.01) and not two[1]["weights"]
    assert all(one["optimizer"] == pytest.approx(12 * 7e9 / 8, rel=0.01) for one in (*two, *three))
    assert max(one["weights"] for one in three) < 1e6


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--zero", 2), "--zero needs --world-size"),
        (("--zero", 2, "--world-size", 2, "--fsdp", 2), "give one"),
        (("--replicas", 2), "--replicas needs --fsdp"),
        (("--zero", 3, "--world-size", 2, "--weights-only"), "don't go together"),
        (("--zero", 2, "--world-size", 2, "--master-weights", "fp32"), "without --master-weights"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: tuple[object, ...], told: str) -> None:
    done = CliRunner().invoke(main, ["plan", "--params", "1B", *map(str, words)])
    assert done.exit_code and told in " ".join(done.output.split()), done.output


def test_it_is_printed_by_rank_and_two_numbers_of_ranks_are_refused() -> None:
    shown = CliRunner().invoke(main, ["plan", "--params", "1B", "--fsdp", "4"], catch_exceptions=False).output
    assert "Rank" in shown and "1 to 2" in shown and "FULL_STATE_DICT" in shown
    refused = CliRunner().invoke(main, ["plan", "--params", "1B", "--fsdp", "4", "--world-size", "2"])
    assert refused.exit_code and "give one" in refused.output
