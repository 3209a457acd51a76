"""Which samples of the running epoch were trained on: where a training stands in its data, whatever its batches are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.data import BatchSampler, IterableDataset
from transformers.trainer_utils import has_length


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training stands in its data.

    `epoch` is counted from 0, `batches` those of each process that its running epoch has had, by the Trainer's count;
    with `shift` samples more they are the samples that were seen. A batch of all processes together has `batch`
    samples, a step `accumulation` of them; an epoch has `length` batches, and `rows` samples. `grouping` is the size by
    which the sampler groups rows by their length, None where it does not.
    """

    epoch: int
    batches: int
    shift: int
    batch: int
    accumulation: int
    processes: int
    length: int
    rows: int
    grouping: int | None = None

    @property
    def samples(self) -> int:
        """How many samples of the running epoch were seen."""
        return min(max(self.batches * self.batch + self.shift, 0), self.rows)

    @property
    def steps_of_epoch(self) -> int:
        """Optimizer steps of a whole epoch."""
        return max(-(-self.length // self.accumulation), 1)

    def divides_as(self, other: Place) -> bool:
        """True where both divide an epoch into the same batches and steps."""
        return (self.batch, self.accumulation, self.processes) == (other.batch, other.accumulation, other.processes)

    def is_counted_at(self, step: int) -> bool:
        """True where the Trainer finds this place by itself, from the number of steps."""
        there = divmod(step, self.steps_of_epoch)
        return self.shift == 0 and (self.epoch, self.batches) == (there[0], there[1] * self.accumulation)

    def steps_counted(self) -> int:
        """At which step the Trainer would be here, had it trained by these batches from the begin."""
        within = self.steps_of_epoch if self.batches >= self.length else self.batches // self.accumulation
        return self.epoch * self.steps_of_epoch + within

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class StepAt(int):
    """A number of steps, of which the Trainer finds out the epoch and the batches in it by a place.

    It derives them by `step // steps_of_epoch` and `step % steps_of_epoch * accumulation`: here these are the epoch and
    the batches of a place.
    """

    epoch: int
    batches: int

    @classmethod
    def of(cls, step: int, epoch: int, batches: int) -> StepAt:
        """The number `step`, at a place: an epoch, or a pass of a stream, and the batches that it has had."""
        number = cls(step)
        number.epoch, number.batches = epoch, batches
        return number

    def __floordiv__(self, steps: int) -> int:
        return self.epoch

    def __mod__(self, steps: int) -> Any:
        return _Batches(self.batches)


class _Batches(int):
    """Batches already: they don't become more by being multiplied with those of a step."""

    def __mul__(self, accumulation: int) -> int:
        return int(self)


def batch_sampler_of(loader: Any) -> Any:
    """The innermost batch sampler of a prepared data loader; None where there is none that draws from a sampler."""
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return None
    found: Any = getattr(loader, "batch_sampler", None)
    while hasattr(found, "batch_sampler"):
        found = found.batch_sampler
    sampler = getattr(found, "sampler", None)
    return found if type(found) is BatchSampler and hasattr(sampler, "__dict__") and has_length(sampler) else None


def place_of(trainer: Any, loader: Any) -> Place | None:
    """Where a training stands, by its state; None where its data has no length."""
    if loader is None or not has_length(loader) or not len(loader):
        return None
    epoch = float(trainer.state.epoch or 0.0)
    return division_of(trainer, loader, int(epoch), round((epoch - int(epoch)) * len(loader)), 0)


def division_of(trainer: Any, loader: Any, epoch: int, batches: int, shift: int) -> Place:
    """A place in an epoch that is divided as this training divides it."""
    sampler = getattr(batch_sampler_of(loader), "sampler", None)
    batch = getattr(loader, "total_batch_size", None) or trainer._train_batch_size * trainer.args.world_size
    grouping = getattr(sampler, "batch_size", None)
    return Place(
        epoch, batches, shift, int(batch), trainer.args.gradient_accumulation_steps, trainer.args.world_size,
        len(loader), len(sampler) if sampler is not None else len(loader.dataset),
        grouping if isinstance(grouping, int) else None,
    )  # fmt: skip


def batches_left(loader: Any, samples: int) -> int:
    """How many batches of each process an epoch has after its first samples."""
    sampler = batch_sampler_of(loader).sampler
    kind = type(sampler)
    length = len(sampler) - samples
    sampler.__class__ = type(kind.__name__, (kind,), {"__len__": lambda _: length})
    try:
        return len(loader)
    finally:
        sampler.__class__ = kind


def pass_over(loader: Any, *, seen: int, counted: int, grouping: int | None) -> None:
    """Let the next order that is drawn go on at sample `seen` where the loader passes over the first `counted`.

    `grouping` is the size by which a sampler that groups by length drew that order.
    """
    sampler = batch_sampler_of(loader).sampler
    kind = type(sampler)

    def order(self: Any) -> Iterator[Any]:
        self.__class__ = kind
        now = getattr(self, "batch_size", None)
        if grouping is not None:
            self.batch_size = grouping
        drawn = iter(self)
        if grouping is not None:
            self.batch_size = now
        between: list[Any] = []
        for number, index in enumerate(drawn):
            if number < counted:
                yield index
            if number >= seen:
                between.append(index)
            if number >= counted - 1:
                yield from between
                between.clear()

    sampler.__class__ = type(kind.__name__, (kind,), {"__iter__": order})
