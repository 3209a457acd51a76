"""Where the random numbers of a data loader's workers stand, so that a resume has them go on from there.

Each worker draws from generators of its own, in a process that ends with the epoch. It notes where they stand after
each batch, in memory that it shares with the training.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from keepstep.integrations.transformers.resuming.streams import is_stream
from keepstep.snapshot import random_state

_SIZE = 1 << 15
"""Bytes of a slot; a state takes 10 KB to 15 KB."""
_SPARE = 4
"""Slots beyond the batches that a worker prepares ahead: what accelerate reads ahead, and where the worker began."""


Kept = dict[str, Any]
"""The `states` of workers, packed, by their numbers, and which of them prepares the `next` batch."""


class Slots:
    """The last states of each worker, in shared memory."""

    def __init__(self, workers: int, ahead: int) -> None:
        self._number = ahead + _SPARE
        self._memory = torch.zeros((workers, self._number, _SIZE), dtype=torch.uint8).share_memory_()
        self._noted = 0

    def begin(self, worker: int) -> None:
        """In a worker: it has not prepared anything yet."""
        self._noted = 0
        self._write(worker)

    def note(self, worker: int) -> None:
        """In a worker: one more batch is prepared."""
        self._noted += 1
        self._write(worker)

    def read(self, worker: int, batches: int) -> str:
        """In the training: the state after so many batches of a worker; "" where none is there."""
        slot = self._memory[worker, batches % self._number]
        length = int.from_bytes(slot[:4].numpy().tobytes(), "little")
        return base64.b64encode(slot[4 : 4 + length].numpy().tobytes()).decode("ascii") if length else ""

    def _write(self, worker: int) -> None:
        packed = zlib.compress(json.dumps(random_state.capture()).encode(), 1)
        length = len(packed) if len(packed) <= _SIZE - 4 else 0
        data = length.to_bytes(4, "little") + packed[:length]
        slot = self._memory[worker, self._noted % self._number]
        slot[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)


class Noting:
    """A collator that notes, in a worker, where the random numbers stand after its batch."""

    def __init__(self, collate: Callable[[Any], Any], slots: Slots) -> None:
        self._collate = collate
        self._slots = slots

    def __call__(self, rows: Any) -> Any:
        """The batch."""
        batch = self._collate(rows)
        worker = get_worker_info()
        if worker is not None:
            self._slots.note(worker.id)
        return batch


class Beginning:
    """How a worker begins: as it would, and then from a state of an earlier life, where there is one."""

    def __init__(self, begin: Callable[[int], None] | None, slots: Slots) -> None:
        self._begin = begin
        self._slots = slots
        self.states: Sequence[str] = ()

    def __call__(self, worker: int) -> None:
        """Called in each worker by its number."""
        if self._begin is not None:
            self._begin(worker)
        if worker < len(self.states):
            packed = base64.b64decode(self.states[worker])
            random_state.restore(json.loads(zlib.decompress(packed)))
        self._slots.begin(worker)


class Workers:
    """The workers that prepare the batches of one training; without any, nothing happens.

    A resume in mid-epoch has the next batch prepared by its first worker: each stands for another one of the training
    before. What is saved goes by the numbers that they had there.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._slots: Slots | None = None
        self._number = 0
        self._handed_over = 0
        self._first = 0
        self._before: list[int] = []
        self._apart = False

    def begins(self, kept: Kept | None, *, in_mid_epoch: bool) -> None:
        """An epoch begins: with workers that go on from what was `kept`, that stayed, or as torch seeds them."""
        loader: Any = getattr(self._trainer.callback_handler.train_dataloader, "base_dataloader", None)
        if not self._can_note(loader):
            self._slots = None
            return
        staying = loader.persistent_workers and self._slots is not None
        ended = self.keep(ended=True) if staying else None
        if self._slots is None:
            self._slots = Slots(loader.num_workers, loader.prefetch_factor or 2)
            loader.worker_init_fn = Beginning(loader.worker_init_fn, self._slots)
            loader.collate_fn = Noting(loader.collate_fn, self._slots)
            self._number = loader.num_workers
        if staying and not self._apart:
            self._before = [self._done(worker) for worker in range(self._number)]
            self._handed_over = 0
            return
        states, self._first = self._in_turn(kept if ended is None else ended)
        loader.worker_init_fn.states = states
        self._before, self._handed_over = [0] * self._number, 0
        # transformers reads the rest of an epoch through a loader of its own, whose workers end with it.
        self._apart = in_mid_epoch

    def _in_turn(self, kept: Kept | None) -> tuple[list[str], int]:
        if kept is None or len(kept["states"]) != self._number:
            return [], 0
        first = int(kept["next"])
        return [kept["states"][(first + place) % self._number] for place in range(self._number)], first

    def fetched(self, batches: int) -> None:
        """So many batches more were handed over."""
        self._handed_over += batches

    def keep(self, *, ended: bool = False) -> Kept | None:
        """What the workers have to go on from, at a save or where an epoch has `ended`; None where it is unknown."""
        slots = self._slots
        if slots is None or not self._handed_over:
            return None
        states = [""] * self._number
        for worker in range(self._number):
            states[(self._first + worker) % self._number] = slots.read(worker, self._done(worker))
        following = 0 if ended else (self._first + self._handed_over) % self._number
        return {"next": following, "states": states} if all(states) else None

    def at_save(self, *, in_mid_epoch: bool) -> Kept | None:
        """What a save holds: between two epochs only what persistent workers go on from."""
        loader: Any = getattr(self._trainer.callback_handler.train_dataloader, "base_dataloader", None)
        if not in_mid_epoch and not getattr(loader, "persistent_workers", False):
            return None
        return self.keep(ended=not in_mid_epoch)

    def _done(self, worker: int) -> int:
        """The batches that a process has handed over."""
        return self._before[worker] + (self._handed_over - worker + self._number - 1) // self._number

    def _can_note(self, loader: Any) -> bool:
        return (
            type(loader) is DataLoader
            and loader.num_workers > 0
            and not is_stream(loader)
            and getattr(loader, "in_order", True)
            and self._trainer.args.world_size == 1
        )
