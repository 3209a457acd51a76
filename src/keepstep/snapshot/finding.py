"""What lies inside of other objects, each with its path: attributes, items, closures, named globals; and generators."""

from __future__ import annotations

import functools
import random
import sys
import types
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from keepstep.snapshot.generators import is_generator, source_of

MOST_OBJECTS = 20_000
"""Objects that one search looks into."""
MOST_ITEMS = 256
"""Items of one container that are looked into: the rows of a data set are none of the things that hold generators."""
DEEPEST = 12

_LEAVES = (
    type(None), bool, int, float, complex, str, bytes, bytearray, memoryview, range, slice, type, types.ModuleType,
    types.CodeType, types.FrameType, types.GeneratorType, torch.Tensor, torch.dtype, torch.device, np.ndarray,
    np.generic,
)  # fmt: skip
_PLAIN = frozenset({bool, int, float, complex, str, bytes})
_OPENED = frozenset({"builtins", "collections", "functools", "random", "types", "argparse", "__main__"})
"""Of the standard library, the modules whose objects are looked into."""
_CLOSED = frozenset({
    "pyarrow", "pandas", "polars", "tokenizers", "tqdm", "wandb", "tensorboard", "mlflow", "PIL", "fsspec",
    "safetensors", "huggingface_hub", "accelerate", "keepstep", "jinja2", "regex", "sentencepiece", "_pytest",
})  # fmt: skip
"""Packages whose objects hold no generator that a training draws from, or one that is looked after elsewhere."""
_LIBRARIES = _CLOSED | {"torch", "transformers", "trl", "peft", "datasets", "numpy", "scipy", "sklearn"}
"""Packages of whose functions the globals are their own affair, and of whose modules only a generator counts."""
_OF_MODULES = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})
_BUILTIN_METHODS = (types.BuiltinMethodType, types.MethodWrapperType)
_SLOTTED = (random.Random, types.SimpleNamespace)


@dataclass
class Finding:
    """What a search found.

    `generators` by path, each once however many ways lead to it; `names` has every path, with the one that it goes
    under; `roots` the root through which a path was reached; `vacant` the wanted paths at which nothing is yet, with
    the object and the attribute; `holders` the objects of classes that no library wrote.
    """

    generators: dict[str, Any] = field(default_factory=dict[str, Any])
    names: dict[str, str] = field(default_factory=dict[str, str])
    roots: dict[str, str] = field(default_factory=dict[str, str])
    vacant: dict[str, tuple[Any, str]] = field(default_factory=dict[str, Any])
    holders: list[Any] = field(default_factory=list[Any])


@dataclass(slots=True)
class Place:
    """A value at a path below a root; `parent` is where it was reached from, `owner` the object and the attribute.

    `fresh` is True where it was not reached before and has an inside, which is looked into next unless `closed`.
    """

    path: str
    value: Any
    root: str
    parent: Place | None = None
    owner: tuple[Any, str] | None = None
    depth: int = 0
    fresh: bool = False
    closed: bool = False


def walk(roots: Mapping[str, Any], apart: Collection[Any] = (), *, most_items: int = MOST_ITEMS) -> Iterator[Place]:
    """Every place below the roots, in their order. No property and no code of the objects' own is called.

    Tables of data and the insides of libraries are not looked into, nor more than `most_items` of a container, nor what
    is set `apart`. What is a root itself is looked into as that one alone. Whoever gets a place may close it.
    """
    seen = {id(one) for one in apart}
    roots_left = {id(value) for value in roots.values()}
    keep: list[Any] = []  # what is made while searching must not give its identity to another
    kinds = _Kinds()
    for root, start in roots.items():
        roots_left.discard(id(start))
        queue = deque([Place(root, start, root)])
        while queue and len(seen) < MOST_OBJECTS:
            place = queue.popleft()
            value = place.value
            known = id(value) in seen or id(value) in roots_left
            place.fresh = not (known or place.depth > DEEPEST or kinds.is_leaf(value))
            yield place
            if not place.fresh or place.closed:
                continue
            seen.add(id(value))
            keep.append(value)
            for name, child, owner in _children(value, place.path, most_items, kinds):
                if type(child) not in _PLAIN:
                    queue.append(Place(name, child, root, place, owner, place.depth + 1))


def find(roots: Mapping[str, Any], wanted: Collection[str] = (), apart: Collection[Any] = ()) -> Finding:
    """Search the roots, in their order, for generators, by name; what is set `apart` is not looked into."""
    found, known = Finding(), dict[int, str]()
    for place in walk(roots, apart):
        value, path = place.value, place.path
        if is_generator(value):
            place.closed = True
            identity = id(source_of(value))
            if identity not in known:
                known[identity] = path
                found.generators[path], found.roots[path] = value, place.root
            found.names.setdefault(path, known[identity])
        elif value is None and place.owner is not None and path in wanted:
            found.vacant[path] = place.owner
        elif place.fresh and _is_users(type(value)):
            found.holders.append(value)
    return found


@dataclass(frozen=True, slots=True)
class _Kind:
    """What holds for every object of a class; `slots` are the descriptors of what lies on it beside its `__dict__`."""

    leaf: bool
    users: bool
    slots: tuple[tuple[str, types.MemberDescriptorType], ...]


