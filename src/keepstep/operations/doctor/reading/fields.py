"""Options of a program from its text: `add_argument`, dataclass fields, click's decorators, a function's parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading.coercion import kind_of_annotation
from keepstep.operations.doctor.reading.command_line import ASK, Option, Options
from keepstep.operations.doctor.reading.scopes import Function
from keepstep.operations.doctor.reading.values import NotLiteral, last_name, shown
from keepstep.operations.doctor.settings import Argument, Given, Source, Unread

_DEEPEST = 8


class Evaluator(Protocol):
    """What is asked of whoever evaluates defaults."""

    def argument(self, node: ast.expr) -> Argument: ...

    def given(self, node: ast.expr) -> Given: ...


class Fields:
    """Makes options of a file's text; `path` is the file."""

    def __init__(self, path: str, classes: Mapping[str, ast.ClassDef]) -> None:
        self._path = path
        self._classes = classes

    def of_parser(self, calls: Iterable[ast.Call], evaluator: Evaluator) -> Options:
        """All options of argparse's parsers in the file."""
        options: dict[str, Option] = {}
        changed: dict[str, Argument] = {}
        for call in calls:
            name = last_name(call.func)
            if name == "add_argument" and isinstance(call.func, ast.Attribute):
                option = self._added(call, evaluator)
                if option is not None:
                    options[option.name] = _ambiguous(options.get(option.name), option)
            elif name == "set_defaults":
                changed |= {k.arg: self._default(k.value, evaluator) for k in call.keywords if k.arg}
        made = [Option(o.name, o.flags, changed.get(o.name, o.default), o.kind, o.present, o.optional_value, o.many)
                for o in options.values()]  # fmt: skip
        return Options(made, loose=False)

    def of_class(self, name: str, evaluator: Evaluator, deep: int = 0) -> Options | None:
        """The fields of a dataclass of the file, those of its bases there first; None for any other class.

        It is `free` where a base is in another file.
        """
        cls = self._classes.get(name)
        if cls is None or deep > _DEEPEST:
            return None
        options: dict[str, Option] = {}
        free = False
        for base in cls.bases:
            short = last_name(base.value if isinstance(base, ast.Subscript) else base)
            inner = self.of_class(short, evaluator, deep + 1) if short != name or isinstance(base, ast.Name) else None
            free = free or (inner is None and short not in ("object", "ABC", "Generic")) or bool(inner and inner.free)
            options |= {option.name: option for option in (inner.options if inner else ())}
        for statement in cls.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if "ClassVar" in ast.unparse(statement.annotation):
                    continue
                option = self._field(statement.target.id, statement, evaluator, deep)
                options[option.name] = option
        return Options(list(options.values()), free=free, kind=name)

    def of_function(self, function: Function, evaluator: Evaluator) -> Options:
        """The parameters of a function that a command line calls; click's decorators give them names and defaults."""
        given = function.args
        names = [*given.posonlyargs, *given.args]
        defaults: dict[str, ast.expr] = {
            one.arg: value for value, one in zip(reversed(given.defaults), reversed(names), strict=False)
        }
        defaults |= {o.arg: v for v, o in zip(given.kw_defaults, given.kwonlyargs, strict=True) if v is not None}
        options = {
            one.arg: self._parameter(one, defaults.get(one.arg), evaluator) for one in (*names, *given.kwonlyargs)
        }
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and last_name(decorator.func) in ("option", "argument"):
                option = self._clicked(decorator, evaluator)
                options[option.name] = option
        return Options(list(options.values()))

    # -- one option ----------------------------------------------------------------------------------------

    def _added(self, call: ast.Call, evaluator: Evaluator) -> Option | None:
        names = [str(a.value) for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        keywords = {k.arg: k.value for k in call.keywords if k.arg}
        flags = tuple(name for name in names if name.startswith("-"))
        long = next((name for name in flags if name.startswith("--")), next(iter(names), ""))
        dest = _text(keywords.get("dest")) or long.lstrip("-").replace("-", "_")
        if not dest:
            return None
        action = _text(keywords.get("action")) or last_name(keywords.get("action"))
        present, default = None, keywords.get("default")
        if action in ("store_true", "BooleanOptionalAction"):
            present = True
        elif action == "store_false":
            present = False
        elif action == "store_const" and "const" in keywords:
            present = _literal(keywords["const"], evaluator)
        if action == "BooleanOptionalAction":
            flags += tuple("--no-" + flag[2:] for flag in flags if flag.startswith("--"))
        nargs = keywords.get("nargs")
        many = isinstance(nargs, ast.Constant) and (nargs.value in ("+", "*") or isinstance(nargs.value, int))
        optional = isinstance(nargs, ast.Constant) and nargs.value == "?"
        if optional:
            present = _literal(keywords["const"], evaluator) if "const" in keywords else None
        if default is not None:
            value = self._default(default, evaluator)
        elif _is_true(keywords.get("required")) or not flags:
            value = Unread(f"{dest}", call.lineno, cause=ASK)
        else:
            blank = (not present) if action in ("store_true", "store_false") else None
            value = Given(blank, call.lineno, Source.DEFAULT, Where(self._path, call.lineno))
        kind = kind_of_annotation(keywords.get("type")) if "type" in keywords else "str"
        return Option(dest, flags, value, kind, present, optional, bool(many))

    def _field(self, name: str, statement: ast.AnnAssign, evaluator: Evaluator, deep: int) -> Option:
        value = statement.value
        inner: Options | None = None
        if isinstance(value, ast.Call) and last_name(value.func) in ("field", "Field", "HfArg", "Arg"):
            keywords = {k.arg: k.value for k in value.keywords if k.arg}
            factory = keywords.get("default_factory")
            if factory is not None:
                inner = self.of_class(last_name(factory), evaluator, deep + 1)
            value = (
                keywords.get("default") or _made(factory) or (value.args[0] if value.args and factory is None else None)
            )
        elif isinstance(value, ast.Call) and not value.args and not value.keywords:
            inner = self.of_class(last_name(value.func), evaluator, deep + 1)
        elif value is None:
            inner = self.of_class(last_name(statement.annotation), evaluator, deep + 1)
        kind = kind_of_annotation(statement.annotation)
        default: Argument = Unread(name, statement.lineno, cause=ASK)
        if value is not None and inner is None:
            default = self._default(value, evaluator)
        flags = (f"--{name}", f"--no_{name}") if kind == "bool" else (f"--{name}",)
        return Option(name, flags, default, kind, True if kind == "bool" else None, kind == "bool", inner=inner)

    def _parameter(self, parameter: ast.arg, default: ast.expr | None, evaluator: Evaluator) -> Option:
        kind = kind_of_annotation(parameter.annotation)
        value: Argument = Unread(parameter.arg, parameter.lineno, cause=ASK)
        if isinstance(default, ast.Call) and last_name(default.func) in ("Option", "Argument"):  # typer
            first = default.args[0] if default.args else None
            keywords = {k.arg: k.value for k in default.keywords}
            default = keywords.get("default") or first
            if isinstance(default, ast.Constant) and default.value is Ellipsis:
                default = None
        if default is not None:
            value = self._default(default, evaluator)
        name = parameter.arg
        flags = (f"--{name}", f"--no_{name}") if kind == "bool" else (f"--{name}",)
        return Option(name, flags, value, kind, True if kind == "bool" else None, kind == "bool")

    def _clicked(self, call: ast.Call, evaluator: Evaluator) -> Option:
        names = [str(a.value) for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        keywords = {k.arg: k.value for k in call.keywords if k.arg}
        flags = tuple(part for name in names if name.startswith("-") for part in name.split("/"))
        own = next((name for name in names if not name.startswith("-")), "")
        longest = next((flag for flag in flags if flag.startswith("--")), next(iter(flags), ""))
        name = own or longest.lstrip("-").replace("-", "_")
        default, is_flag = keywords.get("default"), _is_true(keywords.get("is_flag")) or "/" in "".join(names)
        value: Argument = Unread(name, call.lineno, cause=ASK)
        if default is not None:
            value = self._default(default, evaluator)
        elif not _is_true(keywords.get("required")) and last_name(call.func) == "option":
            blank = False if is_flag else None
            value = Given(blank, call.lineno, Source.DEFAULT, Where(self._path, call.lineno))
        kind = kind_of_annotation(keywords.get("type")) if "type" in keywords else "any"
        return Option(name, flags, value, kind, True if is_flag else None)

    def _default(self, node: ast.expr, evaluator: Evaluator) -> Argument:
        found = evaluator.argument(node)
        if isinstance(found, Unread):
            return found
        where = found.where or Where(self._path, node.lineno)
        return Given(found.value, node.lineno, Source.DEFAULT, where, found.unless)


def _ambiguous(before: Option | None, option: Option) -> Option:
    """Two parsers with one option: its default is known where they agree."""
    if before is None:
        return option
    one, two = before.default, option.default
    if isinstance(one, Given) and isinstance(two, Given) and one.value == two.value:
        return option
    unknown = Unread(option.name, option.default.line, cause=ASK)
    return Option(option.name, option.flags, unknown, option.kind, option.present, option.optional_value, option.many)


def _made(factory: ast.expr | None) -> ast.expr | None:
    """What a factory makes, as an expression: `lambda: ["a"]`, `list`."""
    if isinstance(factory, ast.Lambda):
        return factory.body
    return {"list": ast.List([], ast.Load(), lineno=0), "dict": ast.Dict([], [], lineno=0)}.get(last_name(factory))


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _literal(node: ast.expr, evaluator: Evaluator) -> Any:
    try:
        return evaluator.given(node).value
    except NotLiteral:
        return None


def names_of(node: ast.expr) -> Iterator[str]:
    """The class names in what a parser is given: `(ModelArguments, TrainingArguments)`, or one alone."""
    if isinstance(node, (ast.Tuple, ast.List)):
        for part in node.elts:
            yield from names_of(part)
    else:
        yield last_name(node) or shown(node)
