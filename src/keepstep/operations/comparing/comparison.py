"""The comparison of two checkpoints: facts first, then tensor by tensor, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from keepstep.formats.change import Sums
from keepstep.formats.dcp_tensors import DcpTensors, ShardedPlace
from keepstep.formats.tensor_places import TensorPlace
from keepstep.model import Checkpoint
from keepstep.operations.comparing.sides import Side
from keepstep.operations.comparing.tensors import NotRead, Pair, TensorChange, Tensors, pairs
from keepstep.operations.seeing.differences import Change, differences
from keepstep.strict import finite_or_name

ELEMENTS = 2**18
"""Elements of a piece."""
THREADS = 4
"""Pieces that are read and compared at a time."""
WRITTEN_BY = "written by"
NO_TORCH = "values need torch, which is not installed"
NOT_ASKED = "values were not asked for"


class Arithmetic(Protocol):
    """What computes: the engine, which needs torch and is imported where it is needed."""

    def measure(self, before: memoryview, after: memoryview, dtypes: tuple[str, str], /) -> Sums:
        """The sums over the elements in two pieces of memory. Raises ValueError for a dtype that it does not know."""
        ...

    def one_thread(self) -> None:
        """Called once in each thread that measures."""
        ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is to be compared: `changes` is known without reading a tensor; `unknown` are sections of the fingerprint
    that only one side has. `asked` is False where no values are.
    """

    before: Side
    after: Side
    changes: tuple[Change, ...]
    unknown: tuple[str, ...]
    pairs: tuple[Pair, ...]
    not_read: tuple[NotRead, ...]
    asked: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes that are read for it."""
        return sum(pair.nbytes for pair in self.pairs) if self.asked else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it came to: tensors by their change, the largest first, and the sums over all weights that were compared."""

    comparison: Comparison
    tensors: tuple[TensorChange, ...]
    total: Sums

    @property
    def compared(self) -> int:
        """Tensors whose values were compared."""
        return sum(tensor.sums is not None for tensor in self.tensors)

    @property
    def unchanged(self) -> int:
        """Tensors without an element that changed."""
        return sum(tensor.sums is not None and tensor.sums.same for tensor in self.tensors)

    def to_json(self, limit: int | None = None) -> dict[str, Any]:
        """Plain values for machines; of the tensors no more than `limit`."""
        comparison, total = self.comparison, self.total
        return {
            "before": comparison.before.to_json(),
            "after": comparison.after.to_json(),
            "differences": [change.to_json() for change in comparison.changes],
            "known_of_one_only": list(comparison.unknown),
            "not_read": [one.to_json() for one in comparison.not_read],
            "tensors_in_all": len(self.tensors),
            "tensors_compared": self.compared,
            "tensors_unchanged": self.unchanged,
            "elements": total.elements,
            "unchanged": total.share_unchanged if self.compared else None,
            "relative_change": finite_or_name(total.relative) if self.compared else None,
            "tensors": [tensor.to_json() for tensor in self.tensors[:limit]],
        }


def plan_comparison(before: Side, after: Side, *, optimizer: bool = False, values: bool = True) -> Comparison:
    """Everything but the values of the tensors. Raises OSError."""
    first, second = (_known_of(side) for side in (before, after))
    unknown = tuple(sorted(first ^ second))
    common = [_with_sections(side.checkpoint, first & second) for side in (before, after)]
    if common[0].run_id != common[1].run_id:
        common = [replace(checkpoint, timeline=1) for checkpoint in common]  # each run counts its own
    one, two = Tensors.of(before, optimizer=optimizer), Tensors.of(after, optimizer=optimizer)
    return Comparison(
        before, after, differences(*common), unknown, tuple(pairs(one, two)), (*one.not_read, *two.not_read), values
    )


