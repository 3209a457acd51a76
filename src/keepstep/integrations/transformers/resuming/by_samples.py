"""A resume that finds its place in the data by the samples that were seen, where steps would lead elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import RandomSampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length

from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.samples_seen import (
    Place,
    StepAt,
    batch_sampler_of,
    batches_left,
    division_of,
    pass_over,
    place_of,
)


class BySamples:
    """The place of one training in its data; `start` begins it anew for each training.

    `before` is the place that a checkpoint was saved at, `now` the same place as this training divides its data, both
    None where the Trainer finds it by itself. `max_steps` is how many steps the training has in all.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.start()

    def start(self) -> None:
        """Begin a training, at its beginning."""
        self._state: Mapping[str, Any] = {}
        self._recorded: Place | None = None
        self._directory: Path | None = None
        self._asked = False
        self._step = 0
        self._processes = 0
        self._loader: Any = None
        self._due = self._short = self._loads_late = False
        self._accumulated: int | None = None
        self._load: Callable[[], None] | None = None
        self.before: Place | None = None
        self.now: Place | None = None
        self.max_steps = 0

    def read(
        self, directory: Path, state: Mapping[str, Any], place: Any, *, saved_by: Mapping[str, Any], asked: bool
    ) -> None:
        """Hear of the checkpoint that is resumed from, and whether its batches may change by what is `asked`.

        `state` is its trainer_state.json, `place` what its loop state has of its place, `saved_by` its number of
        `processes`, and of batches in a step (`accumulation`), each None where it is not known.
        """
        self._directory, self._state, self._step = directory, state, int(state["global_step"])
        self._recorded = Place(**place) if place else None
        self._processes = saved_by["processes"] or 1
        self._accumulated = saved_by["accumulation"]
        self._asked = asked

    def here(self) -> dict[str, Any] | None:
        """What a save records of the place; None where the data has no length."""
        place = place_of(self._trainer, self._trainer.callback_handler.train_dataloader)
        if place is None:
            return None
        found = place.to_json()
        if self.before is not None and self.now is not None and place.batches and place.epoch == self.now.epoch:
            found |= {"shift": self.now.shift, "grouping": self.before.grouping}
        return found

    # -- before the loop -------------------------------------------------------------------------------

    def plan(self, values: tuple[Any, ...], loader: Any) -> tuple[Any, ...]:
        """What the Trainer works out before its loop (epochs, steps of an epoch, ..., all steps), put right.

        Raises ResumeRefused where the place can't be found.
        """
        self.before = self.now = None
        self.max_steps = int(values[-1])
        if self._directory is None or not self._step:
            return values
        if not has_length(loader) or not len(loader):
            self._refuse_stream()
            return values
        before = self._recorded or (self._told_by_state(loader) if self._asked else None)
        if before is None:
            return values
        as_now = division_of(self._trainer, loader, before.epoch, 0, 0)
        changed = not as_now.divides_as(before)
        regrouped = not changed and before.grouping != as_now.grouping
        if not (changed and self._asked) and before.is_counted_at(self._step) and not regrouped:
            return values
        self.before, self._loader = before, loader
        now = self.now = self._placed(before, as_now, loader)
        beyond = self._step - now.steps_counted()
        self._short = now.batches % now.accumulation != 0
        self._due = before.samples > 0 and not self._trainer.args.ignore_data_skip
        epochs, steps_of_epoch = values[0], values[1]
        if self._trainer.args.max_steps > 0:
            epochs = math.ceil((self.max_steps - beyond) / steps_of_epoch)
        else:
            self.max_steps += beyond
        return (epochs, *values[1:-1], self.max_steps)

    def _placed(self, before: Place, as_now: Place, loader: Any) -> Place:
        if self._trainer.args.ignore_data_skip or not before.samples:
            return as_now
        seen = before.samples
        if before.divides_as(as_now):
            counted, shift = before.batches, before.shift
        else:
            self._refuse_order(loader)
            counted = len(loader) - batches_left(loader, seen)
            shift = seen - counted * as_now.batch
        if shift:
            self._refuse_order(loader)
        return division_of(self._trainer, loader, before.epoch, counted, shift)

    def _told_by_state(self, loader: Any) -> Place | None:
        """The place of a checkpoint that does not record it, from what stock files say."""
        size, epoch = self._state.get("train_batch_size"), float(self._state.get("epoch") or 0.0)
        if not size:
            raise ResumeRefused(
                f"{self._directory} does not say by which batches it was trained", hint=_hint("the batch")
            )
        sampler = getattr(batch_sampler_of(loader), "sampler", None)
        rows = len(sampler) if sampler is not None else len(loader.dataset)
        batch = int(size) * self._processes
        length = rows // batch if self._trainer.args.dataloader_drop_last else -(-rows // batch)
        batches = round((epoch - int(epoch)) * length)
        return Place(int(epoch), batches, 0, batch, self._accumulated or 1, self._processes, length, rows, None)

    def _refuse_stream(self) -> None:
        args, size = self._trainer.args, self._state.get("train_batch_size")
        same = (size, self._processes) == (self._trainer._train_batch_size, args.world_size)
        same = same and self._accumulated in (None, args.gradient_accumulation_steps)
        if self._asked and not same and not args.ignore_data_skip:
            raise ResumeRefused(
                "the training data is a stream without a length: with other batches its place can't be told by samples",
                hint=_hint("the batch"),
            )

    def _refuse_order(self, loader: Any) -> None:
        """Raises ResumeRefused where another batch makes another order of the epoch that is under way."""
        found = batch_sampler_of(loader)
        sampler = getattr(found, "sampler", None)
        if isinstance(sampler, (RandomSampler, SequentialSampler, LengthGroupedSampler)):
            return
        if found is not None and not hasattr(sampler, "batch_size"):
            return  # a sampler of rows, which knows of no batches
        name = type(sampler or getattr(loader, "batch_sampler", None) or loader).__name__
        raise ResumeRefused(
            f"the order of {name} hangs on the batch: with another one the samples of the running epoch can't be told",
            hint=_hint("the batch"),
        )

    # -- in the loop -----------------------------------------------------------------------------------

    def tell(self, state: Any) -> None:
        """Let the Trainer find the place, from the state that it has just read."""
        if self.now is not None:
            state.global_step = StepAt.of(int(state.global_step), self.now.epoch, self.now.batches)
            state.train_batch_size = self._trainer._train_batch_size

    def told(self) -> None:
        """The Trainer has found its place: from here on steps are numbers as any other."""
        trainer = self._trainer
        trainer.state.global_step = int(trainer.state.global_step)
        for name in ("_initial_global_step", "_globalstep_last_logged"):
            if isinstance(getattr(trainer, name, None), StepAt):
                setattr(trainer, name, int(getattr(trainer, name)))

    def epoch_begins(self) -> None:
        """Called before an epoch's data order is drawn: that of the first goes on where the checkpoint stood."""
        if self._due and self.before is not None and self.now is not None:
            self._due = False
            grouping = self.before.grouping if self.before.grouping != self.now.grouping else None
            if self.now.shift or grouping:
                counted = self.now.batches * self.now.batch
                pass_over(self._loader, seen=self.before.samples, counted=counted, grouping=grouping)
            self._loads_late = self.now.batches == 0

    def postpones(self, load: Callable[[], None]) -> bool:
        """True where the random state is to be loaded after the first batches, which `fetched` does.

        Where no batch is passed over the Trainer loads it before the order of the running epoch is drawn.
        """
        if self._loads_late:
            self._load = load
        return self._loads_late

    def fetches(self, batches: int) -> int:
        """How many batches are fetched where a step asks for some: the first step of a resume may have had its first
        ones.
        """
        self._loads_late = False
        if not self._short or self.now is None:
            return batches
        return batches - self.now.batches % self.now.accumulation

    def fetched(self) -> None:
        """The batches of a step are there."""
        load, self._load = self._load, None
        if load is not None:
            load()
        if self._short:
            self._short, trainer = False, self._trainer
            # The Trainer begins a step with its first batch, and this one goes on in the middle of its own.
            trainer.control = trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)


def _hint(what: str) -> str:
    return (
        f"Put {what} back as it was, resume from the end of an epoch, or begin the epoch anew: ignore_data_skip=True."
    )
