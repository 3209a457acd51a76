"""What `train(resume_from_checkpoint=...)` takes, and what it says to a reference that names nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keepstep.errors import CheckpointNotFound, ReferenceInvalid, ResumeRefused, RunInUse
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
@pytest.mark.quick("True", "best", "step:6", "milestone", "checkpoint-60")
def test_references(run: Path, reference: Any, step: int) -> None:
    """Each form names its checkpoint, and the training ends as planned."""
    trainer, checkpointer = train(run, reference, **RANKED)

    assert receipt(checkpointer).step == step
    assert checkpointer.receipt.level == "exact"
    assert trainer.state.global_step == 12


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.quick("True-str", "False-Path")
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
@pytest.mark.quick("None", "auto")
def test_fresh_starts(out: Path, reference: Any) -> None:
    """None, False and "auto" begin in an unused directory."""
    trainer, checkpointer = train(out, reference)

    assert checkpointer.receipt is None
    assert trainer.state.global_step == 12


@pytest.mark.parametrize("reference", [True, "latest", "best", 4, "step:4", "milestone"])
@pytest.mark.quick(2)
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


@pytest.mark.parametrize(
    ("reference", "step", "taken"),
    [
        ("True", 8, "'True' is taken as True"),
        (" true ", 8, "' true ' is taken as True"),
        (np.bool_(True), 8, ""),
        (np.int64(6), 6, ""),
        (np.array(6), 6, ""),
        (torch.tensor(6), 6, ""),
        ("file://{run}/checkpoint-6", 6, ""),
        ("file://localhost{run}/checkpoint-6/", 6, ""),
        ("{run}/checkpoint-6/trainer_state.json", 6, "the checkpoint that this file lies in"),
        ("checkpoint-6/optimizer.pt", 6, "the checkpoint that this file lies in"),
        ("file://{run}/checkpoint-6/model.safetensors", 6, "the checkpoint that this file lies in"),
        ("{run}", 8, "the run's own directory"),
        ("{run}/", 8, "the run's own directory"),
        (Path("run"), 8, "the run's own directory"),
        ("run", 8, "the run's own directory"),
    ],
)
@pytest.mark.quick("[True", "reference4", "localhost", "optimizer.pt", "[run-")
def test_other_ways_to_say_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str], *, reference: Any, step: int, taken: str
) -> None:
    """What can be meant is meant: words of a command line, numpy's numbers, addresses, files, the run's directory."""
    monkeypatch.chdir(run.parent)
    value = reference.format(run=run) if isinstance(reference, str) else reference

    _, checkpointer = train(run, value, **RANKED)

    assert receipt(checkpointer).step == step
    assert taken in said()


@pytest.mark.parametrize("reference", ["False", "none", np.bool_(False)])
@pytest.mark.quick(1)
def test_words_for_a_fresh_start(run: Path, out: Path, tmp_path: Path, reference: Any) -> None:
    """They begin in an unused directory, and are refused over an unfinished run as False is."""
    trainer, checkpointer = train(tmp_path / "new", reference, **RANKED)
    assert (trainer.state.global_step, checkpointer.receipt) == (12, None)

    with pytest.raises(RunInUse):
        train(run, reference, **RANKED)


def test_own_directory_with_a_damaged_newest(run: Path) -> None:
    """The run's own directory means the newest that holds, as True does."""
    path = run / "checkpoint-8" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])

    _, checkpointer = train(run, os.fspath(run), **RANKED)

    assert receipt(checkpointer).step == 6


def test_directory_of_another_run(out: Path, crashed: Path, said: Callable[[], str]) -> None:
    """The newest of another run."""
    _, checkpointer = train(out, crashed, **RANKED)

    assert receipt(checkpointer).step == 8
    assert "a directory of checkpoints: the newest in it" in said()


def test_file_inside_of_a_stock_checkpoint(out: Path, tmp_path: Path) -> None:
    """The same of what stock tools wrote."""
    crash(tmp_path / "stock", after=6, attached=False, **RANKED)

    _, checkpointer = train(out, tmp_path / "stock" / "checkpoint-6" / "optimizer.pt", **RANKED)

    assert receipt(checkpointer).step == 6


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("", "a fresh start is none or false"),
        ("  ", "an empty text"),
        (3.5, "3.5 (float)"),
        (np.float32(3.5), "3.5 (float)"),
        (["latest"], "(list)"),
        ("s3://bucket/run/checkpoint-3", "does not lie on this machine"),
        ("file://elsewhere/checkpoint-3", "lies on the machine 'elsewhere'"),
    ],
)
def test_values_that_are_no_reference(run: Path, reference: Any, named: str) -> None:
    """What is no reference at all has an error by name that says what is one, and nothing is touched."""
    with pytest.raises(ReferenceInvalid) as refusal:
        train(run, reference, **RANKED)

    assert named in str(refusal.value).lower()
    assert steps(run) == [2, 4, 6, 8]


@pytest.mark.parametrize(
    "reference", ["", "True", "{run}", "{run}/checkpoint-6/optimizer.pt", "file://{run}/checkpoint-6"]
)
@pytest.mark.long
def test_the_stock_trainer_takes_none_of_them(run: Path, reference: str) -> None:
    """The control: none of these loses anything by meaning something here."""
    with pytest.raises((ValueError, OSError)):
        stock(run, **RANKED).train(resume_from_checkpoint=reference.format(run=run))
