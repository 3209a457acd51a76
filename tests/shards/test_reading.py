"""Runs that ranks wrote, to the commands that read: whole or torn, who wrote what, and what changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstep.cli.main import main
from keepstep.formats.dcp_metadata import METADATA
from keepstep.operations.comparing import comparison
from keepstep.run import open_run
from keepstep.stock import Layout
from tests.shards.test_dcp import MODEL
from tests.shards.written import STEPS, expected

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]
OPTIMIZER = "optimizer_0"


def told(*words: object) -> dict[str, object]:
    """What a command says for machines."""
    done = CliRunner().invoke(main, [*map(str, words), "--format", "json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_whole_ones_are_whole_and_known_by_their_layout(shards: Path) -> None:
    for name in ("llama", "tied", "lora", "full"):
        run = open_run(shards / name)
        assert all(not checkpoint.damage for checkpoint in run.checkpoints), name
        assert run.find("latest").written_by["resumable for"] == Layout.FSDP.value
        assert not run.verify(run.find("latest")).problems
    assert [c.step for c in open_run(shards / "llama").checkpoints] == list(STEPS)
    assert open_run(shards / "llama").find("best").step == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (f"{MODEL}/{METADATA} gone", "is missing, which is written last"),
        (f"{MODEL}/{METADATA} cut", "is damaged, or no metadata"),
        (f"{MODEL}/__1_0.distcp gone", r"__1_0\.distcp is missing, which its metadata names \(rank 1 writes it\)"),
        (f"{MODEL}/__1_0.distcp cut", r"__1_0\.distcp is cut: it has .* of .* \(rank 1 writes it\)"),
        (f"{OPTIMIZER}/__0_0.distcp cut", r"__0_0\.distcp is cut: .* \(rank 0 writes it\)"),
        ("rng_state_1.pth gone", r"rng_state_1\.pth is missing: rank 1 would go on with other random numbers"),
    ],
)
def test_a_torn_one_is_named_with_the_rank_and_passed_over(
    copied: Callable[[str], Path], change: str, said: str
) -> None:
    run = copied("llama")
    name, how = change.split()
    path = run / "checkpoint-4" / name
    data = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    opened = open_run(run)
    torn = opened.find(4)
    assert torn.damage.value == ("weights" if name.startswith(MODEL) else "resume")
    problems = [str(problem) for problem in opened.verify(torn).problems]
    assert len(problems) == 1
    assert_matches(said, problems[0])
    point = opened.resume_point()
    assert point is not None and point.checkpoint.step == 2
    done = CliRunner().invoke(main, ["verify", str(run)], catch_exceptions=False)
    assert done.exit_code and name in done.output


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(text)


def test_it_is_shown_what_each_rank_wrote(shards: Path) -> None:
    directory = shards / "llama" / "checkpoint-4"
    found = told("show", shards / "llama", 4)
    own = [path for path in directory.rglob("*") if path.is_file() and ("__1_" in path.name or "_1.pth" in path.name)]
    assert len(own) == 3
    all_ = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    of_one = sum(path.stat().st_size for path in own)
    assert found["ranks"] == [{"rank": 0, "size_bytes": all_ - of_one}, {"rank": 1, "size_bytes": of_one}]
    text = CliRunner().invoke(main, ["show", str(shards / "llama"), "4"], catch_exceptions=False).output
    assert "Written by ranks" in text and "in 3 files" in text
    assert told("show", shards / "full", 2)["ranks"] == []


def test_du_counts_weights_and_optimizers_of_ranks(shards: Path) -> None:
    text = CliRunner().invoke(main, ["du", str(shards / "llama"), "--format", "json"], catch_exceptions=False).stdout
    row = json.loads(text)["stock"][0]["by_checkpoint"][0]
    home = shards / "llama" / "checkpoint-2"
    sizes = {d: sum(p.stat().st_size for p in (home / d).iterdir()) for d in (MODEL, OPTIMIZER)}
    states = sum(p.stat().st_size for p in home.iterdir() if p.suffix in (".pth", ".pt"))
    assert (row["weights_bytes"], row["optimizer_bytes"]) == (sizes[MODEL], sizes[OPTIMIZER] + states)


@pytest.mark.long
def test_tensors_are_compared_across_ranks_and_with_what_one_process_wrote(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "ELEMENTS", 7)  # pieces that end within rows, and within chunks
    found = told("diff", shards / "llama", 2, 4, "--limit", 1000)
    changes = {one["name"]: one for one in found["tensors"]}
    before, after = (expected(shards, f"llama-{step}") for step in STEPS)
    assert changes.keys() == before.keys() and not found["not_read"]
    for name, change in changes.items():
        moved = (after[name].double() - before[name].double()).norm() / before[name].double().norm()
        assert change["relative_change"] == pytest.approx(float(moved), rel=1e-6), name
    with_optimizer = told("diff", shards / "llama", 2, 4, "--optimizer", "--limit", 1000)["tensors"]
    assert len(with_optimizer) == 4 * len(before)  # exp_avg, exp_avg_sq and step of each
    # Against the whole file of another run: the same names.
    across = told("diff", shards / "llama", 2, shards / "full", 2, "--limit", 1000)["tensors"]
    assert [one["why_not_compared"] for one in across] == [None] * len(across) and len(across) == len(before)


def test_a_comparison_says_which_rank_s_file_is_gone(copied: Callable[[str], Path]) -> None:
    run = copied("llama")
    (run / "checkpoint-4" / MODEL / "__1_0.distcp").unlink()
    found = told("diff", run, 2, 4)
    assert "(of rank 1) is missing" in str(found["tensors"][0]["why_not_compared"])
