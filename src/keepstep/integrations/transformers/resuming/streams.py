"""Where a training stands in a stream, and how a resume comes to that place again."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import xxhash
from torch.utils.data import IterableDataset

from keepstep.integrations.transformers.resuming.loop_state import Place
from keepstep.integrations.transformers.resuming.samples_seen import StepAt
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.snapshot import random_state

_LOSSY = "BufferShuffledExamplesIterable"
"""The part of a stream of `datasets` whose state leaves out what it holds: rows in a buffer."""


class Elsewhere(Exception):
    """The stream's own state leads to another place than that of the save."""


class Here(NamedTuple):
    """So many batches were handed over; the stream's state, and the random numbers', before the next one was read."""

    batches: int
    state: Any = None
    note: random_state.Note | None = None


class Stream:
    """The stream that one training reads; of a training on rows that have numbers, nothing is noted.

    `epoch` is the number of the running pass, from 0, of rows that have numbers as well; `skips` are the batches that a
    resume reads and throws away in it. `doubt` is called with a sentence
    where the stream turns out to give other batches than before the save.
    """

    def __init__(self, trainer: Any, doubt: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._doubt = doubt
        self.epoch = -1
        self._resumed: Place | None = None
        self.skips = 0
        self._begin_pass()

    def _begin_pass(self) -> None:
        self._own: Iterator[Any] | None = None
        self._handed_over = 0
        self._last: Any = None
        self._began = self._next = Here(0)
        self._read: deque[tuple[Any, random_state.Note]] = deque()
        self._ended = False

    @property
    def _loader(self) -> Any:
        return self._trainer.callback_handler.train_dataloader

    @property
    def is_known(self) -> bool:
        """True where the place can be found again: a stream behind a loader that can skip."""
        loader = self._loader
        return is_stream(loader) and hasattr(loader, "skip_batches") and hasattr(loader, "set_epoch")

    @property
    def is_over(self) -> bool:
        """True once the running pass has nothing left."""
        return self._ended

    def begins(self, place: Place | None, epoch: int) -> None:
        """A pass begins: at `place`, or else at its beginning; the first of a training is `epoch`."""
        self._begin_pass()
        self.epoch = epoch if self.epoch < 0 else self.epoch + 1
        self._resumed, self.skips = None, 0
        if place is not None and self.is_known:
            self.epoch, self._resumed = place.epoch, self._usable(place)
            self.skips = self._resumed.batches - self._resumed.state_at

    def _usable(self, place: Place) -> Place:
        """The place, without a state that is of another kind of reader than that of now."""
        return place if place.kind == self._kind else place.without_state()

    # -- reading ---------------------------------------------------------------------------------------

    def reach(self, stock: Any) -> Any:
        """The iterator that the pass is read from: `stock`, or on a resume one of ours, at the place of the save.

        Raises Elsewhere where the stream's own state leads to another place: the next call does without.
        """
        if self._resumed is not None:
            place, self._resumed = self._resumed, None
            self._own = self._at(place)
        return stock if self._own is None else self._own

    def _at(self, place: Place) -> Iterator[Any]:
        loader = self._loader
        loader.set_epoch(place.epoch)
        if place.state is not None:
            self._load(place.state)
        # accelerate's loaders count them off themselves; the last one is looked at.
        loader.skip_batches = self.skips - 1
        iterator = iter(loader)
        try:
            last = next(iterator, None)
        finally:
            loader.skip_batches = 0
        if digest_of(last) != place.last:
            if place.state is not None:
                logger.info("the state of the training data leads elsewhere: it is read from the beginning of the pass")
                self._unload()
                self._read.clear()
                self._resumed, self.skips = place.without_state(), place.batches
                raise Elsewhere
            self._doubt("the training data is a stream, and gives other batches than before the save")
        self._handed_over, self._last = place.batches, last
        self._next = self._here()
        return iterator

    def reads(self, note: random_state.Note) -> None:
        """Called before the loader of this process reads a batch that will be handed over, at these random numbers."""
        if self._kind == "data set":
            self._read.append((self._loader.dataset.state_dict(), note))

    def fetched(self, batches: Sequence[Any]) -> None:
        """Note the batches that were handed over."""
        if not is_stream(self._loader):
            return
        self._ended = not batches
        if not batches:
            return
        self._began = self._next
        for _ in range(min(len(batches), len(self._read))):
            self._read.popleft()
        self._handed_over += len(batches)
        last = batches[-1]
        # What trains takes entries out.
        self._last = dict(cast("Mapping[Any, Any]", last)) if isinstance(last, Mapping) else last
        self._next = self._here()

    def _here(self) -> Here:
        if self._kind == "loader":
            return Here(self._handed_over, self._loader.state_dict())
        return Here(self._handed_over, *self._read[0]) if self._read else Here(self._handed_over)

    # -- saving ----------------------------------------------------------------------------------------

    def place(self, *, drew: bool) -> Place | None:
        """The place at a save; None where it can't be found again, or nothing of this pass is trained yet.

        `drew` is True where reading draws random numbers.
        """
        if self._resumed is not None:
            return self._resumed
        if not self.is_known or not self._handed_over:
            return None
        at, state, note = self._began
        random, own = (note.state(), note.own) if drew and note is not None else (None, None)
        place = Place(self.epoch, self._handed_over, digest_of(self._last), at, state, self._kind, random, own)
        return place if state is not None and _is_plain(state) else place.without_state()

    # -- the stream's own state ------------------------------------------------------------------------

    @property
    def _kind(self) -> str:
        """Who has a state that tells the place: the "loader" (torchdata's), the "data set", or neither ("")."""
        loader = self._loader
        if not self.is_known or self._trainer.args.world_size > 1 or _loses_rows(loader.dataset):
            return ""
        if getattr(loader, "use_stateful_dataloader", False):
            return "loader"
        alone = not self._trainer.args.dataloader_num_workers
        return "data set" if alone and _has_state(loader.dataset) else ""

    def _load(self, state: Any) -> None:
        reader = self._loader if self._kind == "loader" else self._loader.dataset
        self._before_load = reader.state_dict()
        reader.load_state_dict(state)

    def _unload(self) -> None:
        """What was loaded counts no longer: a later pass begins at its beginning."""
        data = self._loader.dataset
        if hasattr(data, "_starting_state_dict"):
            data._starting_state_dict = None
        elif self._kind == "data set":
            data.load_state_dict(self._before_load)


def is_stream(loader: Any) -> bool:
    """True for a data loader of rows that have no numbers."""
    return isinstance(getattr(loader, "dataset", None), IterableDataset)


def digest_of(batch: Any) -> str:
    """A digest of all values in a batch."""
    seen = xxhash.xxh3_128()
    for part in _parts(batch):
        seen.update(part)
    return seen.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for name, part in cast("Mapping[Any, Any]", value).items():
            yield repr(name).encode()
            yield from _parts(part)
    elif isinstance(value, (list, tuple)):
        yield str(len(cast("Sequence[Any]", value))).encode()
        for part in cast("Sequence[Any]", value):
            yield from _parts(part)
    else:
        yield (repr(value) if isinstance(value, (str, bytes, int, float, bool)) else type(value).__name__).encode()


def _has_state(data: Any) -> bool:
    return callable(getattr(data, "state_dict", None)) and callable(getattr(data, "load_state_dict", None))


def _loses_rows(data: Any) -> bool:
    """True for a stream of `datasets` whose state would come without the rows in a shuffle buffer."""
    queue = [getattr(data, "_ex_iterable", None), getattr(data, "dataset", None)]
    while queue:
        part = queue.pop()
        if part is None:
            continue
        if type(part).__name__ == _LOSSY:
            return True
        queue += [getattr(part, "_ex_iterable", None), getattr(part, "ex_iterable", None)]
        queue += getattr(part, "ex_iterables", None) or []
    return False


def _is_plain(state: Any) -> bool:
    """True for what JSON gives back as it was."""
    try:
        return json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        return False


def step_of_pass(trainer: Any, place: Place | None) -> int:
    """The step of a trainer's state as it divides by passes; as it is where there is no place to come back to."""
    step: int = trainer.state.global_step
    if place is None or trainer.args.ignore_data_skip or hasattr(trainer.train_dataset, "__len__"):
        return step
    accumulated = trainer.args.gradient_accumulation_steps
    return StepAt.of(step, place.epoch, place.batches // accumulated * accumulated)
