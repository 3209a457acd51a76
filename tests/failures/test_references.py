"""What `train(resume_from_checkpoint=...)` takes, and what it says to a reference that names nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keepstep.errors import CheckpointNotFound, KeepstepError, ResumeRefused
from keepstep.run import Run
from tests.failures.build import crash, managed, names, receipt, steps, stock, train

pytestmark = pytest.mark.training

RANKED: dict[str, Any] = {
    "scores": {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.2, 10: 0.4, 12: 0.5}, "metric_for_best_model": "accuracy",
}  # fmt: skip


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed after step 8; step 4 is its best, step 6 has a tag."""
    run = tmp_path_factory.mktemp("crashed") / "run"
    crash(run, after=8, **RANKED)
    opened = Run.open(run)
    opened.pin_board.tag(opened.find(6).generation, "milestone")
    return run


@pytest.fixture
def run(out: Path, crashed: Path) -> Path:
    """A copy of the crashed run."""
    return Path(shutil.copytree(crashed, out))


@pytest.mark.parametrize(
    ("reference", "step"),
    [
        (True, 8), ("auto", 8), ("latest", 8), ("best", 4), (6, 6), ("6", 6), ("step:6", 6), ("milestone", 6),
        ("checkpoint-6", 6), (Path("checkpoint-6"), 6),
    ],
)  # fmt: skip
def test_references(run: Path, reference: Any, step: int) -> None:
    """Each form names its checkpoint, and the training ends as planned."""
    trainer, checkpointer = train(run, reference, **RANKED)

    assert receipt(checkpointer).step == step
    assert checkpointer.receipt.level == "exact"
    assert trainer.state.global_step == 12


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("absolute", [True, False])
def test_paths(run: Path, monkeypatch: pytest.MonkeyPatch, kind: type, absolute: bool) -> None:
    """A path works as text and as Path, absolute and from where the user stands, with and without a last slash."""
    monkeypatch.chdir(run.parent)
    path = run / "checkpoint-6" if absolute else Path("run") / "checkpoint-6"

    _, checkpointer = train(run, kind(path) if kind is Path else f"{path}{os.sep}", **RANKED)

    assert receipt(checkpointer).step == 6


def test_path_of_another_run(out: Path, tmp_path: Path, crashed: Path) -> None:
    """A checkpoint of another run is verified and resumed from; the other run stays as it is."""
    before = steps(crashed)

    _, checkpointer = train(out, crashed / "checkpoint-6", **RANKED)

    assert receipt(checkpointer).step == 6
    assert checkpointer.receipt.verified
    assert steps(out) == [8, 10, 12]
    assert steps(crashed) == before


def test_damaged_checkpoint_of_another_run(out: Path, run: Path, tmp_path: Path) -> None:
    """A damaged checkpoint of another run is refused, with the file."""
    path = run / "checkpoint-6" / "optimizer.pt"
    path.write_bytes(path.read_bytes() + b"x")

    with pytest.raises(ResumeRefused, match=r"optimizer\.pt"):
        train(tmp_path / "new", run / "checkpoint-6", **RANKED)


@pytest.mark.parametrize("reference", [None, False, "auto"])
def test_fresh_starts(out: Path, reference: Any) -> None:
    """None, False and "auto" begin in an unused directory."""
    trainer, checkpointer = train(out, reference)

    assert checkpointer.receipt is None
    assert trainer.state.global_step == 12


@pytest.mark.parametrize("reference", [True, "latest", "best", 4, "step:4", "milestone"])
def test_nothing_to_resume_from(out: Path, reference: Any) -> None:
    """A reference in an unused directory is an error: no silent start from step 0."""
    with pytest.raises(CheckpointNotFound):
        train(out, reference)

    assert not out.exists() or names(out) == []


def _empty(out: Path) -> Path:
    (out.parent / "empty").mkdir()
    return out.parent / "empty"


@pytest.mark.parametrize(
    "reference",
    [lambda _: True, lambda out: str(out.parent / "checkpoint-15-bogus"), lambda out: str(_empty(out))],
    ids=["the newest of none", "no such path", "an empty directory"],
)
def test_the_words_of_stock_are_said_too(out: Path, reference: Callable[[Path], Any]) -> None:
    """A script that looks for the stock Trainer's words, and catches ValueError, goes on as before."""
    given = reference(out)
    with pytest.raises(ValueError, match="valid checkpoint") as words:
        stock(out).train(resume_from_checkpoint=given)

    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        train(out, given)

    assert str(refusal.value).startswith(str(words.value))


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        (7, "There are steps 2, 4, 6, 8"),
        ("step:80", "Did you mean '8'"),
        ("bets", "Did you mean 'best'"),
        ("lastest", "Did you mean 'latest'"),
        ("milestones", "Did you mean 'milestone'"),
        ("checkpoint-9", "Did you mean 'checkpoint-"),
        ("somewhere/checkpoint-6", "There are steps 2, 4, 6, 8"),
    ],
)
def test_wrong_references(run: Path, reference: Any, hint: str) -> None:
    """A reference that names nothing is an error with a near miss, before anything is trained or moved."""
    with pytest.raises(CheckpointNotFound) as refusal:
        train(run, reference, **RANKED)

    assert hint in str(refusal.value)
    assert steps(run) == [2, 4, 6, 8]


def test_best_without_a_metric(out: Path) -> None:
    """The best where nothing was evaluated: the error says why there is none."""
    crash(out, after=4, eval_strategy="no")

    with pytest.raises(CheckpointNotFound, match="no metric to rank by"):
        train(out, "best", eval_strategy="no")


def test_setting_in_the_config_only(out: Path, said: Callable[[], str]) -> None:
    """`resume_from_checkpoint` given to the config instead of `train()` is said."""
    managed(out, resume_from_checkpoint="auto")[0].train()

    assert "WARNING: resume_from_checkpoint='auto' in the config does nothing" in said()


def test_setting_in_the_config_and_given(run: Path, said: Callable[[], str]) -> None:
    """Who passes the setting on, as scripts do, is not warned."""
    trainer, _ = managed(run, resume_from_checkpoint="auto", **RANKED)

    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)

    assert "does nothing" not in said()


@pytest.mark.parametrize("reference", ["", 3.5, ["latest"]])
def test_values_that_are_no_reference(run: Path, reference: Any) -> None:
    """What is no reference at all is an error of keepstep's, or a TypeError."""
    with pytest.raises((KeepstepError, TypeError)):
        train(run, reference, **RANKED)

    assert steps(run) == [2, 4, 6, 8]
