"""The random numbers behind an epoch's data: where its order came from, and what reading each batch drew."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from keepstep.integrations.transformers.resuming.data_order import generator_of, hold_epoch, release_epoch, sampler_of
from keepstep.integrations.transformers.resuming.fetching import each_fetch, workers_are_there
from keepstep.integrations.transformers.resuming.loop_state import Ahead, LoopState, Place
from keepstep.integrations.transformers.resuming.own_generators import OwnGenerators
from keepstep.integrations.transformers.resuming.streams import Elsewhere, Stream, is_stream
from keepstep.integrations.transformers.resuming.workers import Workers
from keepstep.snapshot import random_state

_FIRST_FETCHES = 4
"""Fetches of each epoch before which generators are looked for: some parts make theirs with the first batch."""
_MOST_AHEAD = 2
"""Batches that a loader reads ahead; where there seem to be more, it is none whose reading is understood."""


class Epochs:
    """The epochs of one training.

    `start` is the random state that the running epoch's order was drawn from, `own_start` that of the generators of the
    user's own; `loading_draws` True once fetching a batch drew random numbers.
    """

    def __init__(
        self,
        trainer: Any,
        *,
        resuming: bool,
        checkpoint: Path | None = None,
        doubt: Callable[[str], None] | None = None,
    ) -> None:
        self._trainer = trainer
        self._resumes = resuming
        self._checkpoint = checkpoint
        self._fetched = 0
        self._handed_over = 0
        self._order_start: str | None = None
        self._replayed: LoopState | None = None
        self._after: random_state.RandomState | None = None
        self._ahead: deque[random_state.Note] = deque()
        self._heard = False
        self._drew = False
        self._went_on = False
        self._known = True
        self._stream = Stream(trainer, doubt or (lambda text: None))
        self.workers = Workers(trainer)
        self.own = OwnGenerators(trainer)
        self.own_start: dict[str, Any] = {}
        self.start: random_state.RandomState | None = None
        self.loading_draws = False

    def begins(self, loop: LoopState | None, *, ended: bool) -> None:
        """Note, or on a resume in mid-epoch put back, the random state that the data order is drawn from."""
        trainer = self._trainer
        epoch = trainer.state.epoch
        loader = trainer.callback_handler.train_dataloader
        self._replayed = None
        in_mid_epoch = self._resumes and not ended and not is_whole(epoch)
        sampler, generator = sampler_of(loader), generator_of(loader)
        if in_mid_epoch and loop is not None and loop.epoch_start is not None:
            random_state.restore(loop.epoch_start)
        if self._resumes and loop is not None:
            replays = in_mid_epoch and not trainer.args.ignore_data_skip
            if replays:
                self.own.restore(loop.own_at_epoch_start)
                self._replayed = loop
            elif in_mid_epoch or trainer.args.eval_on_start:
                self.own.restore(loop.own)
            if generator is not None and loop.order_start is not None:
                random_state.restore_generator(generator, loop.order_start)
        if sampler is not None:
            release_epoch(sampler)
            if in_mid_epoch:
                hold_epoch(sampler, int(epoch))
        place = loop.stream if loop is not None and self._replayed is not None else None
        self._stream.begins(place, int(epoch or 0) if is_whole(epoch) or not is_stream(loader) else 0)
        goes_on = loop is not None and self._resumes and (self._replayed is not None or not in_mid_epoch)
        kept = loop.workers if loop is not None and goes_on else None
        self.workers.begins(kept, in_mid_epoch=self._replayed is not None)
        self._resumes = False
        self._fetched = self._handed_over = 0
        self._ahead.clear()
        self._known = self._replayed is None or self._replayed.ahead is not None
        self.own.refresh()
        self.start, self.own_start = random_state.capture(), self.own.states()
        self._order_start = random_state.capture_generator(generator) if generator is not None else None

    def order_to_resume(self) -> str | None:
        """What the sampler's own generator must be set to: as the running epoch, or else the next one, found it."""
        generator = generator_of(self._trainer.callback_handler.train_dataloader)
        if generator is None or not is_whole(self._trainer.state.epoch):
            return self._order_start
        return random_state.capture_generator(generator)

    # -- fetching --------------------------------------------------------------------------------------

    def fetch(self, fetch: Callable[[Any], Any], stock: Any) -> Any:
        """The next batches, which `fetch` takes from an iterator, the `stock` one or one that stands where it should;
        the random numbers that reading them draws are noted, or drawn as they would have been.
        """
        if self._stream.is_over:
            # transformers asks for the rest of the steps of a stream that has ended, each by itself.
            return fetch(self._stream.reach(stock))
        self._fetched += 1
        if self._fetched <= _FIRST_FETCHES:
            self.own.refresh()
        before = self.own.note() if 1 < self._fetched <= _FIRST_FETCHES else None
        self._heard = False
        batches = self._fetch(fetch, stock)
        self._stream.fetched(batches[0])
        self.workers.fetched(len(batches[0]))
        after = self.own.note()
        if self._heard:
            self._hand_over(len(batches[0]))
            self._drew = bool(self._ahead) and not self._ahead[-1].equals(after)
            self.loading_draws |= self._drew
        elif before is not None:
            self.loading_draws |= not before.equals(after)
        if self._replayed is not None and not batches[0]:
            self._go_on_as_saved(self._replayed)  # the save came at the end of a stream's pass
        if self._went_on:
            self._after, self._replayed, self._went_on = random_state.capture(), None, False
        return batches

    def _fetch(self, fetch: Callable[[Any], Any], stock: Any) -> Any:
        # Persistent workers draw their seed once, in the first epoch.
        with workers_are_there() if self._fetched == 1 and self._stream.epoch else nullcontext():
            return self._fetch_there(fetch, stock)

    def _fetch_there(self, fetch: Callable[[Any], Any], stock: Any) -> Any:
        try:
            with each_fetch(self._before_rows, self._before_reading):
                return fetch(self._stream.reach(stock))
        except Elsewhere:
            assert self._replayed is not None
            self._ahead.clear()
            self._went_on = False
            random_state.restore(self._replayed.epoch_start or random_state.capture())
            self.own.restore(self._replayed.own_at_epoch_start)
            with each_fetch(self._before_rows, self._before_reading):
                return fetch(self._stream.reach(stock))

    @property
    def place(self) -> Place | None:
        """Where the training stands in a stream, at a save."""
        return None if is_whole(self._trainer.state.epoch) else self._stream.place(drew=self.loading_draws)

    @property
    def unfinished(self) -> str:
        """In words, where a stream's pass ended inside of a step: the next pass adds to its gradients."""
        place = self.place
        if place is None or not place.batches % self._trainer.args.gradient_accumulation_steps:
            return ""
        return "the stream's pass ended inside of a step, whose gradients are not kept"

    @property
    def ahead(self) -> Ahead | None:
        """What has been read beyond the batches that were handed over, at a save; None where that is not known."""
        if not self._fetched or is_whole(self._trainer.state.epoch):
            return Ahead(0, self._handed_over)
        if not (self._heard and self._known) or len(self._ahead) > _MOST_AHEAD:
            return None
        if not self._ahead or not self._drew:
            return Ahead(len(self._ahead), self._handed_over)
        note = self._ahead[0]
        return Ahead(len(self._ahead), self._handed_over, note.state(), note.own)

    def _hand_over(self, batches: int) -> None:
        self._handed_over += batches
        for _ in range(min(batches, len(self._ahead))):
            self._ahead.popleft()

    def _before_rows(self, number: int) -> None:
        self._heard = True
        loop = self._replayed
        if loop is not None and loop.ahead is not None and number == self._skipped(loop.ahead) + loop.ahead.batches > 0:
            self._go_on_as_saved(loop)

    def _before_reading(self, number: int) -> None:
        """Of a resume in mid-epoch: what had been read ahead of the save is read from the state that it was then."""
        loop = self._replayed
        if loop is not None and loop.ahead is not None:
            skipped = self._skipped(loop.ahead)
            if number == skipped:
                self._ahead.clear()
                self._handed_over = loop.ahead.handed_over
                if loop.ahead.random is not None:
                    random_state.restore(loop.ahead.random)
                    self.own.restore(loop.ahead.own, samplers=False)
            if number == skipped + loop.ahead.batches and not self._went_on:
                self._go_on_as_saved(loop)
            if number < skipped:
                self._before_skipping(number, loop.stream)
                return
        note = self.own.note()
        self._ahead.append(note)
        self._stream.reads(note)

    def _before_skipping(self, number: int, place: Place | None) -> None:
        """Of a stream that goes on from a state of its own: what is read there once more is drawn as it was."""
        if number == 0 and place is not None and place.random is not None and self._stream.skips < place.batches:
            random_state.restore(place.random)
            self.own.restore(place.own, samplers=False)

    def _go_on_as_saved(self, loop: LoopState) -> None:
        """From here on everything is drawn from the state of the save."""
        self._trainer._load_rng_state(str(self._checkpoint))
        self.own.restore(loop.own, samplers=False)
        self._went_on = True

    def _skipped(self, ahead: Ahead) -> int:
        """How many batches the loader reads and throws away, to come to the place of the save: streams do so."""
        if not is_stream(self._trainer.callback_handler.train_dataloader):
            return 0
        return self._stream.skips or ahead.handed_over

    # -- random states ---------------------------------------------------------------------------------

    def end_replayed(self) -> None:
        """What follows an epoch's last step was done once more at a resume: its random numbers are drawn."""
        self._after = random_state.capture()

    def load_random_state(self, load: Callable[[], None]) -> None:
        """In place of the stock loader: where numbers were drawn that follow the save, the state after them counts."""
        if self._after is None:
            load()
        else:
            random_state.restore(self._after)
        if self._replayed is not None and not self._heard:
            # Workers, or a loader of another make, have read: nobody could tell them when.
            self.own.restore(self._replayed.own, samplers=False)
            self._replayed = None
        if is_whole(self._trainer.state.epoch):
            self.start = random_state.capture()


def is_whole(epoch: float | None) -> bool:
    """True at the boundary between two epochs."""
    return float(epoch or 0).is_integer()
