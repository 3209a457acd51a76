"""The names of one module: what each scope binds them to, under which conditions, and what is changed later."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.Module | ast.ClassDef | ast.Lambda | Function
CHANGES = frozenset({"update", "pop", "setdefault", "clear", "append", "extend", "popitem", "insert", "remove"})
"""Methods that change a dict or a list in place."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A branch: the test, and what it has to be; None where no test tells: a loop, a handler."""

    test: ast.AST
    holds: bool | None


@dataclass(frozen=True, slots=True)
class Context:
    """Where a node stands: its scope, and the branches around it inside of that scope."""

    scope: Scope
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Binding:
    """What a name is bound to; `value` None where no expression tells. `part` is the place in what is unpacked, -1 for
    all of it.
    """

    value: ast.expr | Function | ast.ClassDef | ast.arg | None
    line: int
    conditions: tuple[Condition, ...]
    part: int = -1


@dataclass(frozen=True, slots=True)
class Change:
    """`name.attr = value`, `name["key"] = value`, or `name.update(...)`; `key` None where it is not known."""

    kind: str
    key: str | None
    value: ast.expr | None
    line: int
    conditions: tuple[Condition, ...]
    call: ast.Call | None = None


@dataclass(slots=True)
class Scopes:
    """Everything that is bound or changed in a module, by scope and name."""

    tree: ast.Module
    nodes: list[ast.AST] = field(default_factory=list[ast.AST])
    _contexts: dict[int, Context] = field(default_factory=dict[int, Context])
    _bindings: dict[tuple[int, str], list[Binding]] = field(default_factory=dict[tuple[int, str], list[Binding]])
    _changes: dict[tuple[int, str], list[Change]] = field(default_factory=dict[tuple[int, str], list[Change]])
    _changed: list[tuple[ast.AST, str, Change]] = field(default_factory=list[tuple[ast.AST, str, Change]])
    _parents: dict[int, Scope] = field(default_factory=dict[int, Scope])
    _globals: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])

    def __post_init__(self) -> None:
        waiting: list[tuple[ast.AST, Context]] = [(self.tree, Context(self.tree))]
        while waiting:
            node, context = waiting.pop()
            self.nodes.append(node)
            self._contexts[id(node)] = context
            self._take(node, context)
            waiting += reversed(list(_children(node, context, self._parents)))
        for owner, name, change in self._changed:
            scope, _ = self.bindings(name, owner)
            # When the function of a change is called, nobody knows.
            elsewhere = () if scope is self.context(owner).scope else (Condition(owner, None),)
            conditions = (*change.conditions, *elsewhere)
            self._changes.setdefault((id(scope), name), []).append(replace(change, conditions=conditions))

    def context(self, node: ast.AST) -> Context:
        return self._contexts.get(id(node)) or Context(self.tree)

    def bindings(self, name: str, node: ast.AST) -> tuple[Scope, list[Binding]]:
        """The scope that a name belongs to where the node stands, and what it is bound to there."""
        scope = self.context(node).scope
        while True:
            found = self._bindings.get((id(scope), name))
            hidden = isinstance(scope, ast.ClassDef) and scope is not self.context(node).scope
            if (id(scope), name) in self._globals:
                scope = self.tree
                continue
            if found and not hidden:
                return scope, found
            parent = self._parents.get(id(scope))
            if parent is None:
                return self.tree, []
            scope = parent

    def changes(self, scope: Scope, name: str) -> list[Change]:
        """Changes of what a name stands for, in the order of their lines."""
        return self._changes.get((id(scope), name), [])

    def changes_anywhere(self, name: str) -> list[Change]:
        """Changes under that name in all scopes."""
        return [change for (_, other), found in self._changes.items() if other == name for change in found]

    def unpacked(self, is_value: Callable[[ast.expr], bool], number: int, of: int) -> Iterator[str]:
        """Names that the part of that number is bound to, of values that a test tells; the only part may be unpacked,
        or picked by its place, or be the value itself.
        """
        for (_, name), bindings in self._bindings.items():
            for binding in bindings:
                value, part = binding.value, binding.part
                if isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant):
                    value, part = value.value, value.slice.value
                if isinstance(value, ast.expr) and is_value(value) and part in ((number, -1) if of == 1 else (number,)):
                    yield name
                    break

    def within(self, cls: ast.ClassDef) -> dict[str, list[Binding]]:
        """What the body of a class binds, by name."""
        return {name: found for (scope, name), found in self._bindings.items() if scope == id(cls)}

    def returns(self, function: Function) -> list[tuple[ast.expr, tuple[Condition, ...]]]:
        """What a function returns, and when."""
        return [
            (node.value, self.context(node).conditions)
            for node in self.nodes
            if isinstance(node, ast.Return) and node.value is not None and self.context(node).scope is function
        ]

    # -- gathering -----------------------------------------------------------------------------------------

    def _take(self, node: ast.AST, context: Context) -> None:
        for target, value in _assigned(node):
            self._assign(target, value, context)
        for name, value in _named(node):
            self._bind(context, name, Binding(value, getattr(node, "lineno", 0), context.conditions))
        match node:
            case ast.Global(names=names):
                self._globals |= {(id(context.scope), name) for name in names}
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name) as owner, attr=method)) if method in CHANGES:
                change = Change(method, None, None, node.lineno, context.conditions, node)
                self._changed.append((owner, name, change))
            case _:
                pass

    def _assign(self, target: ast.expr, value: ast.expr | None, context: Context) -> None:
        conditions = context.conditions
        match target:
            case ast.Name(id=name):
                self._bind(context, name, Binding(value, target.lineno, conditions))
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                starred = False
                for number, part in enumerate(parts):
                    starred = starred or isinstance(part, ast.Starred)
                    if isinstance(part, ast.Name):
                        known = None if starred else value
                        self._bind(context, part.id, Binding(known, part.lineno, conditions, number))
                    else:
                        self._assign(part.value if isinstance(part, ast.Starred) else part, None, context)
            case ast.Attribute(value=ast.Name(id=name) as owner, attr=attribute):
                self._changed.append((owner, name, Change("attribute", attribute, value, target.lineno, conditions)))
            case ast.Subscript(value=ast.Name(id=name) as owner, slice=key):
                known = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
                self._changed.append((owner, name, Change("item", known, value, target.lineno, conditions)))
            case _:
                pass

    def _bind(self, context: Context, name: str, binding: Binding) -> None:
        self._bindings.setdefault((id(context.scope), name), []).append(binding)


