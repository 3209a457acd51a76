"""axolotl's YAML: its own names for what to save and evaluate, and its own defaults.

Source: axolotl, src/axolotl/core/builders/base.py and src/axolotl/utils/config.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keepstep.operations.doctor.reading.coercion import of_setting
from keepstep.operations.doctor.reading.values import Record
from keepstep.operations.doctor.settings import Argument, Given, Settings, Source, Unread

_TYPICAL = frozenset({"datasets", "sequence_len", "micro_batch_size", "adapter", "val_set_size", "num_epochs"})
_SAME = (
    "output_dir",
    "save_only_model",
    "max_steps",
    "seed",
    "metric_for_best_model",
    "greater_is_better",
    "hub_token",
)
LIMIT = 4
"""How many checkpoints it keeps where nothing is said."""


def is_axolotl(record: Record) -> bool:
    """True for a file of axolotl's."""
    return "base_model" in record.fields and bool(_TYPICAL & record.fields.keys())


def axolotl_settings(record: Record, said: dict[str, Argument]) -> tuple[Settings, tuple[Argument, ...], bool]:
    """The training arguments that axolotl makes of its file, what it resumes from, and whether it trains an adapter."""
    given = {**record.fields, **said}
    values: dict[str, Argument] = {name: _as(name, given[name]) for name in _SAME if name in given}
    if "output_dir" not in values:
        values["output_dir"] = Given("./model-out", 0, Source.DEFAULT)
    values["save_total_limit"] = _or(given, "save_total_limit", Given(LIMIT, 0, Source.DEFAULT))
    epochs = _or(given, "num_epochs", Given(1.0, 0, Source.DEFAULT))
    values["num_train_epochs"] = _as("num_train_epochs", epochs)
    values |= _how_often("save", given, epochs, Given("epoch", 0, Source.DEFAULT))
    if _evaluates(given):
        values |= _how_often("eval", given, epochs, Given("no", 0, Source.DEFAULT))
    else:
        values["eval_strategy"] = Given("no", 0, Source.DEFAULT)
    best = given.get("load_best_model_at_end")
    # Asked for or not, it is turned off where saves and evaluations do not fit together.
    turned_off = isinstance(best, Given) and best.value is False
    decided = Unread("as axolotl decides", best.line if best else 0)
    values["load_best_model_at_end"] = best if best and turned_off else decided
    resume = given.get("resume_from_checkpoint") or Given(None)
    if _truth(given, "auto_resume_from_checkpoints"):
        resume = Unread("the newest checkpoint of output_dir")
    return Settings(values), (resume,), bool(_truth(given, "adapter"))


def _how_often(what: str, given: dict[str, Argument], epochs: Argument, default: Given) -> dict[str, Argument]:
    """`saves_per_epoch`, `save_steps` or `save_strategy`, in this order of weight; the same for evaluations."""
    steps, per_epoch = given.get(f"{what}_steps"), given.get(f"{what}s_per_epoch")
    if isinstance(per_epoch, Given) and steps is None:
        value: Any = epochs.value if isinstance(epochs, Given) else None
        try:
            part: Argument = replace(per_epoch, value=1.0 / (float(per_epoch.value) * float(value)))
        except (TypeError, ValueError, ZeroDivisionError):
            part = Unread(f"{what}s_per_epoch", per_epoch.line)
        return {f"{what}_strategy": replace(per_epoch, value="steps"), f"{what}_steps": part}
    if steps is not None:
        word = replace(steps, value="steps") if isinstance(steps, Given) else Unread(f"{what}_steps", steps.line)
        return {f"{what}_strategy": word, f"{what}_steps": _as(f"{what}_steps", steps)}
    return {f"{what}_strategy": given.get(f"{what}_strategy", default)}


def _evaluates(given: dict[str, Argument]) -> bool:
    """True unless no rows are held back to evaluate on."""
    size = given.get("val_set_size")
    return bool(given.get("test_datasets")) or not isinstance(size, Given | None) or bool(size and size.value)


def _as(name: str, argument: Argument) -> Argument:
    return argument if isinstance(argument, Unread) else replace(argument, value=of_setting(name, argument.value))


def _or(given: dict[str, Argument], name: str, default: Given) -> Argument:
    found = given.get(name)
    return default if found is None or (isinstance(found, Given) and not found.value) else _as(name, found)


def _truth(given: dict[str, Argument], name: str) -> bool:
    found = given.get(name)
    return isinstance(found, Given) and bool(found.value)
