"""The evidence of doctor's rules: what becomes of such a training, or the line upstream that says so."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, default_data_collator

from keepstep.errors import KeepstepError, PolicyError
from keepstep.operations.doctor import RULES
from keepstep.operations.doctor.settings import DEFAULTS, TRL_DEFAULTS
from keepstep.stores import file_system_of
from tests.failures.build import (
    ARGUMENTS,
    At,
    crash,
    files,
    in_child,
    interrupted_at,
    managed,
    model,
    names,
    rows,
    same,
    stock,
    train,
    weights,
)
from tests.failures.test_disk import file_size_limit

pytestmark = pytest.mark.training

EVIDENCE: set[str] = {rule for rule in RULES if RULES[rule].number > 700} | {"W504", "W507"}
"""Rules with a test here; those on run directories are keepstep's own, and those of W504 and W507 are a
shell and torchrun: in tests/operations."""
EARLY = {2: 0.9, 4: 0.8, 6: 0.7, 8: 0.1, 10: 0.2, 12: 0.3}
NEWEST = int(transformers.__version__.split(".")[0]) >= 5


def evidence(*ids: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks what a test shows."""
    EVIDENCE.update(ids)
    return lambda test: test


def cite(source: Any, *lines: str) -> None:
    """Upstream's source says this, in this order."""
    text = " ".join(inspect.getsource(source).split())
    place = 0
    for line in lines:
        place = text.find(line, place)
        assert place >= 0, f"{source} no longer says {line!r}"


def test_every_rule_has_evidence() -> None:
    assert set(RULES) == EVIDENCE


# -- evaluation and ranking ----------------------------------------------------------------------------------


@evidence("E101")
def test_ranking_without_evaluation_saves_nothing(out: Path) -> None:
    stock(out, save_strategy="best", metric_for_best_model="eval_loss", eval_strategy="no").train()
    assert names(out) == []


@evidence("W102")
def test_without_evaluation_the_newest_is_kept(out: Path) -> None:
    stock(out, eval_strategy="no", save_total_limit=1).train()
    assert names(out) == ["checkpoint-12"]


@evidence("E103")
def test_load_best_is_refused(out: Path) -> None:
    with pytest.raises(ValueError, match="multiple"):
        stock(out, load_best_model_at_end=True, save_steps=3)
    with pytest.raises(ValueError, match="strategy to match"):
        stock(out, load_best_model_at_end=True, save_strategy="epoch")


@evidence("W104")
def test_the_best_between_two_saves_is_not_loaded(out: Path) -> None:
    trainer = stock(
        out, scores=EARLY, metric_for_best_model="accuracy", load_best_model_at_end=True, save_steps=4, eval_steps=2
    )
    last: list[Any] = []
    trainer.add_callback(At(12, lambda **_: last.append(weights(trainer.model)), "on_step_end"))
    trainer.train()

    assert trainer.state.best_metric == 0.9, "of step 2"
    assert trainer.state.best_model_checkpoint is None
    assert same(weights(trainer.model), last[0])


@evidence("W105")
def test_a_saved_step_without_metric(out: Path) -> None:
    stock(out, save_steps=6, eval_steps=4).train()
    state = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [4]


@evidence("E106")
def test_strategy_best_needs_a_metric(out: Path) -> None:
    with pytest.raises(ValueError, match="metric_for_best_model"):
        stock(out, save_strategy="best")


@evidence("W107")
def test_a_guess_takes_the_worst(out: Path) -> None:
    trainer = stock(
        out, scores=EARLY, score="wer", metric_for_best_model="wer", load_best_model_at_end=True, save_total_limit=1
    )
    trainer.train()
    assert names(out) == ["checkpoint-2"], "of the highest error rate"


@evidence("W108")
def test_a_direction_turned_by_mistake_takes_the_worst(out: Path) -> None:
    arguments = {"metric_for_best_model": "accuracy", "greater_is_better": False, "load_best_model_at_end": True}
    stock(out, scores=EARLY, save_total_limit=1, **arguments).train()
    assert names(out) == ["checkpoint-8"], "of the lowest accuracy"


@evidence("E110")
def test_attach_refuses_to_guess(out: Path) -> None:
    with pytest.raises(PolicyError, match="nobody can know"):
        managed(out, metric="vibes")


