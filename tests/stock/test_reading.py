"""Every command that reads works on what stock writers left, and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import keepstep
from keepstep.errors import NotManaged, RunNotFound
from keepstep.run import Run, StockRun, open_run
from tests.cli.conftest import Call, call  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.stock.written import LAYOUTS, checkpoint, everything_below, log_to, run_of, state_file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 2 to 8, of which 8 is torn; the lowest loss is that of 6."""
    home = run_of(tmp_path / "sft", (2, 4, 6, 8))
    optimizer = home / "checkpoint-8" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:100])
    log = [
        {**record, "eval_loss": 9.0} if "eval_loss" in record and record["step"] == 8 else record
        for record in log_to(8)
    ]
    state_file(home / "checkpoint-8" / "trainer_state.json", 8, log)
    return home


READING: list[tuple[str, ...]] = [
    ("ls",), ("ls", "--all"), ("ls", "--format", "json"), ("best",), ("resume",), ("show", "best"), ("show", "4"),
    ("verify",), ("verify", "4"), ("du",), ("du", "--check"), ("doctor",), ("metrics",), ("events",), ("watch",),
    ("prune", "--keep", "latest:1", "--dry-run"), ("adopt", "--dry-run"), ("export", "4", "OUT", "--dry-run"),
]  # fmt: skip


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_that_reads_works_and_writes_nothing(call: Call, run: Path, command: tuple[str, ...]) -> None:  # noqa: F811
    before = everything_below(run)
    name, *rest = command
    arguments = [str(run.parent / "out") if word == "OUT" else word for word in rest]
    result = call(name, run, *arguments)
    assert result.exit_code in (0, 1), result.output
    assert "Traceback" not in result.output
    assert everything_below(run) == before


WRITING = [
    ("pin", "4"), ("thin", "4"), ("reseal", "4"), ("verify", "--quarantine"), ("tag", "4", "good"),
    ("prune", "--keep", "latest:1", "--yes"),
]  # fmt: skip


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_a_command_that_writes_names_adopt(call: Call, run: Path, command: tuple[str, ...]) -> None:  # noqa: F811
    before = everything_below(run)
    result = call(command[0], run, *command[1:])
    assert result.exit_code == NotManaged.exit_code
    assert f"keepstep adopt {run} --dry-run" in result.output
    assert everything_below(run) == before


def test_the_list_says_what_is_torn_and_why(call: Call, run: Path) -> None:  # noqa: F811
    rows: list[dict[str, Any]] = json.loads(call("ls", run, "--format", "json").stdout)
    assert [(row["step"], row["state"]) for row in rows] == [(2, "not managed"), (4, "not managed"),
                                                             (6, "not managed"), (8, "torn")]  # fmt: skip
    assert "optimizer.pt" in rows[-1]["kept_because"][0]
    assert rows[1]["metrics"]["eval_loss"] == pytest.approx(2.96)


def test_nothing_is_called_verified(call: Call, run: Path) -> None:  # noqa: F811
    for command in ("resume", "best", "verify"):
        output = call(command, run).output
        assert "verified" not in output
        assert "nothing is missing" in output or command == "verify"


def test_a_resume_passes_over_what_is_torn(call: Call, run: Path) -> None:  # noqa: F811
    result = call("resume", run)
    assert result.stdout.strip().endswith("checkpoint-6")
    assert "passed over: checkpoint-8" in result.output


def test_the_best_is_that_of_the_evaluations(call: Call, run: Path) -> None:  # noqa: F811
    assert call("best", run).stdout.strip().endswith("checkpoint-6")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_a_run(tmp_path: Path, layout: str) -> None:
    found = keepstep.open_run(str(run_of(tmp_path, (2, 4), layout)))
    assert not found.managed
    assert [checkpoint.step for checkpoint in found.checkpoints] == [2, 4]
    assert {found.word_for(checkpoint) for checkpoint in found.checkpoints} == {"not managed"}
    assert found.best is not None and found.best.step == 4


def test_a_step_that_was_not_evaluated_has_no_value(tmp_path: Path) -> None:
    checkpoint(tmp_path, 4, log=log_to(3, every=3))
    (found,) = StockRun.open(tmp_path).checkpoints
    assert found.metrics == {}


def test_others_checkpoints_are_named_and_not_counted(tmp_path: Path) -> None:
    run_of(tmp_path, (2,))
    (tmp_path / "checkpoint_3").mkdir()
    (tmp_path / "epoch=1-step=40.ckpt").write_bytes(b"")
    reasons = {f.path.name: f.reason for f in StockRun.open(tmp_path).foreign}
    assert "Accelerate" in reasons["checkpoint_3"]
    assert "step 40 of Lightning" in reasons["epoch=1-step=40.ckpt"]


def test_a_directory_without_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        open_run(tmp_path)


def test_a_managed_run_stays_one(tmp_path: Path) -> None:
    from tests.operations.runs import make_run

    managed = make_run(tmp_path, {2: 1.0})
    assert isinstance(open_run(managed.path), Run)
    assert open_run(managed.path).managed
