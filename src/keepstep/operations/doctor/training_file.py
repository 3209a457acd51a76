"""A YAML file of `trl sft --config`, with the line of every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from keepstep.errors import SettingsError
from keepstep.operations.doctor.facts import Facts, Model
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.script import ignored_lines, read_text
from keepstep.operations.doctor.settings import OLD_NAMES, Argument, Given, Settings
from keepstep.operations.yaml_package import yaml_for

ENDINGS = (".yaml", ".yml")
_TRUE = {True, "true", "yes", "on", "1"}
_NUMBERS = ("save_steps", "eval_steps", "logging_steps", "num_train_epochs", "max_steps", "save_total_limit")


def read_training_file(path: Path) -> tuple[Facts, dict[int, frozenset[str]]]:
    """What the file says, and ids to ignore by line.

    Raises SettingsError when it is no mapping, or PyYAML is missing, and OSError.
    """
    text = read_text(path)
    values = _values(path, text)
    lora = _lost_adapter(values)
    # `trl sft` passes the config's resume_from_checkpoint on to train().
    resume = values.get("resume_from_checkpoint", Given(None))
    facts = Facts(
        "yaml",
        Where(str(path)),
        Settings(values, trl=True),
        resume=(resume,),
        model=Model(*lora) if lora else Model(adapter=_uses_adapter(values)),
    )
    return facts, ignored_lines(text, python=False)


def _values(path: Path, text: str) -> dict[str, Argument]:
    yaml = yaml_for(path)
    try:
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        loaded: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or "it is no YAML"
        raise SettingsError(f"{path}{line}: {reason}", hint="Check it with a YAML linter.") from None
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path} must hold a mapping of settings", hint="Write lines such as  save_steps: 500")
    lines: dict[str, int] = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    found: dict[str, Argument] = {}
    for key, value in cast("dict[object, Any]", loaded).items():
        name = OLD_NAMES.get(str(key), str(key))
        found[name] = Given(_plain(name, value), lines.get(str(key), 0))
    return found


def _plain(name: str, value: Any) -> Any:
    """What transformers' parser makes of a text: `1e2` and `"500"` are numbers where one is due."""
    if name in _NUMBERS and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, str) and value.lower() in ("true", "false", "yes"):
        return value.lower() != "false"
    return value


def _uses_adapter(values: dict[str, Argument]) -> bool:
    use = values.get("use_peft")
    return isinstance(use, Given) and use.value in _TRUE


def _lost_adapter(values: dict[str, Argument]) -> tuple[str, int] | None:
    """LoRA settings without `use_peft`: TRL then trains, and saves, all of the model."""
    if _uses_adapter(values):
        return None
    name = next((name for name in values if name.startswith("lora_")), None)
    if name is None:
        return None
    return f"{name} is set, and use_peft is not: all weights are trained and saved", values[name].line