@evidence("I109", "I111")
@pytest.mark.parametrize(("name", "greater"), [("vibes", True), ("wer", True), ("vibes_loss", False)])
def test_a_direction_that_is_left_out_is_guessed_from_the_end_of_the_name(out: Path, name: str, greater: bool) -> None:
    assert TrainingArguments(str(out), metric_for_best_model=name, use_cpu=True).greater_is_better is greater


# -- what is kept --------------------------------------------------------------------------------------------


@evidence("W201", "I202")
@pytest.mark.parametrize("attached", [False, True])
def test_without_a_limit_everything_stays(out: Path, attached: bool) -> None:
    (managed(out)[0] if attached else stock(out, eval_strategy="no")).train()
    assert len(names(out)) == 6


@evidence("W203")
def test_limit_1_removes_the_last(out: Path) -> None:
    stock(out, scores=EARLY, metric_for_best_model="accuracy", save_total_limit=1).train()
    assert names(out) == ["checkpoint-2"]
    other = out.with_name("two")
    stock(other, scores=EARLY, metric_for_best_model="accuracy", save_total_limit=2).train()
    assert names(other) == ["checkpoint-2", "checkpoint-12"]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@evidence("W204")
def test_damage_of_the_only_whole_checkpoint_leaves_nothing(out: Path) -> None:
    scores = {"scores": EARLY, "metric_for_best_model": "accuracy"}
    train(out, keep="best:1,latest:1", **scores)
    assert set(names(out)) == {"weights-2", "checkpoint-12"}
    _cut(out / "checkpoint-12" / "optimizer.pt")
    with pytest.raises(KeepstepError):
        train(out, True, **scores)

    two = out.with_name("two")
    train(two, keep="best:1,latest:2", **scores)
    _cut(two / "checkpoint-12" / "optimizer.pt")
    _, checkpointer = train(two, True, keep="best:1,latest:2", **scores)
    assert checkpointer.receipt is not None and checkpointer.receipt.step == 10


@evidence("W204")
@pytest.mark.long
def test_damage_of_the_only_checkpoint_under_stock(out: Path) -> None:
    stock(out, eval_strategy="no", save_total_limit=1).train()
    _cut(out / "checkpoint-12" / "model.safetensors")
    with pytest.raises(Exception, match=r"(?i)header|incomplete|deserializ"):
        stock(out, num_train_epochs=3).train(resume_from_checkpoint=True)


@evidence("W205")
def test_strategy_best_saves_nothing_late(out: Path) -> None:
    stock(out, scores=EARLY, metric_for_best_model="accuracy", save_strategy="best").train()
    assert names(out) == ["checkpoint-2"]


@evidence("E206", "W207")
def test_a_disk_that_is_too_small_ends_the_training(out: Path) -> None:
    with file_size_limit(4096), pytest.raises(Exception, match=r"(?i)too large|write|safetensor|I/O"):
        stock(out, eval_strategy="no").train()
    assert names(out) == ["checkpoint-2"]
    assert not (out / "checkpoint-2" / "trainer_state.json").exists(), "half a checkpoint"


# -- resuming ------------------------------------------------------------------------------------------------


@evidence("W301")
def test_one_epoch_saved_by_epochs_has_no_recovery_point(out: Path) -> None:
    crash(out, after=5, attached=False, save_strategy="epoch", num_train_epochs=1)
    assert names(out) == []


@evidence("W302")
def test_nothing_is_saved(out: Path) -> None:
    stock(out, save_strategy="no").train()
    assert names(out) == []


@evidence("E303")
def test_resume_in_the_config_is_ignored(out: Path) -> None:
    crash(out, after=4, attached=False)
    path = str(out / "checkpoint-4")
    first: list[int] = []
    trainer = stock(out, resume_from_checkpoint=path)
    trainer.add_callback(At(0, lambda **_: first.append(0)))
    trainer.train()
    assert first == [0], "from the beginning"
    again = stock(out, resume_from_checkpoint=path)
    again.add_callback(At(0, lambda **_: first.append(1)))
    again.train(resume_from_checkpoint=again.args.resume_from_checkpoint)
    assert first == [0]


