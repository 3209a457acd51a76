"""A training's YAML or JSON file: of `trl sft --config`, of LLaMA-Factory, of axolotl, or one with sections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from keepstep.operations.doctor.axolotl import axolotl_settings, is_axolotl
from keepstep.operations.doctor.facts import Facts, Model
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading import files
from keepstep.operations.doctor.reading.coercion import of_setting
from keepstep.operations.doctor.reading.command_line import CommandLine, free_values
from keepstep.operations.doctor.reading.texts import read_text
from keepstep.operations.doctor.reading.values import NotLiteral, Record, plain
from keepstep.operations.doctor.settings import OLD_NAMES, Argument, Given, Settings, Unread

ENDINGS = files.ENDINGS
TELLING = frozenset({
    "output_dir", "eval_strategy", "evaluation_strategy", "eval_steps", "save_strategy", "save_steps",
    "save_total_limit", "save_only_model", "load_best_model_at_end", "metric_for_best_model", "num_train_epochs",
    "max_steps", "resume_from_checkpoint", "hub_token", "per_device_train_batch_size",
})  # fmt: skip
"""Names that only a file of training arguments has."""
_OTHERS = frozenset({"compute_environment", "zero_optimization"})
"""Names that accelerate's and DeepSpeed's own files have."""
READER = "the program that reads it"
_TRUE = {True, "true", "yes", "on", "1"}
_DEEPEST = 4


def read_training_file(path: Path, line: CommandLine | None = None) -> list[Facts]:
    """What the file says, with what a command line says beside it: once for each section that holds training arguments.

    Raises SettingsError when it is no mapping, or PyYAML is missing, and OSError.
    """
    text = read_text(path)
    record = files.parse(path, text)
    said = free_values(line) if line is not None else {}
    command = line.where if line is not None else None
    return [replace(facts, command=command) for facts in _facts(path, record, said)]


def facts_of_tool(tool: str, line: CommandLine) -> Facts:
    """What a program that trains by itself (`trl sft`) is told by its command line alone."""
    values = _arguments(free_values(line))
    trl = tool.startswith("trl ")
    why = "" if trl or tool.startswith("llamafactory") else f"the file that {tool} reads"
    return Facts(
        "command",
        line.where,
        Settings(values, complete=not why, trl=trl, why_incomplete=why),
        resume=(values.get("resume_from_checkpoint", Given(None)),),
        model=_model(values),
        unread=_unread(values),
        command=line.where,
    )


def _facts(path: Path, record: Record, said: dict[str, Argument]) -> Iterator[Facts]:
    where = Where(str(path))
    if is_axolotl(record):
        settings, resume, adapter = axolotl_settings(record, said)
        yield Facts("yaml", where, settings, resume=resume, model=Model(adapter=adapter), unread=settings.unread)
        return
    sections = [] if TELLING & record.fields.keys() else list(_sections(record))
    if not sections:
        nested = any(isinstance(value, Given) and _is_mapping(value) for value in record.fields.values())
        if _OTHERS & record.fields.keys() or (nested and not TELLING & record.fields.keys()):
            why = "the training arguments: nothing in this file is one"
            settings = Settings({}, complete=False, why_incomplete=why)
            yield Facts("yaml", where, settings, unread=(why,), resume_known=False)
            return
        yield _flat(where, _arguments({**record.fields, **said}), record)
    for line, section in sections:
        values = _arguments({**section.fields, **said})
        settings = Settings(values, unless=READER)
        yield Facts(
            "yaml",
            replace(where, line=line),
            settings,
            resume_known=False,
            model=Model(adapter=True),
            unread=settings.unread,
        )


def _flat(where: Where, values: dict[str, Argument], record: Record) -> Facts:
    if "finetuning_type" in record.fields:  # LLaMA-Factory: it looks for a checkpoint to go on from by itself
        adapter = _value(values, "finetuning_type") in ("lora", "oft")
        resume = (Unread("the newest checkpoint of output_dir"),)
        return Facts(
            "yaml", where, Settings(values), resume=resume, model=Model(adapter=adapter), unread=_unread(values)
        )
    # `trl sft` passes the config's resume_from_checkpoint on to train().
    resume = (values.get("resume_from_checkpoint", Given(None)),)
    return Facts("yaml", where, Settings(values, trl=True), resume=resume, model=_model(values), unread=_unread(values))


def _unread(values: dict[str, Argument]) -> tuple[str, ...]:
    return Settings(values).unread


def _sections(record: Record, deep: int = 0) -> Iterator[tuple[int, Record]]:
    """Mappings inside of others that hold training arguments, each with its line."""
    for value in record.fields.values():
        if isinstance(value, Given) and isinstance(value.value, Record) and deep < _DEEPEST:
            if len(TELLING & value.value.fields.keys()) > 1:
                yield value.line, value.value
            else:
                yield from _sections(value.value, deep + 1)


def _is_mapping(given: Given) -> bool:
    return isinstance(given.value, Record)


def _arguments(fields: dict[str, Argument]) -> dict[str, Argument]:
    """Plain values under the names of today."""
    found: dict[str, Argument] = {}
    for key, argument in fields.items():
        name = OLD_NAMES.get(key, key)
        if isinstance(argument, Unread):
            found[name] = argument
            continue
        try:
            found[name] = replace(argument, value=of_setting(name, plain(argument.value)))
        except NotLiteral:
            continue
    return found


def _model(values: dict[str, Argument]) -> Model:
    if _value(values, "use_peft") in _TRUE:
        return Model(adapter=True)
    # LoRA settings without `use_peft`: TRL then trains, and saves, all of the model.
    name = next((name for name in values if name.startswith("lora_")), None)
    if name is None:
        return Model()
    return Model(f"{name} is set, and use_peft is not: all weights are trained and saved", values[name].line)


def _value(values: dict[str, Argument], name: str) -> Any:
    found = values.get(name)
    return found.value if isinstance(found, Given) and isinstance(found.value, (str, bool)) else None
