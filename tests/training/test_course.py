"""A resumed training is held against what the killed one had logged: proved at every step, caught where it strays."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from transformers import TrainerCallback, default_data_collator

import keepstep
from keepstep.integrations.transformers.resuming.causes import causes_of
from keepstep.integrations.transformers.resuming.loop_state import LoopState
from keepstep.integrations.transformers.resuming.own_generators import OwnGenerators
from keepstep.operations.seeing.receipts import receipts, told
from keepstep.run import Course, History, Point, Run
from tests.engine import chosen
from tests.training.cells import complete, log_of, run_once
from tests.training.comparing import load
from tests.training.course import Kill
from tests.training.processes import SIGKILLED
from tests.training.tiny import Recipe, build, pad

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

PLAIN = Recipe()
"""15 steps, each logged, saved every 4."""
EVALUATED = Recipe(arguments={"eval_strategy": "steps", "eval_steps": 2})
"""Evaluated as well, and saved where it is the best so far."""


def course_of(home: Path) -> tuple[Any, list[str]]:
    """The receipt at the end of the last process, and what the run says of it without any process."""
    receipt = load(home / "outcome")["receipt"]
    known = receipts(Run.open(home / "run").events.read())
    if known:
        assert {name: known[-1][name] for name in receipt} == receipt
    return receipt, told(known[-1] if known else None)


ALWAYS = (("step", 4), ("step", 5), ("step", 10), ("log", 9))
"""Before the first save, right behind it, in mid-epoch, and where a step is logged."""
POINTS = [*(("step", step) for step in range(4, 16)), ("log", 9), ("log", 15)]


@pytest.mark.parametrize(
    ("what", "nth"), [pytest.param(*point, marks=[pytest.mark.long] * (point not in ALWAYS)) for point in POINTS]
)
@pytest.mark.quick(2)
def test_killed_at_every_step_it_is_proved_where_anything_was_logged_beyond(
    what: str, nth: int, tmp_path: Path
) -> None:
    complete(tmp_path, EVALUATED, Kill(what, nth, settled=True))
    receipt, lines = course_of(tmp_path)
    if receipt is None:
        assert not Run.open(tmp_path / "run").checkpoints[0].parent, "it died before its first save"
        return
    assert receipt["level"] == "exact"
    beyond = [point.step for point in logged(tmp_path, attempt=1) if point.step > receipt["step"]]
    if beyond:
        assert (receipt["evidence"], receipt["course"]["equal"]) == ("proved", [beyond[0], beyond[-1]])
        said = [line for line in (tmp_path / "log").read_text().splitlines() if "bit-equal" in line]
        text = "came out bit-equal to what the interrupted attempt had logged"
        assert said == [f"keepstep: proved: step {beyond[0]} {text}"]
    else:
        assert receipt["evidence"] != "proved" and lines[-1].endswith("nothing logged to compare the course with")


def logged(home: Path, attempt: int) -> list[Point]:
    return [point for point in History(Run.open(home / "run").store).points if point.attempt == attempt]


def test_killed_again_and_again_on_one_strand(tmp_path: Path) -> None:
    complete(tmp_path, PLAIN, *(Kill("step", nth, settled=True) for nth in (7, 2, 4)))
    receipt, _ = course_of(tmp_path)
    assert (receipt["step"], receipt["evidence"], receipt["course"]["equal"]) == (4, "proved", [5, 7])


def test_what_no_training_logged_that_was_not_interrupted_there_is_not_proved(tmp_path: Path) -> None:
    complete(tmp_path, PLAIN, Kill("save", 1, settled=True), Kill("step", 3))
    receipt, lines = course_of(tmp_path)
    assert (receipt["evidence"] != "proved", receipt["course"]["equal"]) == (True, [5, 6])
    assert lines[-1].endswith("what an earlier resume from here had logged, which repeats it and proves no more")


def test_the_control_without_the_comparison_proves_nothing(tmp_path: Path) -> None:
    complete(tmp_path, PLAIN, Kill("step", 7, settled=True), sabotage="comparison of the course")
    receipt, _ = course_of(tmp_path)
    assert (receipt["evidence"] != "proved", receipt["course"]["equal"]) == (True, None)


# -- what strays ---------------------------------------------------------------------------------------------

HIDDEN_GENERATOR = np.random.default_rng(3)


def masked_by_a_generator_of_the_module(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A collator whose generator nobody finds: it is asked for by a name that is put together."""
    batch = pad(rows)
    hidden = globals()["_".join(("HIDDEN", "GENERATOR"))]
    mask = torch.from_numpy(hidden.random(tuple(batch["input_ids"].shape)) < 0.3)
    return batch | {"input_ids": batch["input_ids"].masked_fill(mask, 3)}


