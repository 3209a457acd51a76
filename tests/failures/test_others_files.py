"""Files that others add, change or take out of a checkpoint; the stock Trainer as control."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from keepstep.cli.main import main
from keepstep.run import Run
from tests.failures.build import crash, names, receipt, same, stock, train, weights

pytestmark = pytest.mark.training

SCORES = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.2, 12: 0.1}
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": True}


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed after step 4, with checkpoints of steps 2 and 4."""
    run = tmp_path_factory.mktemp("two-saves") / "run"
    crash(run, after=4)
    return run


@pytest.fixture
def run(out: Path, two_saves: Path) -> Path:
    """A copy of the crashed run."""
    return Path(shutil.copytree(two_saves, out))


def average(directory: Path) -> None:
    (directory / "ema.pt").write_bytes(b"an average of the weights")


def results(directory: Path) -> None:
    (directory / "eval_results.json").write_text('{"eval_loss": 4.0}')


def merged(directory: Path) -> None:
    shutil.copytree(directory, directory / "merged")


def finder(directory: Path) -> None:
    (directory / ".DS_Store").write_bytes(b"Bud1")


def link(directory: Path) -> None:
    (directory / "ema.pt").symlink_to(directory.parent / "nowhere")


@pytest.mark.parametrize("add", [average, results, merged, finder, link])
@pytest.mark.quick(2)
def test_what_no_loader_reads_does_not_stop_a_resume(
    run: Path, uninterrupted: dict[str, Any], add: Callable[[Path], None]
) -> None:
    """Any file beside those of a checkpoint: stock resumes from it."""
    for step in (2, 4):
        add(run / f"checkpoint-{step}")

    trainer, checkpointer = train(run, "auto")

    assert receipt(checkpointer).step == 4
    assert same(weights(trainer.model), uninterrupted)


class DropOlder(TrainerCallback):
    """Makes room: the optimizer of every checkpoint but the newest goes."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for directory in Path(args.output_dir).glob("checkpoint-*"):
            if int(directory.name.split("-")[1]) < state.global_step:
                (directory / "optimizer.pt").unlink(missing_ok=True)


@pytest.mark.parametrize("attached", [True, False])
def test_the_best_at_the_end_needs_no_optimizer(out: Path, attached: bool) -> None:
    settings: dict[str, Any] = {"scores": SCORES, "callbacks": [DropOlder()], "save_total_limit": 3, **BEST}
    if attached:
        trainer, _ = train(out, **settings)
    else:
        trainer = stock(out, **settings)
        trainer.train()

    assert not (out / "checkpoint-4" / "optimizer.pt").exists()
    assert same(weights(trainer.model), load_file(out / "checkpoint-4" / "model.safetensors"))


@pytest.mark.parametrize("attached", [True, False])
def test_as_many_stay_as_the_limit_says(out: Path, attached: bool) -> None:
    settings: dict[str, Any] = {"callbacks": [DropOlder()], "save_total_limit": 3, "eval_strategy": "no"}
    if attached:
        train(out, **settings)
    else:
        stock(out, **settings).train()
    assert names(out) == ["checkpoint-8", "checkpoint-10", "checkpoint-12"]


def test_who_took_the_optimizer_out_of_the_newest_goes_on_from_the_one_before(
    run: Path, said: Callable[[], str], uninterrupted: dict[str, Any]
) -> None:
    """It is no damage: nothing is moved to quarantine, and the weights can still be had."""
    (run / "checkpoint-4" / "optimizer.pt").unlink()

    trainer, checkpointer = train(run, "auto")

    assert receipt(checkpointer).step == 2
    assert "holds weights only: optimizer.pt is missing" in said()
    assert not list((run / ".keepstep").glob("quarantine/*/*"))
    assert same(weights(trainer.model), uninterrupted)


def edit(run: Path) -> None:
    path = run / "checkpoint-4" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_new_tokens": 99}))


def test_a_change_that_nobody_sealed_is_damage(run: Path, said: Callable[[], str]) -> None:
    edit(run)
    _, checkpointer = train(run, "auto")
    assert receipt(checkpointer).step == 2
    assert "generation_config.json has" in said()


def test_a_change_on_purpose_is_resealed(run: Path, uninterrupted: dict[str, Any]) -> None:
    edit(run)
    with pytest.raises(SystemExit) as ended:
        main(["reseal", os.fspath(run), "4", "--yes"])
    assert ended.value.code == 0

    trainer, checkpointer = train(run, "auto")

    assert receipt(checkpointer).step == 4
    assert same(weights(trainer.model), uninterrupted)


class Average(TrainerCallback):
    """Writes an average of the weights into the checkpoint that was just saved."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        average(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def test_it_stays_with_the_weights_when_a_checkpoint_is_thinned(out: Path) -> None:
    train(out, callbacks=[Average()], scores=SCORES, metric_for_best_model="accuracy", keep="latest:1,best:2")
    assert names(out) == ["weights-4", "weights-6", "checkpoint-12"]
    for name in names(out):
        assert (out / name / "ema.pt").read_bytes() == b"an average of the weights"
    run = Run.open(out)
    assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)
