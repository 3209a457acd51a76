"""The random numbers behind an epoch's data: where its order came from, and whether loading draws more of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keepstep.integrations.transformers.resuming.data_order import generator_of, hold_epoch, release_epoch, sampler_of
from keepstep.integrations.transformers.resuming.loop_state import LoopState
from keepstep.snapshot import random_state

_WATCHED_FETCHES = 4
"""Fetches of each epoch within which drawing random numbers would be noticed."""


class Epochs:
    """The epochs of one training.

    `start` is the random state that the running epoch's order was drawn from; `loading_draws` True once fetching a
    batch drew random numbers.
    """

    def __init__(self, trainer: Any, *, resuming: bool) -> None:
        self._trainer = trainer
        self._resumes = resuming
        self._fetched = 0
        self._order_start: str | None = None
        self._after_replay: random_state.RandomState | None = None
        self.start: random_state.RandomState | None = None
        self.loading_draws = False

    def begins(self, loop: LoopState | None, *, ended: bool) -> None:
        """Note, or on a resume in mid-epoch put back, the random state that the data order is drawn from."""
        epoch = self._trainer.state.epoch
        loader = self._trainer.callback_handler.train_dataloader
        in_mid_epoch = self._resumes and not ended and not is_whole(epoch)
        sampler, generator = sampler_of(loader), generator_of(loader)
        if in_mid_epoch and loop is not None and loop.epoch_start is not None:
            random_state.restore(loop.epoch_start)
        if self._resumes and generator is not None and loop is not None and loop.order_start is not None:
            random_state.restore_generator(generator, loop.order_start)
        if sampler is not None:
            release_epoch(sampler)
            if in_mid_epoch:
                hold_epoch(sampler, int(epoch))
        self._resumes = False
        self._fetched = 0
        self.start = random_state.capture()
        self._order_start = random_state.capture_generator(generator) if generator is not None else None

    def order_to_resume(self) -> str | None:
        """What the sampler's own generator must be set to: as the running epoch, or else the next one, found it."""
        generator = generator_of(self._trainer.callback_handler.train_dataloader)
        if generator is None or not is_whole(self._trainer.state.epoch):
            return self._order_start
        return random_state.capture_generator(generator)

    def fetch(self, fetch: Callable[[], Any]) -> Any:
        """The next batches; notes whether fetching them draws random numbers, which a resume can't repeat.

        The first fetch of an epoch draws for the order alone, a few more show the rest: watching costs time.
        """
        self._fetched += 1
        if self.loading_draws or not 1 < self._fetched <= _WATCHED_FETCHES:
            return fetch()
        before = random_state.capture()
        batches = fetch()
        self.loading_draws = random_state.capture() != before
        return batches

    def end_replayed(self) -> None:
        """What follows an epoch's last step was done once more at a resume: its random numbers are drawn."""
        self._after_replay = random_state.capture()

    def load_random_state(self, load: Callable[[], None]) -> None:
        """In place of the stock loader: after a replayed epoch end the state is the one after it."""
        if self._after_replay is None:
            load()
        else:
            random_state.restore(self._after_replay)
        if is_whole(self._trainer.state.epoch):
            self.start = random_state.capture()


def is_whole(epoch: float | None) -> bool:
    """True at the boundary between two epochs."""
    return float(epoch or 0).is_integer()