class Stop(TrainerCallback):
    """Raises in the midst of a step, when its predecessor is logged."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Logs(TrainerCallback):
    """Logs values of its own with each of the Trainer's."""

    def __init__(self, **values: float) -> None:
        self.values = values

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs.update(self.values)


def life(run: Path, *callbacks: TrainerCallback, collator: Any = pad, **arguments: Any) -> keepstep.Checkpointer:
    """One life of a training of 15 steps that is saved every 4; it goes on where the one before ended."""
    trainer = build(Recipe(arguments=arguments), run)
    trainer.data_collator = collator
    checkpointer = keepstep.attach(trainer, **chosen())
    for callback in callbacks:
        # Before what notes the log: that one is the last.
        trainer.callback_handler.callbacks.insert(-1, callback)
    try:
        trainer.train(resume_from_checkpoint="auto")
    except KeyboardInterrupt:
        assert any(isinstance(callback, Stop) for callback in callbacks)
    return checkpointer


def interrupted(run: Path, *callbacks: TrainerCallback, collator: Any = pad, **arguments: Any) -> None:
    life(run, Stop(7), *callbacks, collator=collator, **arguments)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """The levels of the lines that have a part in them."""
    caplog.set_level("INFO", logger="keepstep")
    return lambda part: [record.levelname for record in caplog.records if part in record.getMessage()]


def observed(checkpointer: keepstep.Checkpointer) -> tuple[str, str, Course]:
    receipt = checkpointer.receipt
    assert receipt is not None and receipt.course is not None
    return receipt.level.value, receipt.evidence.value, receipt.course


def test_a_hidden_generator_is_caught(tmp_path: Path, said: Callable[[str], list[str]]) -> None:
    interrupted(tmp_path / "run", collator=masked_by_a_generator_of_the_module)
    global HIDDEN_GENERATOR
    HIDDEN_GENERATOR = np.random.default_rng(3)
    checkpointer = life(tmp_path / "run", collator=masked_by_a_generator_of_the_module)

    level, evidence, course = observed(checkpointer)

    assert (level, evidence != "proved", course.left, course.equal) == ("approximate", True, True, None)
    assert course.deviation is not None and (course.deviation.step, course.deviation.name) == (5, "loss")
    assert said("is approximate after all") == ["WARNING"]
    assert checkpointer.receipt is not None
    assert "likely: " in checkpointer.receipt.reasons[-1].text
    assert "masked_by_a_generator_of_the_module" in checkpointer.receipt.reasons[-1].text


