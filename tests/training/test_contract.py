"""What keepstep relies on in transformers and TRL: a name or an order that changes fails here, by name."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

pytest.importorskip("trl")

import trl
from accelerate.data_loader import SeedableRandomSampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import CallbackHandler, ExportableState, TrainerControl, TrainerState

from tests.training.tiny import NEWEST

pytestmark = pytest.mark.training

METHODS = {
    "train": ("resume_from_checkpoint",),
    "_inner_training_loop": ("batch_size",),
    "set_initial_training_values": ("args", "dataloader"),
    "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
    "training_step": ("model", "inputs"),
    "_maybe_log_save_evaluate": (
        "tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time", "learning_rate",
    ),
    "_determine_best_metric": ("metrics", "trial"),
    "_evaluate": ("trial", "ignore_keys_for_eval", "skip_scheduler"),
    "_report_to_hp_search": ("trial", "step", "metrics"),
    "_get_output_dir": ("trial",),
    "_save_checkpoint": ("model", "trial"),
    "_push_from_checkpoint": ("checkpoint_folder",),
    "_finish_current_push": (),
    "push_to_hub": ("commit_message", "blocking", "token"),
    "_save": ("output_dir", "state_dict"),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_load_rng_state": ("checkpoint",),
    "_load_callback_state": (),
    "_load_best_model": (),
    "add_callback": ("callback",),
}  # fmt: skip
"""Methods that are overridden or called, with the first parameters in order."""
ARGUMENTS = {
    "output_dir", "save_strategy", "save_steps", "save_total_limit", "save_only_model", "eval_strategy", "eval_steps",
    "eval_on_start", "metric_for_best_model", "greater_is_better", "load_best_model_at_end", "ignore_data_skip",
    "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "hub_token", "optim", "num_train_epochs",
    "dataloader_persistent_workers", "dataloader_num_workers",
}  # fmt: skip
STATE = {
    "global_step", "epoch", "max_steps", "num_train_epochs", "log_history", "best_metric", "best_model_checkpoint",
    "best_global_step", "save_steps", "eval_steps", "stateful_callbacks",
}  # fmt: skip
EVENTS = {"on_train_begin", "on_epoch_begin", "on_step_end", "on_epoch_end", "on_evaluate"}
LOOP = inspect.getsource(Trainer._inner_training_loop)
EPOCH = inspect.getsource(Trainer._run_epoch) if hasattr(Trainer, "_run_epoch") else LOOP


def in_order(text: str, *parts: str) -> bool:
    """Whether each part is found after the one before."""
    place = -1
    for part in parts:
        place = text.find(part, place + 1)
        if place < 0:
            return False
    return True


def test_the_place_in_the_data_is_worked_out_of_the_number_of_steps() -> None:
    """A resume by samples answers these two questions itself, of the state that was read right before."""
    text = inspect.getsource(Trainer._init_training_state) if hasattr(Trainer, "_init_training_state") else LOOP
    assert in_order(
        text,
        "TrainerState.load_from_json(",
        "self._load_callback_state()",
        "epochs_trained = int(self.state.global_step // num_update_steps_per_epoch)",
        "steps_trained_in_current_epoch = self.state.global_step % ",
        "steps_trained_in_current_epoch *= ",
    )
    values = inspect.getsource(Trainer.set_initial_training_values)
    assert in_order(values, "return (", "num_train_epochs,", "num_update_steps_per_epoch,", "max_steps,\n        )")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_what_keepstep_hands_to_it(name: str) -> None:
    found = list(inspect.signature(getattr(Trainer, name)).parameters)[1:]
    assert tuple(found[: len(METHODS[name])]) == METHODS[name]


def test_arguments_state_and_events_are_there() -> None:
    assert {field.name for field in fields(TrainingArguments)} >= ARGUMENTS
    assert {field.name for field in fields(TrainerState)} >= STATE
    assert all(hasattr(TrainerCallback, event) for event in EVENTS)
    assert list(inspect.signature(TrainerState.compute_steps).parameters) == ["self", "args", "max_steps"]
    assert callable(TrainerState.save_to_json)


def test_the_loop_resets_its_accumulators_before_on_train_begin() -> None:
    begin = "self.callback_handler.on_train_begin("
    assert in_order(LOOP, "self._total_loss_scalar = 0.0", "self._globalstep_last_logged = ", begin)
    loss = "self._tr_loss = torch.tensor(0.0" if NEWEST else " tr_loss = torch.tensor(0.0"
    assert in_order(LOOP, loss, begin)
    assert ("self._initial_global_step = " in LOOP) == NEWEST
    assert in_order(LOOP, begin, "eval_on_start", "for epoch in range(epochs_trained, num_train_epochs)")


def test_the_epoch_is_entered_in_the_order_that_the_random_state_needs() -> None:
    begins = "self.callback_handler.on_epoch_begin("
    loads = "self._load_rng_state("
    assert in_order(EPOCH, "skip_first_batches(", loads, "iter(", "self.get_batch_samples(", loads)
    assert in_order(LOOP, begins, "self._run_epoch(" if EPOCH is not LOOP else "skip_first_batches(")


def test_a_step_ends_before_it_is_logged_and_saved() -> None:
    ends = ("self.state.global_step += 1", "on_step_end(", "self._maybe_log_save_evaluate(")
    assert in_order(EPOCH, *ends, "on_epoch_end(", "self._maybe_log_save_evaluate(")
    source = inspect.getsource(Trainer._maybe_log_save_evaluate)
    assert in_order(source, "should_log", "should_evaluate", "_determine_best_metric(", "_save_checkpoint(")
    source = inspect.getsource(Trainer._evaluate)
    assert in_order(source, "self.evaluate(", "_report_to_hp_search(", "lr_scheduler.step(", "raise KeyError(")


def test_a_save_writes_below_the_output_directory_that_it_asks_for() -> None:
    source = inspect.getsource(Trainer._save_checkpoint)
    assert in_order(source, "self._get_output_dir(trial=trial)", "os.path.join(run_dir, checkpoint_folder)")


def test_a_push_looks_up_what_uploads_a_folder_where_keepstep_stands_in() -> None:
    module = inspect.getmodule(Trainer)
    api = hasattr(module, "hf_api")
    assert api or hasattr(module, "upload_folder")
    for method in (Trainer._push_from_checkpoint, Trainer.push_to_hub):
        source = inspect.getsource(method)
        assert ("hf_api().upload_folder(" if api else " upload_folder(") in source
        assert "ignore_patterns=[" in source
        assert source.count("folder_path=") == source.count("upload_folder(")


@pytest.mark.skipif(not NEWEST, reason="this transformers has no such setting")
def test_the_stock_callback_hears_of_a_signal_by_a_flag() -> None:
    from transformers.trainer_jit_checkpoint import CheckpointManager, JITCheckpointCallback

    assert JITCheckpointCallback().jit_manager is None
    assert "self.is_checkpoint_requested = True" in inspect.getsource(CheckpointManager._enable_checkpoint)
    own = {name for name in vars(JITCheckpointCallback) if name.startswith("on_")}
    assert own == {"on_pre_optimizer_step", "on_step_begin", "on_step_end", "on_epoch_end", "on_train_end"}


def test_train_asks_in_the_order_in_which_keepstep_answers() -> None:
    finalize = inspect.getsource(getattr(Trainer, "_finalize_training", Trainer._inner_training_loop))
    assert in_order(finalize, "self._total_loss_scalar += ", "self.log(metrics)", "on_train_end(")
    assert in_order(finalize, "self._load_best_model()", "on_train_end(")


def test_callbacks_are_called_in_the_order_in_which_they_were_added() -> None:
    assert "for callback in self.callbacks" in inspect.getsource(CallbackHandler.call_event)
    assert "self.callbacks.append(" in inspect.getsource(CallbackHandler.add_callback)
    assert hasattr(CallbackHandler([], None, None, None, None), "train_dataloader")


def test_patience_is_in_the_state_that_a_callback_exports() -> None:
    assert issubclass(EarlyStoppingCallback, ExportableState)
    assert issubclass(TrainerControl, ExportableState)
    assert "early_stopping_patience_counter" in EarlyStoppingCallback().state()["attributes"]


def test_the_seeded_sampler_can_be_held_at_an_epoch() -> None:
    sampler = SeedableRandomSampler(range(4), data_seed=3)
    assert (sampler.initial_seed, sampler.epoch) == (3, 0)
    sampler.set_epoch(2)
    assert sampler.epoch == 2
    assert "self.epoch + self.initial_seed" in inspect.getsource(SeedableRandomSampler.__iter__)


@pytest.mark.parametrize("name", ["SFTTrainer", "DPOTrainer", "RewardTrainer", "KTOTrainer"])
def test_a_trl_trainer_keeps_its_averages_where_keepstep_looks(name: str) -> None:
    trainer = getattr(trl, name)
    assert issubclass(trainer, Trainer)
    source = "".join(inspect.getsource(kind) for kind in trainer.__mro__ if kind.__module__.startswith("trl."))
    assert "self._metrics = " in source or "self._stored_metrics = " in source
