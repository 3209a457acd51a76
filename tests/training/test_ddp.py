"""Data parallel trainings on two processes: exact resumes, decisions that all share, failures that reach all."""

from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from transformers import LlamaForCausalLM, TrainerCallback

import keepstep
from keepstep.checkpointer import Checkpointer
from keepstep.formats.sink import FileSink
from keepstep.run import Run
from keepstep.stores import LocalStore
from tests.training.comparing import differences, load
from tests.training.course import Kill
from tests.training.ranked import WORLD, complete, course, forbid_writing, home_of, log_path, logs_of, run_ranks
from tests.training.tiny import NEWEST, Recipe, build, by_length

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

STEPS = {"rows": 36, "arguments": {"gradient_accumulation_steps": 2, "save_steps": 2, "num_train_epochs": 2}}
"""Five batches of each rank make three steps of an epoch, the last of them with one batch: six in all."""
SHORT = {"save_steps": 1, "num_train_epochs": 1}
SCORES = {1: 0.5, 2: 0.4, 3: 0.9, 4: 0.6, 5: 0.7, 6: 0.65}
FULL = Recipe(**STEPS)
LORA = Recipe("sft", lora=True, keepstep={"engine": "stock"}, **STEPS)
EVALUATED = Recipe(
    rows=36,
    scores=SCORES,
    arguments={
        "gradient_accumulation_steps": 2, "save_steps": 2, "num_train_epochs": 2, "eval_strategy": "steps",
        "eval_steps": 1, "metric_for_best_model": "accuracy", "load_best_model_at_end": True, "save_total_limit": 1,
        "logging_steps": 4,
    },
)  # fmt: skip
UNSEEDED = Recipe(
    rows=36, arguments={**STEPS["arguments"], "accelerator_config": {"use_seedable_sampler": False}, "save_steps": 1}
)
UNSEEDED_BY_EPOCH = replace(UNSEEDED, arguments={**UNSEEDED.arguments, "save_steps": 3})
GROUPED = Recipe(rows=36, arguments={**STEPS["arguments"], **by_length()})
LIVES = (
    ("full, all killed after a save", FULL, [Kill("save", 2)], None),
    ("full, rank 0 in its weights", FULL, [Kill("weights", 1, 2)], 0),
    ("full, rank 0 in the loop state", FULL, [Kill("loop state", 1, 2)], 0),
    ("full, rank 0 in the rename", FULL, [Kill("rename", 1, 2)], 0),
    ("full, rank 1 alone, in a step", FULL, [Kill("step", 5)], 1),
    ("full, twice", FULL, [Kill("step", 5), Kill("weights", 1, 1)], None),
    ("SFT LoRA, stock engine", LORA, [Kill("save", 2)], None),
    ("SFT LoRA, stock engine, rank 0 in a file", LORA, [Kill("torch.save", 1, 2)], 0),
    ("evaluated, the best loaded at the end", EVALUATED, [Kill("step", 5)], None),
    ("evaluated, rank 1 at the evaluation", EVALUATED, [Kill("evaluation", 4)], 1),
    ("a sampler without a seed of its own", UNSEEDED, [Kill("step", 6)], None),
    ("the same, at an epoch's end", UNSEEDED_BY_EPOCH, [Kill("save", 2)], None),
    ("grouped by length", GROUPED, [Kill("step", 5)], None),
)
ALWAYS = (
    "full, all killed after a save", "full, rank 0 in the rename", "full, rank 1 alone, in a step",
    "evaluated, rank 1 at the evaluation", "a sampler without a seed of its own",
)  # fmt: skip
"""One of each kind; the others are tried where there is time."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome of a recipe that nothing interrupts, once."""
    found: list[tuple[Recipe, Path]] = []

    def reference(recipe: Recipe) -> Path:
        for known, home in found:
            if known == recipe:
                return home
        found.append((recipe, complete(tmp_path_factory.mktemp("reference") / "home", recipe)))
        return found[-1][1]

    return reference


