"""The state of all random generators of this process: python, numpy, torch on the CPU and on CUDA devices."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

RandomState = dict[str, Any]
"""Plain JSON values: word lists for python and numpy, base64 of the generators' bytes for torch."""


def capture() -> RandomState:
    """The state now; `restore` of it makes every generator go on from here. CUDA only where it is in use."""
    kind, words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    state: RandomState = {
        "python": [version, list(internal), gauss_next],
        "numpy": [str(kind), [int(word) for word in words], int(position), int(has_gauss), float(gauss)],
        "torch": _encode(torch.random.get_rng_state()),
    }
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


def capture_generator(generator: torch.Generator) -> str:
    """The state of a generator of its own, as base64 of its bytes."""
    return _encode(generator.get_state())


def restore_generator(generator: torch.Generator, state: str) -> None:
    """Put a captured state of such a generator back."""
    generator.set_state(_decode(state))


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn inside is not missing outside."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


def _encode(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _decode(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
