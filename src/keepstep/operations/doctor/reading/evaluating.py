"""What an expression is worth, where that can be known without running the program it stands in."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from typing import Any, Protocol

from keepstep.operations.doctor.reading.calls import call_of
from keepstep.operations.doctor.reading.changing import changed, latest_of
from keepstep.operations.doctor.reading.expressions import value_of
from keepstep.operations.doctor.reading.scopes import Binding, Condition, Function, Scope, Scopes
from keepstep.operations.doctor.reading.values import NotLiteral, Record, at, follows, last_name, plain, shown
from keepstep.operations.doctor.settings import Argument, Given, Source, Unread

CHANGING = frozenset({
    "time", "time_ns", "monotonic", "perf_counter", "now", "utcnow", "today", "getpid", "urandom", "randint",
    "randrange", "random", "getrandbits", "randbits", "token_bytes", "token_hex", "uuid1", "uuid4", "default_rng",
    "SystemRandom",
})  # fmt: skip
"""Functions that return something else at every start."""
_DEEPEST = 60
_MOST_STEPS = 20_000


class Surroundings(Protocol):
    """What a program is given from outside of its text."""

    def result(self, call: ast.Call, evaluator: Evaluator) -> Given | None:
        """What a call of a parser returns, or of what reads a file; None where it is neither. Raises NotLiteral."""
        ...

    def parameter(self, function: Function, name: str, evaluator: Evaluator) -> Argument | None:
        """What a command line gives a function that it calls; None for any other function."""
        ...


class Evaluator:
    """Evaluates expressions of one module."""

    def __init__(self, scopes: Scopes, surroundings: Surroundings) -> None:
        self.scopes = scopes
        self._surroundings = surroundings
        self._frames: list[tuple[Function, dict[str, Argument]]] = []
        self._known: dict[int, Argument] = {}
        self._depth = 0
        self._steps = 0

    def read(self, node: ast.expr) -> Argument:
        """The value of an expression with its source, or what it says where it can't be known."""
        try:
            given = self.given(node)
            return at(Given(plain(given.value), given.line, given.source, given.where, given.unless), node.lineno)
        except NotLiteral as error:
            return Unread(shown(node), node.lineno, varies=self.varies(node), cause=str(error))

    def given(self, node: ast.expr) -> Given:
        """The value of an expression. Raises NotLiteral."""
        known = self._known.get(id(node)) if not self._frames else None
        if known is None:
            known = self._evaluated(node)
            if not self._frames:
                self._known[id(node)] = known
        if isinstance(known, Unread):
            raise NotLiteral(known.cause)
        return known

    def record(self, node: ast.expr) -> Record:
        """The values that an expression stands for, by name. Raises NotLiteral."""
        found = self.given(node).value
        if not isinstance(found, Record):
            raise NotLiteral(shown(node))
        return found

    def holds(self, conditions: Sequence[Condition], around: Sequence[Condition] = ()) -> Given | None:
        """True, or false, where a statement is reached under these conditions from where the others hold; None where
        that is not known.
        """
        reasons: list[Given] = []
        unknown = False
        for condition in conditions:
            if condition in around:
                continue
            if condition.holds is None or not isinstance(condition.test, ast.expr):
                unknown = True
                continue
            try:
                test = self.given(condition.test)
            except NotLiteral:
                unknown = True
                continue
            if bool(test.value) is not condition.holds:
                return follows(False, [test])
            reasons.append(test)
        return None if unknown else follows(True, reasons)

    def varies(self, node: ast.AST) -> bool:
        """True where it calls a clock or a random number generator, itself or through a name that is bound once."""
        waiting, seen = [node], set[int]()
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if isinstance(one, ast.Call) and last_name(one.func) in CHANGING:
                return True
            if isinstance(one, ast.Name):
                _, bound = self.scopes.bindings(one.id, one)
                if len(bound) == 1 and isinstance(bound[0].value, ast.expr):
                    waiting.append(bound[0].value)
            waiting += ast.iter_child_nodes(one)
        return False

    def returned(self, function: Function, arguments: dict[str, Argument]) -> Given:
        """What a function of the module returns when it is called with these. Raises NotLiteral."""
        if any(frame is function for frame, _ in self._frames):
            raise NotLiteral(f"{function.name}()")
        self._frames.append((function, arguments))
        try:
            found = self._one([Binding(value, value.lineno, c) for value, c in self.scopes.returns(function)], ())
            if found is None:
                raise NotLiteral(f"{function.name}()")
            binding, reason = found
            assert isinstance(binding.value, ast.expr)
            given = self.given(binding.value)
            return follows(given.value, [given, reason], given.line)
        finally:
            self._frames.pop()

    def mapping(self, node: ast.expr) -> dict[str, Argument] | None:
        """The items of a dict, whatever of them can be known; None where its names can't be."""
        try:
            record = self.record(node)
        except NotLiteral:
            return None
        return None if record.rest else dict(record.fields)

    # -- expressions ---------------------------------------------------------------------------------------

    def _evaluated(self, node: ast.expr) -> Argument:
        self._depth += 1
        self._steps += 1
        try:
            if self._depth > _DEEPEST or self._steps > _MOST_STEPS:
                raise NotLiteral
            return value_of(node, self)
        except NotLiteral as error:
            return Unread(shown(node), node.lineno, cause=str(error))
        except (ArithmeticError, TypeError, ValueError, KeyError, IndexError, RecursionError):
            return Unread(shown(node), node.lineno)
        finally:
            self._depth -= 1

    def item(self, base: Given, key: Given) -> Given:
        """`base[key]`. Raises NotLiteral."""
        if isinstance(base.value, Record):
            return _inside(base, base.value[str(key.value)])
        if isinstance(base.value, (list, str)) and isinstance(key.value, int):
            return follows(base.value[key.value], [base, key])  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        raise NotLiteral

    def argument(self, node: ast.expr) -> Argument:
        """As `read`, with records left as they are."""
        try:
            return at(self.given(node), node.lineno)
        except NotLiteral as error:
            return Unread(shown(node), node.lineno, varies=self.varies(node), cause=str(error))

    # -- names ---------------------------------------------------------------------------------------------

    def name(self, node: ast.Name) -> Given:
        """What a name stands for where it is used. Raises NotLiteral."""
        scope, bindings = self.scopes.bindings(node.id, node)
        if not bindings:
            raise NotLiteral(node.id)
        found = self._one(bindings, self.scopes.context(node).conditions)
        if found is None:
            raise NotLiteral(node.id)
        binding, reason = found
        given = self._bound(binding, node.id, scope)
        given = follows(given.value, [given, reason], given.line)
        return changed(given, self.scopes.changes(scope, node.id), node, self)

    def _one(self, bindings: Sequence[Binding], around: Sequence[Condition]) -> tuple[Binding, Given] | None:
        """The only one of them that is reached, and why; None where several are, or nobody knows."""
        live: list[tuple[Binding, Given]] = []
        for binding in bindings:
            reason = self.holds(binding.conditions, around)
            if reason is None:
                return None
            if reason.value:
                live.append((binding, reason))
        return live[0] if len(live) == 1 else None

    def _bound(self, binding: Binding, name: str, scope: Scope) -> Given:
        value = binding.value
        if isinstance(value, ast.arg):
            if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
                raise NotLiteral(name)
            return self._parameter(scope, name)
        if isinstance(value, ast.ClassDef):
            return Given(self._attributes(value), value.lineno)
        if not isinstance(value, ast.expr):
            raise NotLiteral(name)
        given = self.given(value)
        if binding.part < 0:
            return given
        return self.item(given, Given(binding.part))

    def _attributes(self, cls: ast.ClassDef) -> Record:
        """What a class is given in its body: `class CFG: epochs = 3`. What is set in its methods is not known."""
        record = Record(kind=cls.name)
        for name, bindings in self.scopes.within(cls).items():
            found = self._one(bindings, ())
            value = found[0].value if found is not None and found[0].part < 0 else None
            if isinstance(value, ast.expr):
                record.fields[name] = self.argument(value)
            elif not isinstance(value, ast.ClassDef):
                record.fields[name] = Unread(f"{cls.name}.{name}", bindings[0].line)
        record.rest = cls.name if cls.bases else ""
        return record

    def _parameter(self, function: Function, name: str) -> Given:
        for frame, arguments in reversed(self._frames):
            if frame is function:
                return _known(arguments.get(name), name)
        outside = self._surroundings.parameter(function, name, self)
        if outside is not None:
            return _known(outside, name)
        calls = self._calls(function)
        if not calls:
            raise NotLiteral(name)
        found = [_known(self.arguments(call, function).get(name), name) for call in calls]
        if any(_differs(found[0].value, other.value) for other in found[1:]):
            raise NotLiteral(name)
        return follows(found[0].value, found)

    def _calls(self, function: Function) -> list[ast.Call]:
        """All calls of a function; none where it may be called by others, too."""
        scope, bindings = self.scopes.bindings(function.name, function)
        if len(bindings) != 1 or isinstance(scope, ast.ClassDef) or function.decorator_list:
            return []
        calls: list[ast.Call] = []
        uses = 0
        for node in self.scopes.nodes:
            if isinstance(node, ast.Name) and node.id == function.name and isinstance(node.ctx, ast.Load):
                uses += 1
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function.name:
                calls.append(node)
        return calls if uses == len(calls) else []

    def arguments(self, call: ast.Call, function: Function) -> dict[str, Argument]:
        """What a call gives each parameter of a function; the defaults where it says nothing."""
        given = function.args
        names = [one.arg for one in (*given.posonlyargs, *given.args)]
        found: dict[str, Argument] = {}
        for default, name in zip(reversed(given.defaults), reversed(names), strict=False):
            found[name] = self.argument(default)
        for default, one in zip(given.kw_defaults, given.kwonlyargs, strict=True):
            if default is not None:
                found[one.arg] = self.argument(default)
        for number, value in enumerate(call.args):
            if isinstance(value, ast.Starred):
                found |= self._starred(value.value, names[number:])
                break
            if number < len(names):
                found[names[number]] = self.argument(value)
        for keyword in call.keywords:
            if keyword.arg is not None:
                found[keyword.arg] = self.argument(keyword.value)
                continue
            inner = self.mapping(keyword.value)
            cause = shown(keyword.value)
            found |= inner if inner is not None else {n: Unread(f"**{cause}", call.lineno, cause=cause) for n in names}
        return found

    def _starred(self, node: ast.expr, names: Sequence[str]) -> dict[str, Argument]:
        try:
            given = self.given(node)
            values: list[Any] | None = given.value if isinstance(given.value, list) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        except NotLiteral:
            values = None
        if values is None:
            return {name: Unread(f"*{shown(node)}", node.lineno) for name in names}
        return {name: Given(value, node.lineno) for name, value in zip(names, values, strict=False)}

    # -- attributes ------------------------ --------------------------------------------------------------

    def attribute(self, node: ast.Attribute) -> Given:
        """`base.name`, with what was set under it before. Raises NotLiteral."""
        base, name = node.value, node.attr
        if isinstance(base, ast.Name):
            scope, _ = self.scopes.bindings(base.id, base)
            sets = [c for c in self.scopes.changes(scope, base.id) if c.kind == "attribute" and c.key == name]
            latest = latest_of(sets, node, self)
            if latest is not None:
                return latest
        given = self.given(base)
        if isinstance(given.value, Record):
            return _inside(given, given.value[name])
        if isinstance(given.value, str) and name in ("name", "stem", "parent"):  # of a path
            path = os.path.split(given.value)
            return follows({"parent": path[0], "name": path[1], "stem": os.path.splitext(path[1])[0]}[name], [given])
        raise NotLiteral(shown(base))

    # -- calls ---------------------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> Given:
        """What a call returns. Raises NotLiteral."""
        if isinstance(node.func, ast.Name):
            _, bindings = self.scopes.bindings(node.func.id, node)
            function = bindings[0].value if len(bindings) == 1 else None
            if isinstance(function, ast.FunctionDef):
                return self.returned(function, self.arguments(node, function))
        found = self._surroundings.result(node, self)
        if found is not None:
            return found
        return call_of(node, last_name(node.func), self)


def _inside(outer: Given, inner: Given) -> Given:
    """A part of something: as firm as that, and its own where it says where it stands."""
    if inner.where is not None or inner.source is not Source.LITERAL or inner.unless:
        return inner
    return follows(inner.value, [inner, outer], inner.line)


def _known(argument: Argument | None, name: str) -> Given:
    if isinstance(argument, Given):
        return argument
    raise NotLiteral((argument.cause or name) if argument else name)


def _differs(one: Any, other: Any) -> bool:
    return isinstance(one, Record) or type(one) is not type(other) or one != other
