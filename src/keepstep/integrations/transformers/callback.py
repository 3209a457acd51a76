"""The callbacks through which a session hears where the training loop stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.bystanders import acts

if TYPE_CHECKING:
    from keepstep.integrations.transformers.session import Session

EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
"""What a Trainer tells its callbacks, in every supported version."""


class SessionCallback(TrainerCallback):
    """Tells the session; decides nothing. It must be the last callback, so that others have acted before it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.active:
            self._session.begin(kwargs.get("train_dataloader"))
            self._session.stops.begins(control)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.active:
            self._session.rescue.fetches()
            self._session.loop.epoch_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.loop.step_ends()
        self._session.rescue.step_ends()
        if not self._session.active:
            return
        self._session.stops.step_ends(control)  # first: it asks whether the others are there still
        if self._session.saves.asks_for_save(logs=control.should_log):
            control.should_save = True
        self._save_the_last(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.loop.epoch_ends()
        if self._session.active:
            self._save_the_last(control)
            self._session.stops.epoch_ends(control)

    def _save_the_last(self, control: Any) -> None:
        """What a training ends with is saved, whoever ends it, and whether or not the schedule asks for it."""
        if self._session.saves.is_missed():
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.active:
            self._session.share_receipt()
            self._session.stops.saved(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation that others run counts where the Trainer runs none itself."""
        if self._session.active and plain(args.eval_strategy) == "no":
            self._session.ranking.note(kwargs.get("metrics") or {}, join=True)
        if self._session.active:
            self._save_the_last(control)
            self._session.stops.evaluated(control)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session.active:
            self._session.stops.predicts()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self._session.active:
            self._session.logbook.log(state.global_step, logs or {})
            self._save_the_last(control)
            self._session.stops.holds(control)


class GateCallback(TrainerCallback):
    """Holds back whoever could change a state that is still being copied: the optimizer, and callbacks of others.

    It must be the first callback.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.override.samples.told()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._session.saves.gate()


def _gate_before_others(event: str) -> Callable[..., None]:
    def gate(self: GateCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        session = self._session
        if session.saves.copying and acts(session.trainer.callback_handler.callbacks, event):
            session.saves.gate()

    return gate


for _event in EVENTS:
    if _event not in vars(GateCallback):
        setattr(GateCallback, _event, _gate_before_others(_event))


@contextmanager
def listening(session: Session) -> Iterator[None]:
    """While it lasts, a session hears of its trainer's events: before all other callbacks there are, and after them.

    Between trainings a trainer has the callbacks that its user gave it, and no other.
    """
    handler = session.trainer.callback_handler
    first, last = GateCallback(session), SessionCallback(session)
    handler.callbacks[:] = [first, *handler.callbacks, last]
    try:
        yield
    finally:
        handler.callbacks[:] = [one for one in handler.callbacks if one is not first and one is not last]
