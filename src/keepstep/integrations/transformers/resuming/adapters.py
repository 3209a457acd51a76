"""Where a checkpoint has the adapters of a model, by their names in memory; and what of their state is no parameter."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from keepstep.integrations.transformers.resuming.trained import live_tensors, put_scores, read_extra, unwrapped
from keepstep.snapshot.random_state import untouched

WEIGHTS_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
CONFIG_NAME = "adapter_config.json"
DEFAULT = "default"
"""The adapter whose files lie in the checkpoint itself; those of others lie in directories of their names."""
PROMPT = "prompt_embeddings"
"""The key under which PEFT saves what a prompt encoder puts out."""


def files_of(model: Any, directory: Path) -> dict[Path, dict[str, torch.Tensor]]:
    """The files in which a checkpoint has a model's adapters, and the live tensor of each of their keys."""
    found: dict[Path, dict[str, torch.Tensor]] = {}
    for name in saved_adapters(model):
        folder = _folder(model, directory, name)
        path = next((folder / file for file in WEIGHTS_NAMES if (folder / file).is_file()), None)
        if path is not None:
            found[path] = {**live_tensors(model), **targets_of(model, name)}
    return found


def targets_of(model: Any, name: str) -> dict[str, torch.Tensor]:
    """For each key of an adapter's file the live tensor.

    It is what PEFT would write of the model as it is now: the same names, the other way round. Of AdaLoRA these are
    the whole tensors, even where fewer ranks would be written.
    """
    from peft import get_peft_model_state_dict

    config, kept = model.peft_config[name], None
    if _allocates(config):
        kept, config.rank_pattern = config.rank_pattern, None
    try:
        with warnings.catch_warnings(), untouched():
            warnings.simplefilter("ignore")  # the save has said whatever there is to say
            state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    finally:
        if _allocates(config):
            config.rank_pattern = kept
    if name in (prompts := prompt_embeddings(model)):
        state[PROMPT] = prompts[name]
    return {f"base_model.model.{key}": value for key, value in state.items()} if is_native(model) else state


def saved_adapters(model: Any) -> list[str]:
    """The adapters that a save writes: PEFT's models write all, those of transformers the active one."""
    if is_native(model):
        return list(model.active_adapters())[:1]
    return list(model.peft_config)


def is_native(model: Any) -> bool:
    """True for a model of transformers that was given its adapters by its own `add_adapter`."""
    return isinstance(model, PreTrainedModel) and bool(getattr(model, "_hf_peft_config_loaded", False))


def prompt_embeddings(model: Any) -> dict[str, torch.Tensor]:
    """Of each adapter whose prompt encoder is a table and nothing else, the table: what PEFT saves of it is equal."""
    model = unwrapped(model)
    found: dict[str, torch.Tensor] = {}
    for name, config in model.peft_config.items():
        if getattr(config, "is_prompt_learning", False):
            encoder = model.prompt_encoder[name]
            if [key for key, _ in encoder.named_parameters()] == ["embedding.weight"]:
                found[name] = encoder.embedding.weight
    return found


def put_back(model: Any, directory: Path) -> None:
    """Copy what the extra file holds into the live tensors of its names; give AdaLoRA its scores and ranks again."""
    model, values = unwrapped(model), read_extra(directory)
    live = live_tensors(model)
    with torch.no_grad():
        for name, value in values.items():
            if name in live and live[name].shape == value.shape:
                live[name].copy_(value)
    put_scores(model, values)
    for name, config in (getattr(model, "peft_config", None) or {}).items():
        path = _folder(model, directory, name) / CONFIG_NAME
        if _allocates(config) and path.is_file():
            config.rank_pattern = json.loads(path.read_text(encoding="utf-8")).get("rank_pattern")


def _folder(model: Any, directory: Path, name: str) -> Path:
    """Where a checkpoint has the files of an adapter."""
    return directory if name == DEFAULT or is_native(model) else directory / name


def _allocates(config: Any) -> bool:
    kind = getattr(config, "peft_type", None)
    return getattr(kind, "value", kind) == "ADALORA"
