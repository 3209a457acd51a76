"""What callbacks count, by their position among those of their class: stock files keep one of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers.trainer_callback import ExportableState

from keepstep.integrations.transformers.resuming.attributes import decoded, encoded

States = Sequence[tuple[str, Any]]
"""For each callback that exports its state, in their order, the name of its class and what it exports."""


def capture(trainer: Any) -> tuple[list[tuple[str, Any]], list[str]]:
    """The states now; and in words those that can't be kept as they are."""
    found: list[tuple[str, Any]] = []
    left_out: list[str] = []
    for callback in _exporting(trainer):
        name = type(callback).__name__
        try:
            found.append((name, encoded(callback.state())))
        except (TypeError, ValueError, RecursionError) as error:
            found.append((name, None))
            left_out.append(f"the state of the callback {name} is not kept ({error}): it begins anew")
    return found, left_out


def restore(trainer: Any, states: States) -> None:
    """Let counters go on, each callback those of its position; settings stay as the script has them."""
    for callback, state in zip(*_matched(trainer, states), strict=True):
        for name, value in (state or {}).get("attributes", {}).items():
            setattr(callback, name, value)


def make_room(trainer: Any) -> None:
    """Let the stock writer, which adds to what is there, find room for one state of each callback, and for no other."""
    stored: dict[str, Any] = trainer.state.stateful_callbacks
    names = [type(one).__name__ for one in [*_exporting(trainer), trainer.control]]
    for name in names:
        if names.count(name) > 1:
            stored[name] = []
        elif not isinstance(stored.get(name), dict):
            stored[name] = {}


def newest(trainer: Any) -> States:
    """What a trainer's state has: of several states of a class the last are those of its callbacks."""
    found: list[tuple[str, Any]] = []
    for name, state in trainer.state.stateful_callbacks.items():
        if isinstance(state, list):
            states = cast("list[Any]", state)
            count = sum(type(one).__name__ == name for one in _exporting(trainer))
            trainer.state.stateful_callbacks[name] = states = states[max(len(states) - count, 0) :]
            found += [(name, one) for one in states]
        else:
            found.append((name, state))
    return found


def _matched(trainer: Any, states: States) -> tuple[list[Any], list[Any]]:
    left: dict[str, list[Any]] = {}
    for name, state in states:
        left.setdefault(name, []).append(decoded(state))
    pairs = [(one, left[type(one).__name__].pop(0)) for one in _exporting(trainer) if left.get(type(one).__name__)]
    return [one for one, _ in pairs], [state for _, state in pairs]


def _exporting(trainer: Any) -> list[Any]:
    return [one for one in trainer.callback_handler.callbacks if isinstance(one, ExportableState)]
