"""A model's tensors from its config alone: built on torch's meta device, without weights and without memory."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from keepstep.errors import SettingsError
from keepstep.operations.planning.tensors import Inventory, Tensor, dtype_named
from keepstep.paths import expanded
from keepstep.run import holds_run, open_run

_COPIED = ("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template", "spiece", "generation_")
"""Beginnings of the names of files that are saved with every checkpoint beside weights and config."""


def inventory_of(
    model: str,
    *,
    dtype: str,
    lora_rank: int | None = None,
    lora_targets: Sequence[str] = (),
    lora_modules_to_save: Sequence[str] = (),
    lora_dora: bool = False,
    quantized: bool = False,
) -> Inventory:
    """The tensors of a model directory, a config.json, a run or a cached hub model, trained in full or by a LoRA.

    `dtype` is what the weights are loaded in, `auto` for the config's own. An adapter is fp32, as PEFT makes it, or
    bf16 under a quantized base, as TRL does. Raises SettingsError.
    """
    if quantized and lora_rank is None:
        raise SettingsError(
            "a quantized model can't be trained in full: there is nothing that an optimizer could step",
            hint="Train an adapter over it: use_peft and lora_r in the file, or --lora-r.",
        )
    model = _of_run(model)
    _need("torch", "transformers", *(["peft"] if lora_rank else []))
    tied: tuple[Tensor, ...] = ()
    with _quiet():
        config = _config(model)
        chosen = dtype_named(str(getattr(config, "dtype", None) or "fp32") if dtype == "auto" else dtype)
        built = _build(config, chosen)
        parameters = sum(parameter.numel() for parameter in built.parameters())
        name = f"{type(built).__name__} with {parameters:,} parameters ({chosen})"
        if lora_rank is None:
            saved, trained = _saved(built), _trained(built)
            tied = _tied(built, saved)
        else:
            saved, trained = _with_lora(
                built,
                lora_rank,
                lora_targets,
                lora_modules_to_save,
                dora=lora_dora,
                adapter_dtype="bf16" if quantized else None,
            )
            name += f", {'DoRA' if lora_dora else 'LoRA'} of rank {lora_rank}" + (
                " over a quantized base" if quantized else ""
            )
    return Inventory(saved, trained, parameters, True, name, lora_rank is not None, _copied_bytes(Path(model)), tied)


def tied_names(directory: Path) -> list[list[str]]:
    """Names of tensors that are one in the model of a directory's config, the first of each as stock writers name it.

    None where no class of transformers is its model's.
    """
    groups: dict[int, list[str]] = {}
    try:
        with _quiet():
            built = _build(_config(str(directory)), "fp32")
            for name, value in built.state_dict(keep_vars=True).items():
                groups.setdefault(id(value), []).append(name)
    except SettingsError:
        return []
    return [names for names in groups.values() if len(names) > 1]


def _need(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"planning from a model's config needs {', '.join(missing)}",
            hint='Install it: pip install "keepstep[hf]"'
            + (" peft" if "peft" in missing else "")
            + ". Or give plain numbers: keepstep plan --params 7B",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' remarks on a model that nobody trains."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _config(model: str) -> Any:
    from transformers import AutoConfig

    path = expanded(model)
    if path.is_dir() and not (path / "config.json").is_file():
        raise SettingsError(f"{path} has no config.json", hint="Name a model directory, or plan from --params.")
    try:
        return AutoConfig.from_pretrained(path if path.exists() else model, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if path.exists() else "it is neither here nor in the hub's cache"
        raise SettingsError(f"the config of {model} can't be read: {reason}", hint=_HINT) from error


def _of_run(model: str) -> str:
    """In the place of a run, managed or not, the newest of its checkpoints that says what its model is."""
    place = expanded(model)
    if (place / "config.json").is_file() or not holds_run(place):
        return model
    paths = [checkpoint.path for checkpoint in reversed(open_run(place).checkpoints) if checkpoint.path is not None]
    return next((str(path) for path in paths if (path / "config.json").is_file()), model)


_HINT = "Name a model directory, its config.json, or plan from --params."


def _build(config: Any, dtype: str) -> Any:
    """The model that the config names first, else a causal language model, on the meta device."""
    import torch
    import transformers

    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
    if dtype not in wanted:
        raise SettingsError(f"weights in {dtype} are not trained", hint="Say what they are trained in: --dtype bf16.")
    architecture = getattr(transformers, next(iter(config.architectures or []), ""), None)
    try:
        with torch.device("meta"):
            if architecture is not None:
                built = architecture(config)
            else:
                built = transformers.AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(f"no model can be built from this config: {reason}", hint=_HINT) from error
    built.tie_weights()
    return built.to(wanted[dtype])


def _with_lora(
    built: Any,
    rank: int,
    targets: Sequence[str],
    modules_to_save: Sequence[str],
    *,
    dora: bool,
    adapter_dtype: str | None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    chosen = None if not targets else targets[0] if len(targets) == 1 else list(targets)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        target_modules=chosen,
        modules_to_save=list(modules_to_save) or None,
        use_dora=dora,
    )
    try:
        adapted = get_peft_model(built, settings)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"this LoRA does not fit the model: {reason}", hint="Name modules: --lora-target"
        ) from error
    saved = get_peft_model_state_dict(adapted)
    return tuple(_tensor(name, value, adapter_dtype) for name, value in saved.items()), _trained(adapted, adapter_dtype)


def _saved(built: Any) -> tuple[Tensor, ...]:
    """What `save_pretrained` writes: tied weights once."""
    seen: dict[int, Tensor] = {}
    for name, value in built.state_dict(keep_vars=True).items():
        seen.setdefault(id(value), _tensor(name, value))
    return tuple(seen.values())


def _tied(built: Any, saved: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What `save_pretrained` leaves out, because another name of it is saved."""
    names = {tensor.name for tensor in saved}
    return tuple(_tensor(name, value) for name, value in built.state_dict().items() if name not in names)


def _trained(built: Any, dtype: str | None = None) -> tuple[Tensor, ...]:
    """What the optimizer steps; tied weights once."""
    from torch.nn import Embedding

    tables = {id(module.weight) for module in built.modules() if isinstance(module, Embedding)}
    trained = ((name, value) for name, value in built.named_parameters() if value.requires_grad)
    return tuple(replace(_tensor(name, value, dtype), embedding=id(value) in tables) for name, value in trained)


def _tensor(name: str, value: Any, dtype: str | None = None) -> Tensor:
    return Tensor(name, tuple(value.shape), dtype or dtype_named(str(value.dtype)))


def _copied_bytes(model: Path) -> int:
    """Bytes of the tokenizer's and other small files of a model directory."""
    place = expanded(model)
    home = place if place.is_dir() else place.parent
    if not (home / "config.json").is_file():
        return 0
    return sum(file.stat().st_size for file in home.iterdir() if file.name.startswith(_COPIED) and file.is_file())
