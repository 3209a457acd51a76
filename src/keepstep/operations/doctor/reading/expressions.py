"""What each kind of expression is worth, given what its parts are."""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from keepstep.operations.doctor.reading.values import NotLiteral, Record, follows, last_name, plain
from keepstep.operations.doctor.settings import Argument, Given

ENUMS = frozenset({"IntervalStrategy", "SaveStrategy", "EvaluationStrategy", "SchedulerType", "OptimizerNames"})
"""transformers' enumerations, whose members are the lower-case words of their names."""
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b, ast.FloorDiv: lambda a, b: a // b, ast.Mod: operator.mod,
    ast.Pow: lambda a, b: a**b if abs(a) <= 1000 and 0 <= b <= 6 else _too_large(),
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: lambda a, b: a is b, ast.IsNot: lambda a, b: a is not b,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_LARGEST = 10**18


class Evaluator(Protocol):
    """Who knows the parts; each raises NotLiteral, but `argument`."""

    def given(self, node: ast.expr) -> Given: ...

    def record(self, node: ast.expr) -> Record: ...

    def argument(self, node: ast.expr) -> Argument: ...

    def item(self, base: Given, key: Given) -> Given: ...

    def name(self, node: ast.Name) -> Given: ...

    def attribute(self, node: ast.Attribute) -> Given: ...

    def call(self, node: ast.Call) -> Given: ...


def value_of(node: ast.expr, evaluator: Evaluator) -> Given:
    """Raises NotLiteral for what depends on more than its parts; and as Python does where they do not go together."""
    handler = _KINDS.get(type(node))
    if handler is None:
        raise NotLiteral
    return handler(node, evaluator)


def _constant(node: ast.Constant, _: Evaluator) -> Given:
    return Given(node.value, node.lineno)


def _attribute(node: ast.Attribute, evaluator: Evaluator) -> Given:
    return Given(node.attr.lower(), node.lineno) if last_name(node.value) in ENUMS else evaluator.attribute(node)


def _subscript(node: ast.Subscript, evaluator: Evaluator) -> Given:
    return evaluator.item(evaluator.given(node.value), evaluator.given(node.slice))


def _unary(node: ast.UnaryOp, evaluator: Evaluator) -> Given:
    given = evaluator.given(node.operand)
    if isinstance(node.op, ast.Not):
        return follows(not given.value, [given])
    if not isinstance(node.op, ast.USub) or not isinstance(given.value, (int, float)):
        raise NotLiteral
    return follows(-given.value, [given])


def _binary(node: ast.BinOp, evaluator: Evaluator) -> Given:
    left, right = evaluator.given(node.left), evaluator.given(node.right)
    return follows(_combined(left.value, node.op, right.value), [left, right])


def _either(node: ast.BoolOp, evaluator: Evaluator) -> Given:
    seen: list[Given] = []
    for value in node.values:
        seen.append(evaluator.given(value))
        if bool(seen[-1].value) is isinstance(node.op, ast.Or):
            break
    return follows(seen[-1].value, seen)


def _compare(node: ast.Compare, evaluator: Evaluator) -> Given:
    known = _COMPARISONS.get(type(node.ops[0])) if len(node.ops) == 1 else None
    if known is None:
        raise NotLiteral
    left, right = evaluator.given(node.left), evaluator.given(node.comparators[0])
    return follows(known(plain(left.value), plain(right.value)), [left, right])


def _choice(node: ast.IfExp, evaluator: Evaluator) -> Given:
    decided = evaluator.given(node.test)
    chosen = evaluator.given(node.body if decided.value else node.orelse)
    return follows(chosen.value, [chosen, decided])


def _list(node: ast.List | ast.Tuple | ast.Set, evaluator: Evaluator) -> Given:
    found = [evaluator.given(item) for item in node.elts]
    return follows([one.value for one in found], found, node.lineno)


def _dict(node: ast.Dict, evaluator: Evaluator) -> Given:
    record = Record()
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            inner = evaluator.record(value)
            record.fields |= inner.fields
            record.rest = record.rest or inner.rest
            continue
        name = evaluator.given(key).value
        if not isinstance(name, (str, int)):
            raise NotLiteral
        record.fields[str(name)] = evaluator.argument(value)
    return Given(record, node.lineno)


def _text(node: ast.JoinedStr, evaluator: Evaluator) -> Given:
    found = [evaluator.given(part) for part in _parts(node.values)]
    return follows("".join(str(one.value) for one in found), found)


def _parts(parts: Iterable[ast.expr]) -> Iterable[ast.expr]:
    for part in parts:
        if isinstance(part, ast.FormattedValue):
            if part.format_spec is not None or part.conversion != -1:
                raise NotLiteral
            yield part.value
        else:
            yield part


_KINDS: dict[type[ast.expr], Callable[[Any, Evaluator], Given]] = {
    ast.Constant: _constant,
    ast.Name: lambda node, evaluator: evaluator.name(node),
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.BoolOp: _either,
    ast.Compare: _compare,
    ast.IfExp: _choice,
    ast.List: _list,
    ast.Tuple: _list,
    ast.Set: _list,
    ast.Dict: _dict,
    ast.JoinedStr: _text,
    ast.NamedExpr: lambda node, evaluator: evaluator.given(node.value),
    ast.Await: lambda node, evaluator: evaluator.given(node.value),
    ast.Call: lambda node, evaluator: evaluator.call(node),
}


def _combined(left: Any, op: ast.operator, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str) and isinstance(op, (ast.Div, ast.Add)):
        return os.path.join(left, right) if isinstance(op, ast.Div) else left + right
    if isinstance(op, ast.Add) and isinstance(left, list) and isinstance(right, list):
        return left + right  # pyright: ignore[reportUnknownVariableType]
    if isinstance(op, ast.BitOr) and isinstance(left, Record) and isinstance(right, Record):
        return Record(left.fields | right.fields, left.rest or right.rest)
    known = _OPERATORS.get(type(op))
    if known is None or not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        raise NotLiteral
    if max(abs(left), abs(right)) > _LARGEST:
        raise NotLiteral
    return known(left, right)


def _too_large() -> float:
    raise NotLiteral
