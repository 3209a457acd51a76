"""A pickle as inert values: its instructions are followed, and nothing that they name is imported, called or built.

Instructions: `pickletools` of Python's library, which tells them without running them.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any

LARGEST = 2_000_000
"""Bytes of a pickle that are read at most."""
LONGEST = 200_000
"""Instructions that are followed at most."""
_MARK: Any = object()


class UnreadablePickle(ValueError):
    """The pickle is damaged, larger than the limits, or has instructions that no plain one has."""


class Inert:
    """What only running code could make: its dotted name, the arguments of its making, None where it was named alone,
    and the state that it would be given.
    """

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: object = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: object = None


def interpret(data: bytes, *, largest: int = LARGEST, longest: int = LONGEST) -> object:
    """What the pickle describes: plain values and `Inert` ones, in lists, tuples and dicts.

    Keys of dicts are texts, and what is no text or number is no key: hashing what a stranger nested can take for
    ever. Raises UnreadablePickle.
    """
    if len(data) > largest:
        raise UnreadablePickle(f"the pickle is larger than {largest:,} bytes")
    machine = _Machine()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number >= longest:
                raise UnreadablePickle(f"the pickle has more than {longest:,} instructions")
            if opcode.name == "STOP":
                return machine.stack[-1]
            machine.follow(opcode.name, argument)
    except UnreadablePickle:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise UnreadablePickle(f"the pickle is damaged: {error}") from error
    raise UnreadablePickle("the pickle has no end")


_ORDERED = "collections.OrderedDict"
_IGNORED = frozenset({"PROTO", "FRAME"})
_VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
"""Instructions that push the argument which stands behind them."""
_MADE: dict[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_SET": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip


class _Machine:
    """The stack and the memo of the pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _MADE:
            stack.append(_MADE[name]())
        elif name.endswith("GET"):
            stack.append(self._memo[int(argument)])
        elif name.endswith("PUT"):
            self._memo[int(argument)] = stack[-1]
        else:
            step = _STEPS.get(name)
            if step is None:
                raise UnreadablePickle(f"the pickle has the instruction {name}")
            step(self, argument)

    def to_mark(self) -> list[Any]:
        """What lies above the last mark, which is taken away with it."""
        found: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def take(self, number: int) -> list[Any]:
        """The uppermost values, taken away."""
        found = [self.stack.pop() for _ in range(number)]
        return found[::-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def push(self, value: object) -> None:
        self.stack.append(value)


def _make(machine: _Machine, parts: list[Any]) -> None:
    """An object from what would make it and the arguments."""
    maker, *arguments = parts
    name = maker.name if isinstance(maker, Inert) else ""
    if name == _ORDERED and arguments in ([()], [[]]):
        machine.push(dict[str, Any]())  # what is put into it next is its content
        return
    machine.push(Inert(name, arguments[0] if len(arguments) == 1 else tuple(arguments)))


def _set_items(target: object, items: list[Any]) -> None:
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=False):
            if key is None or isinstance(key, (str, int, float)):
                target[str(key)] = value


def _extend(target: object, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)  # pyright: ignore[reportUnknownMemberType]


def _dict_of(items: list[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    _set_items(made, items)
    return made


def _build(machine: _Machine) -> None:
    state = machine.stack.pop()
    if isinstance(machine.stack[-1], Inert):
        machine.stack[-1].state = state


def _items_from_mark(machine: _Machine, put: Callable[[object, list[Any]], None]) -> None:
    items = machine.to_mark()
    put(machine.stack[-1], items)


def _items(machine: _Machine, number: int, put: Callable[[object, list[Any]], None]) -> None:
    items = machine.take(number)
    put(machine.stack[-1], items)


def _from_class(machine: _Machine) -> None:
    cls, *arguments = machine.to_mark()
    _make(machine, [cls, tuple(arguments)])


_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda m, _: m.push(_MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.to_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "MEMOIZE": lambda m, _: m.memoize(),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.take(3))),
    "LIST": lambda m, _: m.push(m.to_mark()),
    "FROZENSET": lambda m, _: m.push(m.to_mark()),
    "DICT": lambda m, _: m.push(_dict_of(m.to_mark())),
    "SETITEM": lambda m, _: _items(m, 2, _set_items),
    "SETITEMS": lambda m, _: _items_from_mark(m, _set_items),
    "APPEND": lambda m, _: _items(m, 1, _extend),
    "APPENDS": lambda m, _: _items_from_mark(m, _extend),
    "ADDITEMS": lambda m, _: _items_from_mark(m, _extend),
    "GLOBAL": lambda m, name: m.push(Inert(name.replace(" ", "."))),
    "STACK_GLOBAL": lambda m, _: m.push(Inert(".".join(map(str, m.take(2))))),
    "REDUCE": lambda m, _: _make(m, m.take(2)),
    "NEWOBJ": lambda m, _: _make(m, m.take(2)),
    "NEWOBJ_EX": lambda m, _: _make(m, m.take(3)),
    "OBJ": lambda m, _: _from_class(m),
    "INST": lambda m, name: m.push(Inert(name.replace(" ", "."), tuple(m.to_mark()))),
    "BUILD": lambda m, _: _build(m),
    "PERSID": lambda m, _: m.push(Inert("")),
    "BINPERSID": lambda m, _: m.push(Inert("", tuple(m.take(1)))),
}
"""What every other instruction does; those that are not named here are refused."""
