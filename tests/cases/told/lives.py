"""Several trainings in one process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.cases.facts import Facts
from tests.cases.parts import ARGUMENTS, BY_LOSS, data, llama, trainer
from tests.cases.situation import Side, Situation, checkpoints, dying
from tests.training import tiny

Again = Literal["same", "new", "plain"]


class InterruptsOnce(TrainerCallback):
    """Ctrl-C after step 5, the first time."""

    done = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5 and not self.done:
            self.done = True
            raise KeyboardInterrupt


def three_epochs(out: Path, **settings: Any) -> Trainer:
    return trainer(out, num_train_epochs=3, **settings)


def interrupted(again: Again) -> Callable[[Side, Path], Facts]:
    """A cell of a notebook that is interrupted, then what the next cell does."""

    def life(side: Side, out: Path) -> Facts:
        trainer = side.attach(three_epochs(out, callbacks=[InterruptsOnce()]))
        try:
            side.train(trainer)
        except KeyboardInterrupt:
            if side.checkpointer is not None:
                side.checkpointer.wait()
        if again == "plain":
            trainer.train()
        else:
            trainer = side.attach(three_epochs(out)) if again == "new" else trainer
            side.train(trainer)
        return side.facts(trainer)

    return life


def attached_twice(side: Side, out: Path) -> Facts:
    trainer = three_epochs(out)
    side.attach(trainer)
    side.attach(trainer)
    side.train(trainer)
    return side.facts(trainer)


def one_epoch_more(side: Side, out: Path) -> Facts:
    """One epoch; then the same trainer goes on to two."""
    built = side.attach(trainer(out, num_train_epochs=1))
    built.train()
    built.args.num_train_epochs = 2
    built.train(resume_from_checkpoint=True)
    facts = side.facts(built)
    # The stock Trainer's mean loss forgets what was before a resume.
    return {**facts, "log": [line for line in facts["log"] if "train_loss" not in line]}


def trained_twice(side: Side, out: Path) -> Facts:
    """A cell that is run again: everything anew, in the same directory."""
    side.attach(trainer(out)).train()
    again = side.attach(trainer(out, learning_rate=5e-3))
    again.train()
    return side.facts(again)


def from_elsewhere(side: Side, out: Path) -> Facts:
    """A training of its own in the directory; then one that goes on from another directory's checkpoint."""
    side.attach(trainer(out / "first", num_train_epochs=1)).train()
    side.attach(trainer(out / "second", num_train_epochs=1, learning_rate=5e-3)).train()
    built = side.attach(trainer(out / "second"))
    built.train(resume_from_checkpoint=str(out / "first" / "checkpoint-4"))
    facts = side.facts(built)
    # The stock Trainer's mean loss forgets what was before a resume.
    return {**facts, "log": [line for line in facts["log"] if "train_loss" not in line]}


def two_directories(side: Side, out: Path) -> Facts:
    """The same trainer, trained a second time into another directory."""
    built = side.attach(trainer(out / "first", num_train_epochs=1))
    built.train()
    built.args.output_dir = str(out / "second")
    built.train()
    places = {place: [path.name for path in checkpoints(out / place)] for place in ("first", "second")}
    return {**side.facts(built), "places": places}


def evaluated_first(side: Side, out: Path) -> Facts:
    """`evaluate` before `train`, and after."""
    built = side.attach(trainer(out))
    before = built.evaluate()["eval_loss"]
    side.train(built)
    return {"before": before, "after": built.evaluate()["eval_loss"], **side.facts(built)}


def searched(side: Side, out: Path) -> Facts:
    """Three trials of a search, then a training with what was best."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {**ARGUMENTS, **BY_LOSS, "num_train_epochs": 1, "load_best_model_at_end": True, "save_total_limit": 1}
    built = Trainer(
        model_init=lambda trial=None: llama(), args=TrainingArguments(str(out), **settings), train_dataset=data(),
        eval_dataset=data(6, seed=2), data_collator=tiny.pad,
    )  # fmt: skip
    side.attach(built)
    best = built.hyperparameter_search(
        direction="minimize", backend="optuna", n_trials=3, compute_objective=lambda metrics: metrics["eval_loss"],
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        sampler=optuna.samplers.RandomSampler(seed=1),
    )  # fmt: skip
    trials = sorted(path.name for path in out.glob("run-*") if checkpoints(path))
    for name, value in best.hyperparameters.items():
        setattr(built.args, name, value)
    built.train()
    return {"best run": best.run_id, "objective": best.objective, "trials": trials, **side.facts(built)}


def killed(side: Side, out: Path) -> Facts:
    """Killed after step 4."""
    side.train(side.attach(dying(trainer(out), 4, side)))
    raise AssertionError("it was to be killed")


def moved(side: Side, out: Path) -> Facts:
    """A directory is copied to another place without what is hidden in it, and resumed there."""
    first = out.with_name("where it was")
    out.rename(first)
    shutil.copytree(first, out, ignore=shutil.ignore_patterns(".*"))
    second = side.attach(trainer(out))
    side.train(second)
    return side.facts(second)


ALONE: dict[str, Any] = {"kill": None}
SITUATIONS = (
    Situation(
        "interrupted, then train() with the same trainer",
        "Ctrl-C in a notebook, and resumed in the next cell",
        three_epochs,
        broken=(interrupted("same"),),
    ),
    Situation(
        "interrupted, then a new trainer",
        "the same, with everything built anew",
        three_epochs,
        broken=(interrupted("new"),),
    ),
    Situation(
        "interrupted, then train() plainly",
        "the same, without resuming",
        three_epochs,
        whole=interrupted("plain"),
        **ALONE,
    ),
    Situation(
        "a cell that is run twice",
        "trained to the end, and again in the same directory",
        three_epochs,
        whole=trained_twice,
        **ALONE,
    ),
    Situation("attached twice", "attach in a cell that is run again", three_epochs, whole=attached_twice, **ALONE),
    Situation(
        "one epoch more",
        "the same trainer goes on with a higher num_train_epochs",
        three_epochs,
        whole=one_epoch_more,
        **ALONE,
    ),
    Situation("evaluated before and after", "evaluate() around train()", trainer, whole=evaluated_first, **ALONE),
    Situation(
        "trained into another directory",
        "output_dir changed between two trainings of one trainer",
        three_epochs,
        whole=two_directories,
        **ALONE,
    ),
    Situation(
        "from another directory's checkpoint",
        "a resume by path, where another training has left its checkpoints",
        three_epochs,
        whole=from_elsewhere,
        **ALONE,
    ),
    Situation(
        "a search of hyperparameters",
        "three trials of optuna's, then train() with the best",
        three_epochs,
        whole=searched,
        needs=("optuna",),
        **ALONE,
    ),
    Situation(
        "moved without its hidden folder",
        "killed, copied with --exclude '.*', and resumed there",
        trainer,
        broken=(killed, moved),
    ),
)