@pytest.mark.parametrize(
    ("recipe", "kills", "victim"),
    [pytest.param(*life[1:], id=life[0], marks=[pytest.mark.long] * (life[0] not in ALWAYS)) for life in LIVES],
)
def test_a_killed_training_ends_as_if_it_had_not_been_killed(
    recipe: Recipe, kills: list[Kill], victim: int | None, tmp_path: Path, uninterrupted: Any
) -> None:
    reference, home = uninterrupted(recipe), complete(tmp_path / "home", recipe, *kills, victim=victim)
    for rank in range(WORLD):
        assert not differences(home_of(reference, rank), home_of(home, rank)), f"rank {rank}"
        outcome = load(home_of(home, rank) / "outcome")
        assert outcome["receipt"]["level"] == "exact", outcome["receipt"]
        assert outcome["steps trained"] == 6 - outcome["receipt"]["step"]


def test_ranks_differ_where_they_should_and_only_rank_0_speaks(uninterrupted: Any) -> None:
    """What makes the comparison above worth something: each rank has a state of its own to get right."""
    home = uninterrupted(FULL)
    newest = home / "run" / "checkpoint-6"
    states = [json.loads((newest / name).read_text()) for name in ("keepstep_state.json", "keepstep_state_1.json")]
    assert states[0]["tr_loss"] == states[1]["tr_loss"] == 0.0
    assert (newest / "rng_state_0.pth").read_bytes() != (newest / "rng_state_1.pth").read_bytes()
    verification = keepstep.Run.open(home / "run")
    assert all(verification.verify(checkpoint).ok for checkpoint in verification.checkpoints)
    assert "keepstep: saved step 6" in log_path(home, 0).read_text()
    assert "keepstep" not in log_path(home, 1).read_text()


def test_both_engines_leave_the_same(uninterrupted: Any) -> None:
    fast, stock = uninterrupted(FULL), uninterrupted(replace(FULL, keepstep={"engine": "stock"}))
    assert not differences(fast, stock)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.quick(1)
def test_another_number_of_processes_is_another_course(before: int, after: int, tmp_path: Path) -> None:
    recipe = Recipe(rows=32, arguments={"save_steps": 1, "max_steps": 3})
    course(tmp_path, recipe, Kill("step", 3), world=before)
    assert course(tmp_path, recipe, world=after) == [0] * after, logs_of(tmp_path)
    receipt = load(tmp_path / "outcome")["receipt"]
    assert receipt["level"] == "approximate"
    words = {1: "1 process", 2: "2 processes"}
    assert any(f"saved by {words[before]}, now {words[after]}:" in reason["text"] for reason in receipt["reasons"])


# -- what fails on one fails on all ----------------------------------------------------------------------


def _report(home: Path, rank: int, value: Any) -> None:
    (home / f"report-{rank}.json").write_text(json.dumps(value))


def _reports(home: Path) -> list[Any]:
    return [json.loads((home / f"report-{rank}.json").read_text()) for rank in range(WORLD)]


def _try(rank: int, home: Path, recipe: Recipe, trouble: str, resume: Any) -> None:
    """Train with trouble in this rank, and report how it ended."""
    os.fsync = lambda descriptor: None
    if rank:
        forbid_writing(home / "run")
    try:
        os.chdir(home)
        trainer = build(recipe, Path("run"))
        checkpointer = keepstep.attach(trainer, **recipe.keepstep)
        _TROUBLES[trouble](rank, trainer)
        trainer.train(resume_from_checkpoint=resume)
        steps = [checkpoint.step for checkpoint in checkpointer.run.checkpoints]
        _report(home, rank, ["ended", trainer.state.global_step, trainer.state.best_model_checkpoint, steps])
    except keepstep.Preempted as preempted:
        _report(home, rank, ["preempted", preempted.preemption.to_json()])
        raise
    except Exception as error:
        _report(home, rank, [type(error).__name__, str(error), getattr(error, "errno", None)])
        raise


