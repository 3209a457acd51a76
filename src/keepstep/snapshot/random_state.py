"""The state of all random generators of this process: python, numpy, torch on the CPU and on CUDA devices."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from keepstep.snapshot import generators

RandomState = dict[str, Any]
"""Plain JSON values: word lists for python and numpy, base64 of the generators' bytes for torch."""


def capture() -> RandomState:
    """The state now; `restore` of it makes every generator go on from here. CUDA only where it is in use."""
    state = _plain(random.getstate(), np.random.get_state(), torch.random.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = [_encode(device) for device in torch.cuda.get_rng_state_all()]
    return state


def restore(state: RandomState) -> None:
    """Put a captured state back. CUDA states beyond the devices that are there are left out."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), position, has_gauss, gauss))
    torch.random.set_rng_state(_decode(state["torch"]))
    for index, encoded in enumerate(state.get("cuda", ())):
        if index < torch.cuda.device_count():
            torch.cuda.set_rng_state(_decode(encoded), index)


@dataclass(frozen=True, slots=True)
class Note:
    """What all generators on the CPU, and some of one's own, stood at: cheap to take, to be compared and kept.

    `own` has the states of one's own generators, by name; those that have none are left out.
    """

    python: Any
    numpy: Any
    torch: torch.Tensor
    own: dict[str, generators.State]

    def equals(self, other: Note) -> bool:
        """True when nothing was drawn between the two."""
        return (
            self.python == other.python
            and self.own == other.own
            and torch.equal(self.torch, other.torch)
            and all(np.array_equal(mine, theirs) for mine, theirs in zip(self.numpy, other.numpy, strict=True))
        )

    def state(self) -> RandomState:
        """The same as `restore` takes it, one's own generators left out."""
        return _plain(self.python, self.numpy, self.torch)


def note(own: Mapping[str, Any]) -> Note:
    """What the generators stand at now, with `own` by name."""
    return Note(random.getstate(), np.random.get_state(), torch.random.get_rng_state(), states(own))


def states(own: Mapping[str, Any]) -> dict[str, generators.State]:
    """The states of generators by name; those that have none are left out."""
    found: dict[str, generators.State] = {}
    for name, generator in own.items():
        with suppress(TypeError):
            found[name] = generators.state_of(generator)
    return found


def capture_generator(generator: torch.Generator) -> str:
    """The state of a generator of its own, as base64 of its bytes."""
    return _encode(generator.get_state())


def restore_generator(generator: torch.Generator, state: str) -> None:
    """Put a captured state of such a generator back."""
    generator.set_state(_decode(state))


def seed_all(number: int, own: Iterable[Any] = ()) -> None:
    """Begin all generators on the CPU, and `own` ones, anew from a number; those of devices stay as they are."""
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    for one in own:
        if generators.has_state(one):
            generators.seed(one, number)


@contextmanager
def untouched(own: Iterable[Any] = ()) -> Iterator[None]:
    """Whatever is drawn inside, of the global generators or of `own` ones, is not missing outside."""
    state = capture()
    before = [(one, generators.state_of(one)) for one in own if generators.has_state(one)]
    try:
        yield
    finally:
        restore(state)
        for one, was in before:
            generators.put_state(one, was)


def _plain(python: Any, numpy: Any, cpu: torch.Tensor) -> RandomState:
    version, internal, gauss_next = python
    kind, words, position, has_gauss, gauss = numpy
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [str(kind), words.tolist(), int(position), int(has_gauss), float(gauss)],
        "torch": _encode(cpu),
    }


def _encode(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _decode(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
