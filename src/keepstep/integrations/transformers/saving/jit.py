"""transformers' own save at a SIGTERM (`enable_jit_checkpoint`), switched off where keepstep carries out its wish."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

_STOCK = "JITCheckpointCallback"


class StockSignals:
    """The stock callbacks of a trainer: they would save in the middle of a step, or before its evaluation."""

    def __init__(self, trainer: Any, *, is_active: Callable[[], bool]) -> None:
        """Hold them back while `is_active`; outside of a managed training they do as ever."""
        self._managers: list[Any] = []
        for callback in trainer.callback_handler.callbacks:
            if type(callback).__name__ == _STOCK and getattr(callback, "jit_manager", None) is not None:
                callback.__class__ = _held_back(type(callback))
                callback.keepstep_is_active = is_active
                self._managers.append(callback.jit_manager)

    @property
    def wanted(self) -> bool:
        """True where the trainer's arguments ask for a save at a SIGTERM."""
        return bool(self._managers)

    def owns(self, handler: Any) -> bool:
        """True for the handler of a signal that is theirs."""
        return any(getattr(handler, "__self__", None) is manager for manager in self._managers)


@cache
def _held_back(stock: type) -> type:
    """The stock callback, which does nothing of its own while keepstep manages a training."""

    def quiet(event: str) -> Any:
        def on_event(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if self.keepstep_is_active():
                return None
            return getattr(super(held_back, self), event)(args, state, control, **kwargs)

        return on_event

    events = ("on_pre_optimizer_step", "on_step_begin", "on_step_end", "on_epoch_end")
    held_back: Any = type(stock.__name__, (stock,), {event: quiet(event) for event in events})
    return held_back