def _assigned(node: ast.AST) -> list[tuple[ast.expr, ast.expr | None]]:
    """What a statement assigns to, each with the expression that it gets; None where no expression tells."""
    match node:
        case ast.Assign(targets=targets, value=value):
            return [(target, value) for target in targets]
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
            return [(target, value)]
        case ast.AugAssign(target=target) | ast.For(target=target) | ast.AsyncFor(target=target):
            return [(target, None)]
        case ast.Delete(targets=targets):
            return [(target, None) for target in targets]
        case ast.With(items=items) | ast.AsyncWith(items=items):
            return [(item.optional_vars, item.context_expr) for item in items if item.optional_vars is not None]
        case _:
            return []


def _named(node: ast.AST) -> list[tuple[str, Function | ast.ClassDef | ast.arg | None]]:
    """Names that a node binds by itself, and what to."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return [(name, node)]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [(alias.asname or alias.name.partition(".")[0], None) for alias in names]
        case ast.ExceptHandler(name=str() as name):
            return [(name, None)]
        case ast.Nonlocal(names=names):
            return [(name, None) for name in names]
        case _:
            return []


def _children(node: ast.AST, context: Context, parents: dict[int, Scope]) -> Iterator[tuple[ast.AST, Context]]:
    """The nodes below one, each with where it stands."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            parents[id(node)] = context.scope
            inside = Context(node)
            arguments = node.args
            outside: list[ast.AST] = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
            if not isinstance(node, ast.Lambda):
                outside += [*node.decorator_list, *([node.returns] if node.returns else [])]
            yield from ((one, context) for one in outside)
            extra = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
            names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]
            yield from ((one, inside) for one in names)
            body = [node.body] if isinstance(node, ast.Lambda) else node.body
            yield from ((one, inside) for one in body)
        case ast.ClassDef():
            parents[id(node)] = context.scope
            yield from ((one, context) for one in (*node.decorator_list, *node.bases, *node.keywords))
            yield from ((one, Context(node)) for one in node.body)
        case ast.If(test=test, body=body, orelse=orelse):
            yield test, context
            main = _is_main(test)
            yield from ((one, context if main else _under(context, test, holds=True)) for one in body)
            yield from ((one, _under(context, test, holds=False)) for one in orelse)
        case ast.For() | ast.AsyncFor() | ast.While():
            looped = _under(context, node, holds=None)
            before = [node.test] if isinstance(node, ast.While) else [node.target, node.iter]
            yield from ((one, context) for one in before)
            yield from ((one, looped) for one in (*node.body, *node.orelse))
        case ast.Try() | ast.TryStar():
            yield from ((one, context) for one in node.body)
            for handler in node.handlers:
                yield handler, _under(context, handler, holds=None)
            yield from ((one, context) for one in (*node.orelse, *node.finalbody))
        case ast.match_case():
            case_ = _under(context, node, holds=None)
            yield from ((one, case_) for one in ast.iter_child_nodes(node))
        case _:
            yield from ((one, context) for one in ast.iter_child_nodes(node))


def _under(context: Context, test: ast.AST, *, holds: bool | None) -> Context:
    return Context(context.scope, (*context.conditions, Condition(test, holds)))


def _is_main(test: ast.expr) -> bool:
    """`if __name__ == "__main__"`: what is read is the program that is started."""
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"
