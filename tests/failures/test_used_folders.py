"""Two runs in one folder, and a fresh start where checkpoints already are."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.errors import RunInUse, RunLocked
from keepstep.run import Run
from tests.failures.build import At, crash, files, in_child, managed, names, receipt, same, steps, stock, train, weights

pytestmark = pytest.mark.training


def test_two_runs_in_one_folder(out: Path) -> None:
    """two runs, one folder | both end with the other's weights | lock, run id."""
    answers: list[tuple[int, str]] = []

    def second() -> str:
        try:
            train(out, "auto")
        except RunLocked as error:
            return str(error)
        return "trained"

    trainer, checkpointer = train(out, callbacks=[At(3, lambda **_: answers.append(in_child(second)))])

    code, text = answers[0]
    assert code == 0, text
    assert "is in use by process" in text
    assert "Wait for it or stop it, or give this run its own output_dir" in text
    assert trainer.state.global_step == 12
    assert checkpointer.run.resume_point("auto").checkpoint.step == 12


@pytest.mark.parametrize("fresh", ["refuse", "new-run"])
def test_two_trainers_in_one_process(out: Path, fresh: str) -> None:
    """two runs, one folder: the same in one process, and a new run can't push the running one away."""

    def second(**_: object) -> None:
        with pytest.raises(RunLocked):
            train(out, None if fresh == "new-run" else True, fresh=fresh)

    train(out, callbacks=[At(3, second)])

    assert steps(out)[-1] == 12


@pytest.mark.long
def test_two_runs_in_one_folder_under_stock(out: Path) -> None:
    """two runs, one folder | both end with the other's weights."""
    first = stock(out, seed=3)
    first.train()
    mine = files(out / "checkpoint-12")["model.safetensors"]

    stock(out).train()

    assert files(out / "checkpoint-12")["model.safetensors"] != mine


def crashed_elsewhere(out: Path) -> None:
    """A run that another process left unfinished."""
    code, text = in_child(lambda: str(crash(out, after=4).state.global_step))
    assert (code, text) == (0, "4"), text


@pytest.mark.parametrize("resume", [None, False])
def test_fresh_run_in_a_used_folder(out: Path, resume: bool | None) -> None:
    """fresh run in a used folder | deletes the old run's checkpoints | refused, with the ways forward."""
    crashed_elsewhere(out)
    before = files(out)

    trainer, _ = managed(out, save_total_limit=1)
    untouched = weights(trainer.model)
    with pytest.raises(RunInUse) as refusal:
        trainer.train(resume_from_checkpoint=resume)

    text = str(refusal.value)
    assert "2 checkpoints (checkpoint-2 to checkpoint-4)" in text
    for way in ('"auto"', f'"{out / "checkpoint-4"}"', 'fresh="new-run"', "another output_dir"):
        assert way in text
    assert files(out) == before
    assert same(weights(trainer.model), untouched)


@pytest.mark.long
def test_fresh_run_in_a_used_folder_under_stock(out: Path) -> None:
    """fresh run in a used folder | deletes the old run's checkpoints."""
    crash(out, after=4, attached=False, eval_strategy="no")
    assert names(out) == ["checkpoint-2", "checkpoint-4"]

    stock(out, eval_strategy="no", save_total_limit=1, seed=3).train()

    assert names(out) == ["checkpoint-12"]


def test_new_run_sets_the_old_one_aside(out: Path, said: Callable[[], str]) -> None:
    """fresh run in a used folder: fresh="new-run" sets the old run aside, whole, and deletes nothing."""
    crash(out, after=4)
    old = {name: files(out / name) for name in names(out)}
    old_id = Run.open(out).id

    _, checkpointer = train(out, fresh="new-run", eval_strategy="no", save_total_limit=1)

    home = out / ".keepstep" / "previous" / old_id
    assert {name: files(home / name) for name in names(home)} == old
    assert str(home) in said()
    assert checkpointer.run.id != old_id
    assert steps(out) == [12]
    assert Run.open(home).resume_point("auto").checkpoint.step == 4, "it is still a run"


def test_new_run_that_is_resumed_goes_on(out: Path) -> None:
    """fresh run in a used folder: a script that says new-run and "auto" goes on after a crash."""
    crash(out, after=4, fresh="new-run")

    _, checkpointer = train(out, "auto", fresh="new-run")

    assert receipt(checkpointer).step == 4
    assert checkpointer.receipt.level == "exact"


def test_stock_checkpoints_are_in_the_way(out: Path) -> None:
    """fresh run in a used folder: checkpoints that stock tools wrote are neither used nor lost unasked."""
    crash(out, after=4, attached=False)
    before = files(out)

    with pytest.raises(RunInUse) as refusal:
        train(out, save_total_limit=1)

    assert "that keepstep did not commit" in str(refusal.value)
    assert f'train(resume_from_checkpoint="{out / "checkpoint-4"}")' in str(refusal.value)
    assert files(out) == before


def test_stock_checkpoint_by_path(out: Path, said: Callable[[], str]) -> None:
    """fresh run in a used folder: a stock checkpoint is resumed from by its path, adopted, and labelled."""
    crash(out, after=4, attached=False)
    reference = stock(out.with_name("reference"))
    reference.train()
    stock_files = files(out / "checkpoint-4")

    trainer, checkpointer = train(out, str(out / "checkpoint-4"))

    assert same(weights(trainer.model), weights(reference.model))
    assert receipt(checkpointer).level == "approximate"
    assert "it adopts them" in said()
    assert stock_files.items() <= files(out / "checkpoint-4").items(), "no byte of it is another"
    assert steps(out)[-1] == 12


def test_new_run_sets_stock_checkpoints_aside(out: Path) -> None:
    """fresh run in a used folder: with stock checkpoints alone, fresh="new-run" sets them aside, whole."""
    crash(out, after=4, attached=False)
    old = {name: files(out / name) for name in names(out)}

    train(out, fresh="new-run", eval_strategy="no", save_total_limit=1)

    (home,) = (out / ".keepstep" / "previous").glob("stock-*")
    assert {name: files(home / name) for name in names(home)} == old
    assert names(out) == ["checkpoint-12"]


def test_auto_goes_on_from_stock_checkpoints_before_it_begins_anew(out: Path) -> None:
    """fresh run in a used folder: fresh="new-run" counts where "auto" finds nothing to go on from, and only there."""
    crash(out, after=4, attached=False)

    _, checkpointer = train(out, "auto", fresh="new-run", eval_strategy="no", save_total_limit=1)

    assert receipt(checkpointer).step == 4
    assert not (out / ".keepstep" / "previous").exists()
    assert names(out) == ["checkpoint-12"]


def test_wrong_word_for_fresh(out: Path) -> None:
    """fresh takes two words; another one is refused at attach."""
    with pytest.raises(ValueError, match=r"'refuse' .* or 'new-run'"):
        managed(out, fresh="overwrite")


@pytest.mark.parametrize("engine", ["fast", "stock"])
def test_files_are_as_open_as_the_umask_has_them(out: Path, engine: str) -> None:
    """A team's directory (umask 007): what is made is the group's too, where the stock Trainer's weights are not."""
    before = os.umask(0o007)
    try:
        crash(out, after=6, engine=engine, keep="best:1,latest:1")
        crash(out.with_name("stock"), after=2, attached=False)
    finally:
        os.umask(before)
    paths = [out, *out.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o770}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o660}
    control = out.with_name("stock") / "checkpoint-2" / "model.safetensors"
    assert stat.S_IMODE(control.stat().st_mode) in (0o600, 0o660)
