"""A save when the process is told to stop (`enable_jit_checkpoint`): the stock handler hears, the step's end saves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from keepstep.integrations.transformers.metrics.ranking import Ranking
from keepstep.integrations.transformers.resuming.loop import Loop
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.snapshot.ranks import Ranks

_STOCK = "JITCheckpointCallback"
_FLAGS = ("is_checkpoint_requested", "checkpoint_requested")
"""What the stock manager sets when a SIGTERM has come; its name in different versions."""


class Signalled:
    """What becomes of a signal while keepstep saves: the step under way is finished, saved, and is the last.

    The stock callback would save in the middle of a step, or before its evaluation; its handler stays. Several
    processes agree at every step.
    """

    def __init__(
        self, trainer: Any, ranks: Ranks, loop: Loop, ranking: Ranking, *, is_active: Callable[[], bool]
    ) -> None:
        self._ranks = ranks
        self._loop = loop
        self._ranking = ranking
        self._managers: list[Any] = []
        for callback in trainer.callback_handler.callbacks:
            if type(callback).__name__ == _STOCK and getattr(callback, "jit_manager", None) is not None:
                callback.__class__ = _held_back(type(callback))
                callback.keepstep_is_active = is_active
                self._managers.append(callback.jit_manager)

    def say(self) -> None:
        """One line at the start of a training that hears of signals."""
        if self._managers and self._ranks.leads:
            logger.info("enable_jit_checkpoint: a SIGTERM ends the training with the step under way, saved")

    def step_ends(self, control: Any) -> None:
        """At the end of a step, when all others have said what is due."""
        if self._is_told():
            control.should_save = True

    def epoch_ends(self, control: Any) -> None:
        """At the end of an epoch; what is due there is made up for by the resume where the step is saved already."""
        if not self._is_told():
            return
        if self._ranking.is_saved:
            control.should_save = control.should_evaluate = control.should_log = False
            self.stop(control)
        else:
            control.should_save = True

    def stop(self, control: Any) -> None:
        """After a save: no further step begins. Only now, so that the checkpoint says that the training goes on."""
        if not self._loop.stops_here:
            return
        control.should_training_stop = True
        flagged = [(manager, _flag(manager)) for manager in self._managers]
        if self._ranks.leads and any(getattr(manager, flag) for manager, flag in flagged):
            logger.warning('told to stop: the training ends here; go on with train(resume_from_checkpoint="auto")')
        for manager, flag in flagged:
            setattr(manager, flag, False)

    def _is_told(self) -> bool:
        """True from the first step on at whose end the signal has come."""
        if self._managers and not self._loop.stops_here:
            told = self._ranks.together(self._has_come)  # the signal may have reached one of them alone
            self._loop.stops_here = self._ranks.agree(lambda: any(told))
        return self._loop.stops_here

    def _has_come(self) -> bool:
        return any(getattr(manager, _flag(manager)) for manager in self._managers)


def _flag(manager: Any) -> str:
    return next(name for name in _FLAGS if hasattr(manager, name))


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
