"""What is changed after it was made: `args.save_steps = 100`, `kw["seed"] = 1`, `kw.update(...)`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Protocol

from keepstep.operations.doctor.reading.scopes import Change, Condition, Scopes
from keepstep.operations.doctor.reading.values import NotLiteral, Record, follows, shown
from keepstep.operations.doctor.settings import Argument, Given, Unread


class Evaluator(Protocol):
    """Who knows what expressions are worth, and which branches are taken."""

    scopes: Scopes

    def given(self, node: ast.expr) -> Given: ...

    def argument(self, node: ast.expr) -> Argument: ...

    def mapping(self, node: ast.expr) -> dict[str, Argument] | None: ...

    def holds(self, conditions: Sequence[Condition], around: Sequence[Condition] = ()) -> Given | None: ...


def latest_of(changes: Sequence[Change], node: ast.expr, evaluator: Evaluator) -> Given | None:
    """The last change before a line that is reached; None without one. Raises NotLiteral where nobody knows."""
    found: Given | None = None
    for change in changes:
        if change.line >= node.lineno:
            continue
        reason = evaluator.holds(change.conditions, evaluator.scopes.context(node).conditions)
        if reason is None or (reason.value and change.value is None):
            raise NotLiteral(shown(node))
        if reason.value and change.value is not None:
            given = evaluator.given(change.value)
            found = follows(given.value, [given, reason], given.line)
    return found


def changed(given: Given, changes: Sequence[Change], node: ast.Name, evaluator: Evaluator) -> Given:
    """With what was changed of it before it is used: `kw["x"] = 1`, `kw.update(y=2)`."""
    if isinstance(given.value, Record):
        record = given.value.copy()
        for change in changes:
            if change.line < node.lineno and change.kind != "attribute":
                _apply(change, record, node, evaluator)
        return Given(record, given.line, given.source, given.where, given.unless)
    if isinstance(given.value, list) and any(change.kind != "attribute" for change in changes):
        raise NotLiteral(node.id)
    return given


def _apply(change: Change, record: Record, node: ast.Name, evaluator: Evaluator) -> None:
    reason = evaluator.holds(change.conditions, evaluator.scopes.context(node).conditions)
    if reason is not None and not reason.value:
        return
    items: dict[str, Argument] | None = None
    if change.kind == "item":
        if change.key is not None:
            unknown = Unread(f"{node.id}[{change.key!r}]", change.line)
            items = {change.key: unknown if change.value is None else evaluator.argument(change.value)}
    elif change.call is not None:
        items = _method(change, record, evaluator)
    if items is None:
        record.rest = f"what line {change.line} does to {node.id}"
        record.fields = {name: Unread(f"{node.id}[{name!r}]", change.line, cause=record.rest) for name in record.fields}
    elif reason is None:
        record.fields |= {name: Unread(f"{node.id}[{name!r}]", change.line) for name in items}
    else:
        record.fields |= items


def _method(change: Change, record: Record, evaluator: Evaluator) -> dict[str, Argument] | None:
    """What `update`, `setdefault` or `pop` do to a dict; None where that is not known."""
    assert change.call is not None
    call, found = change.call, dict[str, Argument]()
    if change.kind == "update":
        for argument in call.args:
            inner = evaluator.mapping(argument)
            if inner is None:
                return None
            found |= inner
        for keyword in call.keywords:
            inner = (
                {keyword.arg: evaluator.argument(keyword.value)} if keyword.arg else evaluator.mapping(keyword.value)
            )
            if inner is None:
                return None
            found |= inner
        return found
    key = call.args[0] if call.args else None
    if not isinstance(key, ast.Constant) or not isinstance(key.value, str) or record.rest:
        return None
    if change.kind == "pop" and not change.conditions:
        record.fields.pop(key.value, None)
        return found
    if change.kind == "setdefault" and len(call.args) == 2:
        return found if key.value in record.fields else {key.value: evaluator.argument(call.args[1])}
    return None
