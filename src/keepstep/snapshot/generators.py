"""The states of single random generators, of Python's, numpy's and torch's kinds, as plain JSON values."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

State = dict[str, Any]
"""What a generator goes on from, with the `kind` it is of: numbers, words, and base64 of arrays."""

_KINDS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)


def is_generator(value: Any) -> bool:
    """True for a generator of one's own; the global ones of Python, numpy and torch are none."""
    return isinstance(value, _KINDS) and id(source_of(value)) not in _shared()


def source_of(generator: Any) -> Any:
    """What holds the state: numpy's generators are faces of a bit generator, which several may share."""
    return generator.bit_generator if isinstance(generator, np.random.Generator) else generator


def state_of(generator: Any) -> State:
    """The state now. Raises TypeError for a generator that has none, or another than those of its kind."""
    source = source_of(generator)
    if isinstance(source, torch.Generator):
        return {"kind": "torch", "device": str(source.device), "bytes": _encode(source.get_state().numpy())}
    if isinstance(source, random.Random):
        return {"kind": "python", **_python_state(source)}
    if isinstance(source, np.random.RandomState):
        return {"kind": "numpy legacy", "state": _plain(source.get_state(legacy=False))}
    return {"kind": "numpy", "state": _plain(source.state)}


def has_state(generator: Any) -> bool:
    """True for a generator whose state can be kept."""
    try:
        return bool(state_of(generator))
    except TypeError:
        return False


def put_state(generator: Any, state: State) -> None:
    """Let the generator go on from a state. Raises ValueError or TypeError where it is of another kind."""
    source = source_of(generator)
    match state["kind"]:
        case "torch":
            source.set_state(torch.from_numpy(_decode(state["bytes"]).copy()))
        case "python":
            source.setstate((state["version"], tuple(_decode(state["words"]).tolist()), state["gauss"]))
        case "numpy legacy":
            source.set_state(_filled(state["state"]))
        case "numpy":
            source.state = _filled(state["state"])
        case kind:
            raise ValueError(f"a generator of kind {kind!r}")


def made_of(state: State) -> Any:
    """A new generator that goes on from a state. Raises ValueError or TypeError for a kind that can't be made."""
    match state["kind"]:
        case "torch":
            made: Any = torch.Generator(device=state["device"])
        case "python":
            made = random.Random()
        case "numpy legacy":
            made = np.random.RandomState()
        case "numpy":
            made = np.random.Generator(getattr(np.random, state["state"]["bit_generator"])())
        case kind:
            raise ValueError(f"a generator of kind {kind!r}")
    put_state(made, state)
    return made


def seed(generator: Any, number: int) -> None:
    """Begin anew from a number: the same numbers are drawn after each call with it."""
    source = source_of(generator)
    if isinstance(source, torch.Generator):
        source.manual_seed(number)
    elif isinstance(source, (random.Random, np.random.RandomState)):
        source.seed(number)
    else:
        source.state = type(source)(number).state


def _shared() -> set[int]:
    """The identities of the global generators."""
    from numpy.random import mtrand

    shared: list[Any] = [torch.default_generator, random._inst, mtrand._rand, mtrand._rand._bit_generator]  # type: ignore[attr-defined]  # pyright: ignore
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        shared += torch.cuda.default_generators
    return {id(one) for one in shared}


def _python_state(generator: random.Random) -> State:
    try:
        version, words, gauss = generator.getstate()
        return {"version": version, "words": _encode(np.array(words, dtype=np.uint32)), "gauss": gauss}
    except (NotImplementedError, ValueError, TypeError, OverflowError) as error:
        raise TypeError(f"a {type(generator).__name__}, which has no state of its kind") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, np.ndarray):
        return _encode(value)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a state with a {type(value).__name__} in it")


def _filled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    found = cast("dict[str, Any]", value)
    return _decode(found) if "array" in found else {name: _filled(item) for name, item in found.items()}


def _encode(array: np.ndarray[Any, Any]) -> State:
    return {"dtype": array.dtype.name, "array": base64.b64encode(array.tobytes()).decode("ascii")}


def _decode(encoded: State) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(encoded["array"]), dtype=encoded["dtype"])