def _tried(home: Path, trouble: str = "none", resume: Any = None, recipe: Recipe | None = None) -> list[Any]:
    """How a training with trouble ended, by rank."""
    recipe = recipe or Recipe(rows=32, arguments=SHORT)
    run_ranks(home, _try, home, recipe, trouble, resume)
    return _reports(home)


def _no_trouble(rank: int, trainer: Any) -> None:
    pass


class Unhurried(TrainerCallback):
    """Steps that take as long as a write, so that its failure is known before the next."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        while self._checkpointer.busy:
            time.sleep(0.01)


def _failing(owner: Any, name: str, *calls: int) -> Any:
    """A disk that is full at these calls of `owner.name`, for whoever makes them."""

    def trouble(rank: int, trainer: Any) -> None:
        trainer.add_callback(Unhurried(trainer.checkpointer))
        original, made = getattr(owner, name), [0]

        def call(*arguments: Any, **options: Any) -> Any:
            made[0] += 1
            if made[0] in calls:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **options)

        setattr(owner, name, call)

    return trouble


def _slow(rank: int, trainer: Any) -> None:
    original = FileSink.write

    def write(sink: FileSink, *arguments: Any) -> None:
        time.sleep(0.1)
        original(sink, *arguments)

    FileSink.write = write


def _no_scratch(rank: int, trainer: Any) -> None:
    if rank == 1:
        tempfile.tempdir = "/nowhere"


def _raising(rank: int, trainer: Any) -> None:
    class Raise(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if rank == 1 and state.global_step == 2:
                raise RuntimeError("out of memory")

    trainer.add_callback(Raise())


def _elsewhere(rank: int, trainer: Any) -> None:
    """For this rank there is no checkpoint, as on a node that does not share the file system."""
    if rank == 1:
        is_dir = Path.is_dir
        Path.is_dir = lambda self: not self.name.startswith("checkpoint-") and is_dir(self)  # type: ignore[method-assign]


def _reading(rank: int, trainer: Any) -> None:
    """A callback, of rank 0 alone, that opens what was saved as soon as it hears of it, and looks for the best."""

    class Read(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "keepstep.json").is_file()
            assert Path(state.best_model_checkpoint).resolve().parent == Path(args.output_dir).resolve()

    if rank == 0:
        trainer.add_callback(Read())


def _told(rank: int, trainer: Any) -> None:
    """A SIGTERM that reaches one rank, in the middle of a step."""

    class Tell(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if rank == 1 and state.global_step == 1:
                signal.raise_signal(signal.SIGTERM)

    trainer.add_callback(Tell())


def _told_and_left(rank: int, trainer: Any) -> None:
    """A SIGTERM that all hear of at the end of step 3, where rank 1 is killed."""

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if rank == 0 and state.global_step == 2:
                signal.raise_signal(signal.SIGTERM)
            if rank == 1 and state.global_step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

    trainer.add_callback(Tell())


def _told_late(rank: int, trainer: Any) -> None:
    """A SIGTERM that reaches rank 1 alone, in an evaluation after which no save would fit any more."""
    seen: list[int] = []

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if rank == 0 and state.global_step == 1:
                trainer.checkpointer.run.events.append("kept", generation=1, durable_seconds=55.0)

        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state.global_step)
            if rank == 1 and seen == [1]:
                signal.raise_signal(signal.SIGTERM)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            Path(f"seen-{rank}").write_text(repr(seen))

    trainer.add_callback(Tell())


_TROUBLES = {
    "none": _no_trouble, "slow": _slow, "no scratch": _no_scratch, "raises": _raising, "elsewhere": _elsewhere,
    "reads": _reading, "told": _told, "told and left": _told_and_left, "told late": _told_late,
    "one write fails": _failing(FileSink, "write", 1),
    "all writes fail": _failing(FileSink, "write", *range(3, 100)),
    "all commits fail": _failing(LocalStore, "write", *range(2, 100)),
    "the stock writers fail": _failing(LlamaForCausalLM, "save_pretrained", *range(2, 100)),
}  # fmt: skip


def test_a_used_directory_is_refused_on_every_rank(tmp_path: Path) -> None:
    assert "ended" not in [report[0] for report in _tried(tmp_path, "raises")]
    one, other = _tried(tmp_path)
    assert one == other
    assert one[0] == "RunInUse"


@pytest.mark.long
def test_a_run_that_has_ended_is_set_aside_for_every_rank(tmp_path: Path) -> None:
    before = _tried(tmp_path)
    assert [report[0] for report in before] == ["ended", "ended"]
    assert _tried(tmp_path) == before
    assert len(Run.open(tmp_path / "run").previous_runs.runs) == 1


@pytest.mark.long
def test_an_unfit_checkpoint_is_refused_on_every_rank(tmp_path: Path) -> None:
    _tried(tmp_path)
    sgd = Recipe(rows=32, arguments={**SHORT, "optim": "sgd"})
    one, other = _tried(tmp_path, resume="auto", recipe=sgd)
    assert one == other
    assert one[0] == "ResumeRefused" and "sgd" in one[1]


def test_a_rank_that_does_not_find_the_checkpoint_stops_all(tmp_path: Path) -> None:
    _tried(tmp_path)
    one, other = _tried(tmp_path, "elsewhere", "auto", Recipe(rows=32, arguments={**SHORT, "num_train_epochs": 2}))
    assert one == other
    assert one[0] == "ResumeRefused" and "rank 1 does not find" in one[1]


def test_one_failed_write_is_made_good_at_the_next_logged_step(tmp_path: Path) -> None:
    recipe = Recipe(rows=32, arguments={"save_steps": 3, "max_steps": 8, "logging_steps": 5})
    for report in _tried(tmp_path, "one write fails", recipe=recipe):
        assert report[:2] == ["ended", 8], logs_of(tmp_path)
        assert report[3] == [5, 6, 8]


@pytest.mark.parametrize(
    ("engine", "trouble"),
    [
        ("fast", "all writes fail"),
        ("stock", "the stock writers fail"),
        pytest.param("stock", "all commits fail", marks=pytest.mark.long),
    ],
)
@pytest.mark.quick(1)
def test_a_disk_without_room_reaches_every_rank(engine: str, trouble: str, tmp_path: Path) -> None:
    recipe = Recipe(rows=32, arguments=SHORT, keepstep={"engine": engine})
    one, other = _tried(tmp_path, trouble, recipe=recipe)
    assert one == other
    # There is no room for anything: each save is refused, the training goes on, and its end says so.
    assert one[0] == "DiskFull" and one[2] == errno.ENOSPC


def test_a_rank_that_cannot_give_its_part_stops_all(tmp_path: Path) -> None:
    one, other = _tried(tmp_path, "no scratch")
    assert one == other
    assert one[0] == "StorageError" and one[2] == errno.ENOENT


def test_an_error_in_one_rank_leaves_none_hanging_and_the_next_start_goes_on(tmp_path: Path) -> None:
    one, other = _tried(tmp_path, "raises")
    assert other[:2] == ["RuntimeError", "out of memory"]
    assert one[0] != "ended"
    assert [report[:2] for report in _tried(tmp_path, resume="auto")] == [["ended", 4], ["ended", 4]]


@pytest.mark.parametrize("back_pressure", [pytest.param("skip", marks=pytest.mark.long), "latest"])
def test_a_busy_disk_turns_every_rank_away(back_pressure: str, tmp_path: Path) -> None:
    recipe = Recipe(rows=64, arguments=SHORT, keepstep={"back_pressure": back_pressure})
    one, other = _tried(tmp_path, "slow", recipe=recipe)
    assert one == other
    assert one[1] == 8 and one[3][-1] == 8 and len(one[3]) < 8


def test_a_signal_to_one_rank_stops_all_at_the_same_step_and_they_go_on_exactly(
    tmp_path: Path, uninterrupted: Any
) -> None:
    """Heard in the second step, agreed during the third: all save that, and end as who is to come again."""
    home = tmp_path / "home"
    assert run_ranks(home, _try, home, FULL, "told", "auto") == [75, 75], logs_of(home)
    one, other = _reports(home)
    assert one == other
    assert (one[0], one[1]["step"], one[1]["resumes_at"], one[1]["lost_steps"]) == ("preempted", 3, 3, 0)
    assert one[1]["why"] == "SIGTERM to rank 1"
    assert course(home, FULL) == [0, 0], logs_of(home)
    for rank in range(WORLD):
        found = differences(home_of(uninterrupted(FULL), rank), home_of(home, rank))
        # One checkpoint more is what it was about.
        assert [text for text in found if "generation" not in text and not text.startswith("checkpoints:")] == [], rank


def test_an_evaluation_that_would_outlast_the_time_ends_at_the_same_batch_on_every_rank(tmp_path: Path) -> None:
    """Said by one rank in its first batch, heard by all in the second; the third is never begun, and all save."""
    cut: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 1, "save_steps": 9}
    recipe = Recipe(rows=32, arguments={**SHORT, **cut}, keepstep={"preempt_deadline": "56s"})
    assert run_ranks(tmp_path, _try, tmp_path, recipe, "told late", "auto") == [75, 75], logs_of(tmp_path)
    one, other = _reports(tmp_path)
    assert one == other
    assert (one[0], one[1]["step"], one[1]["resumes_at"]) == ("preempted", 1, 1)
    assert [(tmp_path / f"seen-{rank}").read_text() for rank in range(WORLD)] == ["[1, 1]", "[1, 1]"]
    assert "the evaluation of step 1 is cut short" in log_path(tmp_path, 0).read_text()


def test_a_rank_that_is_gone_does_not_keep_the_others_from_the_save(tmp_path: Path) -> None:
    home = tmp_path / "home"
    told = replace(FULL, keepstep={"preempt_deadline": "8s"})
    assert run_ranks(home, _try, home, told, "told and left", "auto") == [75, -signal.SIGKILL], logs_of(home)
    stopped = json.loads((home / "report-0.json").read_text())[1]
    assert (stopped["step"], stopped["resumes_at"]) == (3, 3)
    assert course(home, FULL) == [0, 0], logs_of(home)
    receipt = load(home / "outcome")["receipt"]
    assert (receipt["step"], receipt["level"]) == (3, "approximate")
    assert any("another process was gone" in reason["text"] for reason in receipt["reasons"])


def test_who_reads_a_checkpoint_finds_it_committed_on_every_rank(tmp_path: Path) -> None:
    one, other = _tried(tmp_path, "reads", recipe=EVALUATED)
    assert one == other
    assert one[0] == "ended", logs_of(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"save_on_each_node": True}, "save_on_each_node=True"),
    ],
)
def test_what_is_not_served_is_refused_on_every_rank(arguments: dict[str, Any], named: str, tmp_path: Path) -> None:
    one, other = _tried(tmp_path, recipe=Recipe(arguments=arguments))
    assert one == other
    assert one[0] == "SettingsError" and named in one[1]


@pytest.mark.skipif(not NEWEST, reason="transformers 4 refuses FSDP on the CPU itself")
def test_fsdp_that_is_not_carried_out_trains_as_ddp_and_that_is_said(tmp_path: Path) -> None:
    one, other = _tried(tmp_path, recipe=Recipe(arguments={"fsdp": True, "save_steps": 1, "max_steps": 2}))
    assert one == other and one[0] == "ended", logs_of(tmp_path)
    assert "fsdp=True is not carried out by accelerate on MULTI_CPU" in log_path(tmp_path, 0).read_text()


def _write(rank: int, home: Path) -> None:
    (home / "run").mkdir()
    forbid_writing(home / "run")
    (home / "run" / "file").write_text("")


def test_control_a_rank_that_writes_would_be_noticed(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, _write, tmp_path, world=1) == [1]
    assert not list((tmp_path / "run").iterdir())