class _Kinds:
    """The classes that one search has met: each is looked at once, however many objects there are of it."""

    def __init__(self) -> None:
        self._met: dict[type, _Kind] = {}

    def of(self, value: Any) -> _Kind:
        kind = type(value)
        met = self._met.get(kind)
        if met is None:
            leaf = _has_no_inside(kind)
            met = self._met[kind] = _Kind(leaf, _is_users(kind), () if leaf else tuple(_slots(kind)))
        return met

    def is_leaf(self, value: Any) -> bool:
        return not _is_users(value) if isinstance(value, type) else self.of(value).leaf


def _has_no_inside(kind: type) -> bool:
    if issubclass(kind, _LEAVES):
        return True
    package = _package(kind)
    return package in _CLOSED or (package in sys.stdlib_module_names and package not in _OPENED)


def _slots(kind: type) -> Iterator[tuple[str, types.MemberDescriptorType]]:
    if not issubclass(kind, _SLOTTED):
        for one in type.__dict__["__mro__"].__get__(kind):
            for name, member in list(one.__dict__.items()):
                if isinstance(member, types.MemberDescriptorType):
                    yield name, member


def _is_users(kind: type) -> bool:
    package = _package(kind)
    return package == "__main__" or not (package in _LIBRARIES or package in sys.stdlib_module_names)


def _package(kind: Any) -> str:
    module = kind.__dict__.get("__module__", "") if isinstance(kind, type) else ""
    return module.partition(".")[0] if isinstance(module, str) and module else "builtins"


Child = tuple[str, Any, tuple[Any, str] | None]
"""A path, what lies there, and, for an attribute, the object and the name by which it can be put there."""


def _children(value: Any, path: str, most_items: int, kinds: _Kinds) -> Iterator[Child]:
    if isinstance(value, types.FunctionType):
        yield from _of_function(value, path)
    elif isinstance(value, types.MethodType):
        yield f"{path}.<self>", value.__self__, None
        yield f"{path}.<function>", value.__func__, None
    elif isinstance(value, _BUILTIN_METHODS):
        yield f"{path}.<self>", value.__self__, None
    elif isinstance(value, functools.partial):
        yield f"{path}.<function>", value.func, None
        for number, item in enumerate(value.args):
            yield f"{path}.<arguments>[{number}]", item, None
        for name, item in value.keywords.items():
            yield f"{path}.<arguments>.{name}", item, None
    elif isinstance(value, (property, classmethod, staticmethod)):
        for name in ("fget", "__func__"):
            yield path, getattr(value, name, None), None
    elif isinstance(value, type):
        yield from _of_class(value, path)
    else:
        yield from _of_object(value, path, most_items, kinds.of(value))


def _of_function(function: types.FunctionType, path: str) -> Iterator[Child]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"{path}.<closure>.{name}", cell.cell_contents, None
        except ValueError:  # not filled yet
            continue
    for number, item in enumerate(function.__defaults__ or ()):
        yield f"{path}.<defaults>[{number}]", item, None
    for name, item in (function.__kwdefaults__ or {}).items():
        yield f"{path}.<defaults>.{name}", item, None
    for name, item in function.__dict__.items():
        yield f"{path}.{name}", item, None
    module = str(function.__globals__.get("__name__", ""))
    package = module.partition(".")[0]
    if package in _LIBRARIES or package in sys.stdlib_module_names - {"__main__"}:
        return
    for name in sorted(_named(function.__code__)):
        if name in function.__globals__:
            yield f"{module}.{name}", function.__globals__[name], None


def _named(code: types.CodeType) -> set[str]:
    """The names that a function looks up, and those of the functions in it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_named, inner))


def _of_class(kind: type, path: str) -> Iterator[Child]:
    """What a class of the user's holds, and the functions of it and of those of his that it is derived from."""
    for one in type.__dict__["__mro__"].__get__(kind):
        if _is_users(one):
            for name, item in one.__dict__.items():
                if not isinstance(item, types.MemberDescriptorType) and name != "__dict__":
                    yield f"{path}.{name}", item, None


def _of_object(value: Any, path: str, most_items: int, kind: _Kind) -> Iterator[Child]:
    if isinstance(value, dict):
        for number, (key, item) in enumerate(islice(dict.items(value), most_items)):
            if type(item) not in _PLAIN:
                yield f"{path}[{key!r}]" if isinstance(key, (str, int)) else f"{path}[{number}]", item, None
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        container: Any = next(one for one in (list, tuple, set, frozenset, deque) if isinstance(value, one))
        for number, item in zip(range(most_items), container.__iter__(value), strict=False):
            if type(item) not in _PLAIN:
                yield f"{path}[{number}]", item, None
    is_module = isinstance(value, torch.nn.Module)
    bare = is_module and not kind.users
    for name, item in _attributes(value, kind):
        if type(item) in _PLAIN or (is_module and name in _OF_MODULES):
            continue
        if not bare or is_generator(item):
            yield f"{path}.{name}", item, (value, name)
    if is_module:
        for name, module in value.__dict__.get("_modules", {}).items():
            yield f"{path}.{name}", module, None
    if kind.users:
        yield path, type(value), None


def _attributes(value: Any, kind: _Kind) -> Iterator[tuple[str, Any]]:
    """What lies on an object, its slots included."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    if isinstance(own, dict):
        yield from list(own.items())
    for name, member in kind.slots:
        try:
            yield name, member.__get__(value)
        except AttributeError:  # not filled yet
            continue
