"""A training's YAML file, as `trl sft --config` reads it: the settings that decide on checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.errors import SettingsError
from keepstep.integrations.training_settings import unknown_settings
from keepstep.operations.yaml_package import yaml_for

_LARGEST_FILE = 10**6
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What the file says, with the defaults of TRL's ModelConfig and transformers' TrainingArguments for the rest.

    `save_steps` and `eval_steps` below 1 are parts of the training; `steps` is None when epochs decide.
    """

    model: str
    dtype: str
    lora_rank: int | None
    lora_targets: tuple[str, ...]
    lora_modules_to_save: tuple[str, ...]
    lora_dora: bool
    quantized: bool
    optimizer: str
    output_dir: str | None
    steps: int | None
    save_strategy: str
    save_steps: float
    eval_strategy: str
    eval_steps: float
    limit: int | None
    metric: str
    greater_is_better: bool | None
    weights_only: bool
    notes: tuple[str, ...] = ()
    """What in the file nobody reads, in words."""


def read_training_config(path: Path) -> TrainingConfig:
    """The settings in a YAML file. Raises SettingsError where `trl` would refuse it, and when PyYAML is missing."""
    values = _Values(path, _load(path))
    model = values.text("model_name_or_path", None)
    if model is None:
        raise SettingsError(f"{path} names no model", hint="It needs model_name_or_path, as `trl sft` does.")
    save_steps = values.number("save_steps", 500)
    max_steps = int(values.number("max_steps", -1))
    return TrainingConfig(
        model=_beside(path, model),
        dtype=values.text("dtype", values.text("torch_dtype", "float32")) or "float32",
        lora_rank=int(values.number("lora_r", 16)) if values.flag("use_peft") else None,
        lora_targets=values.names("lora_target_modules"),
        lora_modules_to_save=values.names("lora_modules_to_save"),
        lora_dora=values.flag("use_dora"),
        quantized=values.flag("load_in_4bit") or values.flag("load_in_8bit"),
        optimizer=values.text("optim", "adamw_torch") or "adamw_torch",
        output_dir=values.text("output_dir", None),
        steps=max_steps if max_steps > 0 else None,
        save_strategy=values.strategy("save_strategy", "steps"),
        save_steps=save_steps,
        eval_strategy=values.strategy("eval_strategy", "no"),
        eval_steps=values.number("eval_steps", values.number("logging_steps", 10)),
        limit=int(values.number("save_total_limit", 0)) or None,
        metric=values.text("metric_for_best_model", "eval_loss") or "eval_loss",
        greater_is_better=values.flag("greater_is_better") if values.has("greater_is_better") else None,
        weights_only=values.flag("save_only_model"),
        notes=tuple(_unread(path, values.values)),
    )


def _unread(path: Path, values: dict[str, Any]) -> Iterator[str]:
    for name, near in unknown_settings(map(str, values)):
        yield f"{path}: {name} is no setting of transformers or TRL" + (f"; is it {near}?" if near else "")


def _load(path: Path) -> dict[str, Any]:
    yaml = yaml_for(path)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SettingsError(f"{path} is too large for a training config")
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no YAML"
        raise SettingsError(f"{path} can't be read: {reason}", hint="Check it with a YAML linter.") from error
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path} must hold a mapping of settings", hint="Write lines such as  save_steps: 500")
    return loaded


def _beside(path: Path, model: str) -> str:
    """A model's directory as seen from the working directory, where `trl` looks, else from the file's."""
    near = path.parent / model
    return str(near) if not Path(model).exists() and near.exists() else model


@dataclass(frozen=True, slots=True)
class _Values:
    """Settings by name; every error names the file and the setting."""

    path: Path
    values: dict[str, Any]

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None) -> str | None:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.values.get(name)
        if value is None:
            return default
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not -(2**53) < number < 2**53:
            raise self._wrong(name, value, "a number")
        return number

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        chosen = value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())
        if chosen is None:
            raise self._wrong(name, value, "true or false")
        return chosen

    def names(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, value, "a list of names")
        return tuple(value)

    def strategy(self, name: str, default: str) -> str:
        # YAML 1.1 reads a bare `no` as false.
        value = self.values.get(name, default)
        word = "no" if value is False or value is None else str(value).lower()
        if word not in ("no", "steps", "epoch", "best"):
            raise self._wrong(name, value, "one of no, steps, epoch, best")
        return word

    def _wrong(self, name: str, value: object, what: str) -> SettingsError:
        return SettingsError(f"{self.path}: {name} is {value!r}, which is not {what}", hint="Correct it in the file.")
