"""Which training arguments change what a resumed training computes, which only its cadence, and which nothing."""

from __future__ import annotations

from typing import Any

from keepstep.run import Difference, Exactness

_PREFIXES_WITHOUT_EFFECT = (
    *("hub_", "push_to_hub", "report_to", "logging_dir", "run_name", "project", "trackio_", "log_"),
)
_WITHOUT_EFFECT = frozenset({
    "output_dir", "disable_tqdm", "resume_from_checkpoint", "save_total_limit", "overwrite_output_dir", "do_train",
    "do_eval", "do_predict", "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "local_rank",
    "save_only_model", "save_safetensors", "save_on_each_node", "restore_callback_states_from_checkpoint",
    "skip_memory_metrics", "remove_unused_columns", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters", "ddp_broadcast_buffers", "ddp_static_graph", "label_names", "eval_on_start",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "dataset_num_proc", "include_for_metrics", "debug",
    "average_tokens_across_devices", "enable_jit_checkpoint", "auto_find_batch_size", "push_to_hub_token",
    "optim",  # the fingerprint has the optimizer itself
})  # fmt: skip
_CADENCE = frozenset({
    "logging_steps", "logging_strategy", "logging_first_step", "logging_nan_inf_filter", "eval_steps", "eval_strategy",
    "eval_delay", "save_steps", "save_strategy", "per_device_eval_batch_size", "eval_accumulation_steps",
    "prediction_loss_only", "batch_eval_metrics", "include_num_input_tokens_seen", "include_tokens_per_second",
    "dataloader_num_workers", "dataloader_persistent_workers", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "activation_checkpointing", "activation_checkpointing_kwargs", "torch_compile",
    "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps", "use_liger_kernel", "tf32",
    "full_determinism", "use_cpu", "bf16_full_eval", "fp16_full_eval", "jit_mode_eval", "eval_use_gather_object",
    "eval_packing",
})  # fmt: skip
_OF_FSDP_WITHOUT_EFFECT = frozenset({"state_dict_type", "cpu_ram_efficient_loading"})
"""Of FSDP's settings, how files are divided and how a model comes into memory: no number depends on them."""
_FROM_CHECKPOINT = frozenset({
    "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
})  # fmt: skip


def plain_arguments(args: Any) -> dict[str, Any]:
    """The arguments that can matter for a resume, as plain JSON values; no secrets, no paths, no cosmetics."""
    found = {
        name: _plain(value)
        for name, value in sorted(args.to_dict().items())
        if name not in _WITHOUT_EFFECT and not name.startswith(_PREFIXES_WITHOUT_EFFECT)
    }
    fsdp = found.get("fsdp_config")
    if isinstance(fsdp, dict):
        found["fsdp_config"] = {name: fsdp[name] for name in sorted(fsdp.keys() - _OF_FSDP_WITHOUT_EFFECT)}
    return found


def plain(option: Any) -> str:
    """The word of an argument that may be an enum: `steps` of `IntervalStrategy.STEPS`."""
    return str(getattr(option, "value", option))


def level_of_argument(difference: Difference) -> Exactness:
    """What a changed argument does to a resume; one that nobody knows counts as another course."""
    return Exactness.EQUIVALENT if difference.name in _CADENCE else Exactness.APPROXIMATE


def stays_in_force(name: str) -> bool:
    """True for arguments whose value lives in the optimizer's or scheduler's state: the checkpoint's wins."""
    return name in _FROM_CHECKPOINT


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