def compare(
    comparison: Comparison,
    arithmetic: Arithmetic | None,
    on_start: Callable[[str], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Outcome:
    """Read the tensors and compare them; `arithmetic` is None where nothing can. `on_start` hears each name.

    Memory is that of `THREADS` pieces of `ELEMENTS` elements, however large a tensor is. Raises OSError.
    """
    tensors: list[TensorChange] = []
    total = Sums()
    pool = ThreadPoolExecutor(
        min(THREADS, os.cpu_count() or 1), initializer=arithmetic.one_thread if arithmetic else None
    )
    try:
        for pair in comparison.pairs:
            why = pair.why_not or ("" if comparison.asked else NOT_ASKED) or ("" if arithmetic else NO_TORCH)
            sums: Sums | None = None
            if not why and arithmetic is not None:
                if on_start is not None:
                    on_start(pair.name)
                try:
                    sums = _sums(pair, arithmetic, pool, on_bytes)
                    total = total if pair.of_optimizer else total.and_(sums)
                except ValueError as error:
                    why = str(error)
            tensors.append(TensorChange(pair, sums, why))
    finally:
        pool.shutdown(cancel_futures=True)
    return Outcome(comparison, tuple(sorted(tensors, key=lambda tensor: tensor.order)), total)


def _sums(pair: Pair, arithmetic: Arithmetic, pool: ThreadPoolExecutor, on_bytes: Callable[[int], None] | None) -> Sums:
    before, after = pair.before, pair.after
    assert before is not None and after is not None
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(_OfRanks(place) if isinstance(place, ShardedPlace) else _Opened(place))
            for place in (before, after)
        )

        def measured(start: int) -> Sums:
            return arithmetic.measure(one.piece(start), two.piece(start), (before.dtype, after.dtype))

        total = Sums()
        for sums in pool.map(measured, range(0, before.elements, ELEMENTS)):
            total = total.and_(sums)
            if on_bytes is not None:
                on_bytes(sums.elements * pair.nbytes // before.elements)
    return total


class _Opened:
    """A tensor's file, open: pieces of so many elements."""

    def __init__(self, place: TensorPlace) -> None:
        self._place = place
        self._size = place.nbytes // max(place.elements, 1)

    def __enter__(self) -> _Opened:
        self._descriptor = os.open(self._place.path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def piece(self, start: int) -> memoryview:
        """The elements from `start` on. Raises ValueError where the file ends before them."""
        place = self._place
        whole = memoryview(bytearray(min(ELEMENTS, place.elements - start) * self._size))
        rest, offset = whole, place.offset + start * self._size
        while rest.nbytes:
            got = os.preadv(self._descriptor, [rest], offset)
            if not got:
                raise ValueError(f"{place.path.name} is shorter than its header says")
            rest, offset = rest[got:], offset + got
        return whole


class _OfRanks:
    """A tensor that ranks wrote, their files open: pieces of so many elements."""

    def __init__(self, place: ShardedPlace) -> None:
        self._place = place
        self._size = place.nbytes // max(place.elements, 1)
        self._tensors = DcpTensors(place.path, place.metadata)

    def __enter__(self) -> _OfRanks:
        self._tensors.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._tensors.__exit__()

    def piece(self, start: int) -> memoryview:
        """The elements from `start` on. Raises ValueError where a rank's file is missing, cut or another one."""
        whole = memoryview(bytearray(min(ELEMENTS, self._place.elements - start) * self._size))
        self._tensors.read(self._place.name, whole, start)
        return whole


def _known_of(side: Side) -> set[str]:
    """Sections of the fingerprint, and who wrote it where a manifest says so."""
    return set(side.checkpoint.fingerprint) | ({WRITTEN_BY} if side.committed else set[str]())


def _with_sections(checkpoint: Checkpoint, sections: set[str]) -> Checkpoint:
    kept = {name: value for name, value in checkpoint.fingerprint.items() if name in sections}
    written_by = checkpoint.written_by if WRITTEN_BY in sections else dict[str, Any]()
    return replace(checkpoint, fingerprint=kept, written_by=written_by)
