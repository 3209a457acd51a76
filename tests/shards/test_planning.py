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


def test_it_is_printed_by_rank_and_two_numbers_of_ranks_are_refused() -> None:
    shown = CliRunner().invoke(main, ["plan", "--params", "1B", "--fsdp", "4"], catch_exceptions=False).output
    assert "Rank" in shown and "1 to 2" in shown and "FULL_STATE_DICT" in shown
    refused = CliRunner().invoke(main, ["plan", "--params", "1B", "--fsdp", "4", "--world-size", "2"])
    assert refused.exit_code and "give one" in refused.output