def _optimizer_steps(trainer: Trainer) -> set[int]:
    optimizer: Any = trainer.optimizer
    return {int(state["step"]) for state in optimizer.state_dict()["state"].values()}


@evidence("E304", "W305")
@pytest.mark.parametrize(("weights_only", "expected"), [(True, {8}), (False, {12})])
def test_weights_only_goes_on_with_a_fresh_optimizer(out: Path, weights_only: bool, expected: set[int]) -> None:
    crash(out, after=4, attached=False, save_only_model=weights_only)
    assert (out / "checkpoint-4" / "optimizer.pt").exists() is not weights_only
    trainer = stock(out, save_only_model=weights_only)
    trainer.train(resume_from_checkpoint=True)
    assert _optimizer_steps(trainer) == expected, "Adam's own count"


@evidence("E306")
@pytest.mark.skipif(not NEWEST, reason="this transformers has no such setting")
def test_jit_saves_in_the_middle_of_a_step() -> None:
    from transformers.trainer_jit_checkpoint import CheckpointManager, JITCheckpointCallback

    cite(JITCheckpointCallback.on_pre_optimizer_step, "self.jit_manager.execute_jit_checkpoint()")
    cite(CheckpointManager.execute_jit_checkpoint, "self.trainer._save_checkpoint(")
    cite(Trainer, "callback_handler.on_pre_optimizer_step(", "self.optimizer.step()", "self.state.global_step += 1")


def _resumed(source: Path, name: str, reseed: int | None = None, **arguments: Any) -> dict[str, torch.Tensor]:
    """The weights that a copy of a crashed run ends with."""
    copy = source.with_name(name)
    shutil.copytree(source, copy)
    trainer = stock(copy, **arguments)
    if reseed is not None:
        torch.manual_seed(reseed)
    trainer.train(resume_from_checkpoint=True)
    return weights(trainer.model)


@evidence("W307")
def test_another_seed_is_another_order(out: Path) -> None:
    crash(out, after=4, attached=False, seed=5)
    whole = stock(out.with_name("whole"), seed=5)
    whole.train()
    assert same(_resumed(out, "same", seed=5), weights(whole.model))
    assert not same(_resumed(out, "other", seed=6), weights(whole.model))


@evidence("W308")
def test_reseeding_changes_the_order_without_a_data_seed(out: Path) -> None:
    crash(out, after=4, attached=False)
    assert not same(_resumed(out, "a", 70), _resumed(out, "b", 71))
    seeded = out.with_name("seeded")
    crash(seeded, after=4, attached=False, data_seed=1)
    assert same(_resumed(seeded, "c", 70, data_seed=1), _resumed(seeded, "d", 71, data_seed=1))


@evidence("W309")
def test_ignored_data_are_trained_twice(out: Path) -> None:
    crash(out, after=4, attached=False)
    assert not same(_resumed(out, "skips"), _resumed(out, "ignores", ignore_data_skip=True))


@evidence("W310")
def test_only_what_is_named_is_reported_to() -> None:
    cite(Trainer.__init__, "get_reporting_integration_callbacks(self.args.report_to)")


@evidence("E311", "E505")
def test_a_fresh_start_removes_the_old_checkpoints(out: Path) -> None:
    crash(out, after=4, attached=False, eval_strategy="no")
    stock(out, eval_strategy="no", save_total_limit=1, seed=3).train()
    assert names(out) == ["checkpoint-12"]


# -- where checkpoints go ------------------------------------------------------------------------------------


@evidence("W401", "I402")
def test_stock_neither_looks_at_the_file_system_nor_syncs() -> None:
    text = inspect.getsource(inspect.getmodule(Trainer))  # type: ignore[arg-type]
    assert not any(word in text for word in ("statvfs", "fsync", "mountinfo", "disk_usage"))


@evidence("W401")
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no memory there")
def test_memory_is_told_from_a_disk() -> None:
    assert file_system_of(Path("/dev/shm")) == "tmpfs"
    assert file_system_of(Path("/proc")) == "proc"