def test_what_a_callback_logs_of_its_process_leaves_the_course(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", Logs(started=1.0, gpu_temperature=60.0))
    level, evidence, course = observed(life(tmp_path / "run", Logs(started=2.0, gpu_temperature=61.0)))
    assert (level, evidence, course.equal) == ("equivalent", "proved", (5, 7))
    assert course.deviation is not None and course.deviation.name == "started"


def test_what_a_clock_makes_is_left_out(tmp_path: Path) -> None:
    settings = {"include_num_input_tokens_seen": True, "skip_memory_metrics": False, "eval_strategy": "steps"}
    settings |= {"eval_steps": 3}
    interrupted(tmp_path / "run", Logs(step_time=1.0), **settings)
    level, evidence, course = observed(life(tmp_path / "run", Logs(step_time=2.0), **settings))
    assert (level, evidence, course.equal, course.deviation) == ("exact", "proved", (5, 7), None)


def test_no_number_is_equal_to_no_number(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", Logs(odd=float("nan"), high=float("inf")))
    level, evidence, course = observed(life(tmp_path / "run", Logs(odd=float("nan"), high=float("inf"))))
    assert (level, evidence, course.deviation) == ("exact", "proved", None)


def test_other_settings_stray_as_was_to_be_expected(tmp_path: Path, said: Callable[[str], list[str]]) -> None:
    interrupted(tmp_path / "run")
    level, _, course = observed(life(tmp_path / "run", max_grad_norm=1e-3))
    assert (level, course.left) == ("approximate", True)
    assert said("as was to be expected: approximate") == ["INFO"]
    assert said("after all") == []


def test_another_cadence_of_the_log_may_be_proved(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", eval_strategy="steps", eval_steps=3)
    level, evidence, course = observed(life(tmp_path / "run", eval_strategy="steps", eval_steps=6))
    assert (level, evidence, course.equal) == ("equivalent", "proved", (5, 7))


def test_a_rewind_is_held_against_what_was_logged_behind_it(tmp_path: Path) -> None:
    life(tmp_path / "run")
    trainer: Any = build(Recipe(), tmp_path / "run")
    checkpointer = keepstep.attach(trainer, **chosen())
    trainer.train(resume_from_checkpoint=8)
    assert observed(checkpointer)[1:] == ("proved", checkpointer.receipt and checkpointer.receipt.course)
    assert str(observed(checkpointer)[2]) == "steps 9 to 15 came out bit-equal to what the earlier attempt had logged"


def test_a_fresh_start_is_held_against_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    trainer: Any = build(Recipe(), tmp_path / "run")
    checkpointer = keepstep.attach(trainer, fresh="new-run", **chosen())
    trainer.train()
    assert checkpointer.receipt is None
    lines = (tmp_path / "run" / ".keepstep" / "events.jsonl").read_text().splitlines()
    assert "course" not in [json.loads(line)["event"] for line in lines if line]


@pytest.mark.parametrize("kind", ["sft", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("dpo", "reward"))])
def test_trainers_of_trl_are_proved(kind: str, tmp_path: Path) -> None:
    recipe = Recipe(kind=kind, lora=True, arguments={"eval_strategy": "steps", "eval_steps": 3})
    assert run_once(tmp_path, recipe, Kill("step", 8, settled=True)) == SIGKILLED
    assert run_once(tmp_path, recipe) == 0, log_of(tmp_path)
    receipt, _ = course_of(tmp_path)
    assert (receipt["level"], receipt["evidence"]) == ("exact", "proved")
    assert receipt["course"]["values"] > 3 and receipt["course"]["deviation"] is None


# -- what may be the cause -----------------------------------------------------------------------------------


HERE = "data_collator.dice"


class Mine:
    """A part of the user's own."""

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return pad(rows)


@pytest.mark.parametrize("generator", [random.Random(0), np.random.RandomState(0), torch.Generator()])
def test_generators_in_a_collator_are_named(generator: Any, tmp_path: Path) -> None:
    trainer = build(Recipe(), tmp_path)
    trainer.data_collator = Mine(dice=generator, spare=random.Random(1), number=3)
    assert causes_of(trainer)[0] == (
        "random generators that were not restored: data_collator.dice, data_collator.spare"
    )


def test_generators_that_were_restored_are_not_named(tmp_path: Path) -> None:
    """The course is another one all the same; what is likely is what was not put back."""
    trainer = build(Recipe(), tmp_path)
    trainer.data_collator = Mine(dice=random.Random(0), spare=random.Random(1))
    held = OwnGenerators(trainer)
    held.refresh()
    states = held.states()
    one = LoopState("step_end", 0.0, 0.0, 0, 0, None, None, None, None, False, own={HERE: states[HERE]})
    assert causes_of(trainer, one)[0] == "a random generator that was not restored: data_collator.spare"
    assert causes_of(trainer, replace(one, own=states)) == ["random numbers or state of the collator (Mine)"]


def test_generators_that_a_function_is_closed_over_are_named(tmp_path: Path) -> None:
    dice = random.Random(0)
    trainer = build(Recipe(), tmp_path)
    trainer.data_collator = lambda rows: pad(rows) if dice.random() >= 0 else {}
    assert causes_of(trainer)[0] == "a random generator that was not restored: data_collator.<closure>.dice"


def test_code_of_the_user_s_own_is_named_and_that_of_libraries_is_not(tmp_path: Path) -> None:
    trainer = build(Recipe(), tmp_path)
    trainer.add_callback(Logs())
    assert causes_of(trainer) == ["random numbers or state of the collator (pad), a callback (Logs)"]
    trainer.pop_callback(Logs)
    trainer.data_collator = default_data_collator
    assert causes_of(trainer) == ["state or random numbers that no checkpoint holds"]
