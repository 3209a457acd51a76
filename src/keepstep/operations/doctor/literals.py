"""Values of expressions that can be known without running the program they stand in."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from typing import Any

from keepstep.operations.doctor.settings import Argument, Given, Unread

ENUMS = frozenset({"IntervalStrategy", "SaveStrategy", "EvaluationStrategy", "SchedulerType", "OptimizerNames"})
"""transformers' enumerations, whose members are the lower-case words of their names."""
RULES = {"All": "all", "Best": "best", "Latest": "latest", "Every": "every"}
"""keepstep's rules that a number makes, and their words in a spec."""
CHANGING = frozenset({
    "time", "time_ns", "monotonic", "perf_counter", "now", "utcnow", "today", "getpid", "urandom", "randint",
    "randrange", "random", "getrandbits", "randbits", "token_bytes", "token_hex", "uuid1", "uuid4", "default_rng",
    "SystemRandom",
})  # fmt: skip
"""Functions that return something else at every start."""
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b, ast.FloorDiv: lambda a, b: a // b, ast.Mod: lambda a, b: a % b,
}  # fmt: skip
_LONGEST = 60
_LARGEST = 10**18


class _NotLiteral(Exception):
    """The expression depends on more than the text of the file."""


class Literals:
    """Evaluates expressions of one module: literals, arithmetic on them, and names that are bound once, to one."""

    def __init__(self, tree: ast.Module) -> None:
        self._constants = _bound_once(tree)
        self._depth = 0

    def read(self, node: ast.expr) -> Argument:
        """The value of an expression with its line, or what it says where it can't be known."""
        try:
            return Given(self.value(node), node.lineno)
        except _NotLiteral:
            return Unread(shown(node), node.lineno, varies=self.varies(node))

    def value(self, node: ast.expr) -> Any:
        """Raises _NotLiteral."""
        self._depth += 1
        try:
            if self._depth > 50:
                raise _NotLiteral
            return self._value(node)
        finally:
            self._depth -= 1

    def varies(self, node: ast.expr) -> bool:
        """True where it calls a clock or a random number generator, itself or through a name that is bound once."""
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and last_name(part.func) in CHANGING:
                return True
            bound = self._constants.get(part.id) if isinstance(part, ast.Name) else None
            if bound is not None and bound is not node and self._depth < 50:
                self._depth += 1
                try:
                    if self.varies(bound):
                        return True
                finally:
                    self._depth -= 1
        return False

    def mapping(self, node: ast.expr) -> dict[str, ast.expr] | None:
        """The items of a dict with literal keys: `{...}`, `dict(...)`, or a name bound once to such; None elsewhere."""
        if isinstance(node, ast.Name) and node.id in self._constants:
            return self.mapping(self._constants[node.id])
        pairs: list[tuple[ast.expr | None, ast.expr]] = []
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Call) and last_name(node.func) == "dict" and not node.args:
            pairs = [(ast.Constant(k.arg) if k.arg else None, k.value) for k in node.keywords]
        else:
            return None
        found: dict[str, ast.expr] = {}
        for key, value in pairs:
            if key is None:
                inner = self.mapping(value)
                if inner is None:
                    return None
                found |= inner
            elif isinstance(key, ast.Constant) and isinstance(key.value, str):
                found[key.value] = value
            else:
                return None
        return found

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name) if name in self._constants:
                return self.value(self._constants[name])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.value(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(self.value(left), op, self.value(right))
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return [self.value(item) for item in items]
            case ast.Dict():
                items = self.mapping(node)
                if items is None:
                    raise _NotLiteral
                return {key: self.value(value) for key, value in items.items()}
            case ast.JoinedStr(values=parts):
                return "".join(self._part(part) for part in parts)
            case ast.Attribute(value=base, attr=name) if last_name(base) in ENUMS:
                return name.lower()
            case ast.Call():
                return self._call(node)
            case _:
                raise _NotLiteral

    def _number(self, node: ast.expr) -> Any:
        value = self.value(node)
        if not isinstance(value, (int, float)):
            raise _NotLiteral
        return value

    def _binary(self, left: Any, op: ast.operator, right: Any) -> Any:
        if isinstance(op, ast.Div) and isinstance(left, str) and isinstance(right, str):
            return os.path.join(left, right)
        if isinstance(op, ast.Add) and isinstance(left, str) and isinstance(right, str):
            return left + right
        known = _OPERATORS.get(type(op))
        if known is None or not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            raise _NotLiteral
        if max(abs(left), abs(right)) > _LARGEST:
            raise _NotLiteral
        try:
            return known(left, right)
        except ArithmeticError as error:
            raise _NotLiteral from error

    def _part(self, part: ast.expr) -> str:
        if isinstance(part, ast.FormattedValue):
            if part.format_spec is not None or part.conversion != -1:
                raise _NotLiteral
            return str(self.value(part.value))
        return str(self.value(part))

    def _call(self, node: ast.Call) -> Any:
        name = last_name(node.func)
        if name in RULES and len(node.args) <= 1:
            return self._rule(name, node)
        if node.keywords:
            raise _NotLiteral
        values = [self.value(argument) for argument in node.args]
        if name in ("str", "Path", "fspath", "PurePath") and len(values) == 1:
            return str(values[0])
        joins = name == "Path" or (name == "join" and last_name(getattr(node.func, "value", None)) == "path")
        if joins and values and all(isinstance(value, str) for value in values):
            return os.path.join("", *map(str, values))
        if name in ("int", "float") and len(values) == 1 and isinstance(values[0], (int, float)):
            return int(values[0]) if name == "int" else float(values[0])
        raise _NotLiteral

    def _rule(self, name: str, node: ast.Call) -> str:
        numbers = [self.value(argument) for argument in node.args]
        flags = [k.arg for k in node.keywords if k.arg and isinstance(k.value, ast.Constant) and k.value.value is True]
        numbers += [self.value(k.value) for k in node.keywords if k.arg not in flags]
        return ":".join([RULES[name], *map(str, numbers), *flags])


def last_name(node: ast.expr | None) -> str:
    """The last part of a dotted name: `SFTConfig` of `trl.SFTConfig`; empty for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def shown(node: ast.expr) -> str:
    """The expression as it may be quoted in one line."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _bound_once(tree: ast.Module) -> dict[str, ast.expr]:
    """Names that the whole file binds a single time, outside of branches and loops, and what to."""
    count: dict[str, int] = {}
    for name in _bindings(tree):
        count[name] = count.get(name, 0) + 1
    found: dict[str, ast.expr] = {}
    for body in _straight_bodies(tree):
        for statement in body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    found[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found[name] = value
                case _:
                    pass
    return {name: value for name, value in found.items() if count.get(name) == 1}


def _straight_bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    yield tree.body
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.body
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            yield node.body


def _bindings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                yield from names
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=alias):
                yield alias or name.partition(".")[0]
            case ast.ExceptHandler(name=str() as name):
                yield name
            case ast.AugAssign(target=ast.Attribute()) | ast.AugAssign(target=ast.Subscript()):
                pass
            case _:
                pass
        # What is changed in place is not what it was bound to.
        match node:
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in _CHANGES:
                yield name
            case _:
                pass


_CHANGES = frozenset({"update", "pop", "setdefault", "clear", "append", "extend", "popitem", "insert", "remove"})