@evidence("I403", "W404")
@pytest.mark.parametrize(
    ("umask", "readable", "writable"), [(0o022, True, False), (0o000, True, True), (0o027, False, False)]
)
def test_the_umask_decides_who_reads_and_writes(out: Path, umask: int, readable: bool, writable: bool) -> None:
    before = os.umask(umask)
    try:
        crash(out, after=2, attached=False)
    finally:
        os.umask(before)
    for path in (out, out / "checkpoint-2"):
        assert (bool(path.stat().st_mode & 0o004), bool(path.stat().st_mode & 0o002)) == (readable, writable)


@evidence("E405")
def test_two_trainings_end_with_one_s_weights(out: Path) -> None:
    stock(out, seed=3).train()
    mine = files(out / "checkpoint-12")["model.safetensors"]
    stock(out).train()
    assert files(out / "checkpoint-12")["model.safetensors"] != mine


@evidence("E406")
def test_the_token_is_written(out: Path) -> None:
    token = "hf_" + "aBcDeFgHiJkLmNoP" * 2
    crash(out, after=2, attached=False, hub_token=token)
    assert token.encode() in (out / "checkpoint-2" / "training_args.bin").read_bytes()


# -- how often to save ---------------------------------------------------------------------------------------


@evidence("W501", "W506")
@pytest.mark.parametrize(("every", "saved"), [(4, []), (2, ["checkpoint-2"])])
def test_failures_that_come_before_every_save(out: Path, every: int, saved: list[str]) -> None:
    for _ in range(2):
        crash(out, after=3, attached=False, save_steps=every)
    assert names(out) == saved


@evidence("W502")
def test_stock_trains_nothing_while_it_saves() -> None:
    cite(Trainer._maybe_log_save_evaluate, "if self.control.should_save:", "self._save_checkpoint(model, trial")
    text = inspect.getsource(Trainer._save_checkpoint)
    assert not any(word in text for word in ("Thread", "submit", "executor"))


@evidence("E503")
def test_a_kill_inside_a_save_leaves_what_crashes_the_resume(out: Path) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> str:
        stock(out, eval_strategy="no", trainer_class=interrupted_at("before the random states", die)).train()
        return ""

    code, _ = in_child(work)

    assert code == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match=r"trainer_state\.json"):
        stock(out).train(resume_from_checkpoint=True)


# -- what is saved of the model ------------------------------------------------------------------------------


@evidence("W601")
@pytest.mark.parametrize("thrown_away", [True, False])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_base_is_saved_where_the_peft_model_is_thrown_away(out: Path, thrown_away: bool) -> None:
    base = model()
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    Trainer(
        base if thrown_away else adapted, TrainingArguments(str(out), **ARGUMENTS, max_steps=2),
        train_dataset=rows(), eval_dataset=rows(8), data_collator=default_data_collator,
    ).train()  # fmt: skip
    saved = {path.name for path in (out / "checkpoint-2").iterdir()}
    assert ("model.safetensors" in saved, "adapter_model.safetensors" in saved) == (thrown_away, not thrown_away)


@evidence("W602")
@pytest.mark.skipif(not NEWEST, reason="this transformers dequantizes every GGUF file")
def test_gguf_blocks_are_neither_saved_nor_trained() -> None:
    quantizer = pytest.importorskip("transformers.quantizers.quantizer_gguf").GgufHfQuantizer
    cite(quantizer.is_serializable, "return False")
    cite(quantizer.is_trainable.fget, "return False")
    cite(
        transformers.PreTrainedModel.save_pretrained,
        "and not quantization_serializable:", "raise ValueError(", "is not serializable",
    )  # fmt: skip


# -- what is taken where nothing is said ---------------------------------------------------------------------


@pytest.mark.skipif(not NEWEST, reason="defaults are those of transformers 5")
def test_defaults_are_those_of_transformers_and_trl() -> None:
    trl = pytest.importorskip("trl")
    upstream = {field.name: field.default for field in fields(TrainingArguments)}
    theirs = {field.name: field.default for field in fields(trl.SFTConfig)}
    upstream["output_dir"] = theirs["output_dir"] = "trainer_output"  # put there when it is None

    assert {name: upstream[name] for name in DEFAULTS} == DEFAULTS
    assert {name: theirs[name] for name in DEFAULTS} == DEFAULTS | TRL_DEFAULTS
