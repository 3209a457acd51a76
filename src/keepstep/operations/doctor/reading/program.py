"""A program as it is started: what its parsers make of a command line, and of the files that it opens."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keepstep.operations.doctor.reading import files
from keepstep.operations.doctor.reading.coercion import guessed
from keepstep.operations.doctor.reading.command_line import ASK, CommandLine, Option, Options, Word
from keepstep.operations.doctor.reading.evaluating import Evaluator
from keepstep.operations.doctor.reading.fields import Fields, names_of
from keepstep.operations.doctor.reading.scopes import Function, Scopes
from keepstep.operations.doctor.reading.values import COMMAND_LINE, NotLiteral, Record, follows, last_name, shown
from keepstep.operations.doctor.settings import Argument, Given, Source

PARSERS = ("HfArgumentParser", "TrlParser", "H4ArgumentParser")
"""Parsers that make dataclasses of a command line."""
_INTO_CLASSES = frozenset({"parse_args_into_dataclasses", "parse_args_and_config", "parse"})
_FROM_FILE = frozenset({"parse_json_file", "parse_yaml_file"})
_OF_CLASS = ("tyro.cli", "simple_parsing.parse", "draccus.parse", "pyrallis.parse", "jsonargparse.CLI", "CLI")
_LOADERS = frozenset(
    {"safe_load", "full_load", "load", "loads", "unsafe_load", "load_yaml", "read_yaml", "load_config"}
)
_OPENERS = frozenset({"open", "read_text", "read"})
_CALLERS = (
    "fire.Fire",
    "Fire",
    "typer.run",
    "tyro.cli",
    "jsonargparse.CLI",
    "CLI",
    "auto_cli",
    "defopt.run",
    "plac.call",
)
"""Functions that call another one with the command line."""
_COMMANDS = frozenset({"command", "callback", "option", "argument"})
"""Decorators of click and typer."""
_WRAPPERS = frozenset({"draccus.wrap", "pyrallis.wrap"})


class Program:
    """What a script gets from outside of its text: implements what the evaluator asks.

    `line` is None where nobody knows how it is started. `unknown` are the flags that are no options of it.
    """

    def __init__(self, path: Path, scopes: Scopes, origin: Callable[[ast.expr], str], line: CommandLine | None) -> None:
        self.line = line
        self.unknown: list[Word] = []
        self._path = path
        self._scopes = scopes
        self._origin = origin
        self._calls = [node for node in scopes.nodes if isinstance(node, ast.Call)]
        classes = {node.name: node for node in scopes.nodes if isinstance(node, ast.ClassDef)}
        self._fields = Fields(str(path), classes)
        self._made: dict[int, Record] = {}
        self._parsed: dict[int, list[Record]] = {}

    # -- what the evaluator asks -----------------------------------------------------------------------------

    def result(self, call: ast.Call, evaluator: Evaluator) -> Given | None:
        """What a parser or a reader of files returns; None for any other call. Raises NotLiteral."""
        name = last_name(call.func)
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if name in ("parse_args", "parse_known_args") and owner is not None:
            record = self._arguments(owner, evaluator)
            return Given(record if name == "parse_args" else [record, []], call.lineno)
        if name in _INTO_CLASSES | _FROM_FILE and owner is not None and (parser := self._parser(owner)) is not None:
            records = self.classes(parser, evaluator)
            if name in _FROM_FILE:
                return Given([self._from_file(record, call, evaluator) for record in records], call.lineno)
            single = name == "parse_args_and_config" and len(records) == 1
            return Given(records[0] if single else list(records), call.lineno)
        if self._origin(call.func) in _OF_CLASS and (of := _first(call)) is not None:
            options = self._fields.of_class(last_name(of), evaluator)
            if options is not None:
                return Given(self._record(call, options), call.lineno)
        if name in _OPENERS:
            opened = (
                owner
                if owner is not None and self._origin(call.func) not in ("io.open", "codecs.open")
                else _first(call)
            )
            return evaluator.given(opened) if opened is not None else None
        if name in _LOADERS and (read := _first(call)) is not None:
            return self._file(evaluator.given(read), call)
        return None

    def parameter(self, function: Function, name: str, evaluator: Evaluator) -> Argument | None:
        """What a command line gives the parameter of a function that it calls; None where it calls it not."""
        parameters = [one.arg for one in function.args.args]
        for decorator in function.decorator_list:
            dotted = self._origin(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if dotted == "hydra.main" and parameters[:1] == [name] and isinstance(decorator, ast.Call):
                return Given(self._hydra(decorator, evaluator), function.lineno)
            if dotted in _WRAPPERS and parameters[:1] == [name]:
                options = self._fields.of_class(last_name(function.args.args[0].annotation), evaluator)
                return Given(self._record(function, options), function.lineno) if options else None
        if not self._is_called(function):
            return None
        record = self._record(function, self._fields.of_function(function, evaluator))
        return record.fields.get(name)

    def fields(self, name: str, evaluator: Evaluator) -> Record | None:
        """The defaults of a dataclass of the file, which whoever makes it may leave; None where it is not there."""
        options = self._fields.of_class(name, evaluator)
        if options is None:
            return None
        fields: dict[str, Argument] = {o.name: o.default for o in options.options if isinstance(o.default, Given)}
        return Record(fields, kind=name)

    def parser_of(self, call: ast.Call) -> ast.Call | None:
        """The call that made the parser whose result this is."""
        return self._parser(call.func.value) if isinstance(call.func, ast.Attribute) else None

    # -- parsers -----------------------------------------------------------------------------------------------

    def parsers(self) -> Iterator[ast.Call]:
        """Every call that makes a parser of dataclasses."""
        return (call for call in self._calls if last_name(call.func) in PARSERS)

    def class_names(self, parser: ast.Call) -> list[str]:
        """The dataclasses that a parser fills."""
        given = _first(parser) or next((k.value for k in parser.keywords if k.arg == "dataclass_types"), None)
        if isinstance(given, ast.Name):
            _, bound = self._scopes.bindings(given.id, given)
            if len(bound) == 1 and isinstance(bound[0].value, (ast.Tuple, ast.List)):
                given = bound[0].value
        return [self._origin_name(name) for name in names_of(given)] if given is not None else []

    def classes(self, parser: ast.Call, evaluator: Evaluator) -> list[Record]:
        """What a parser of dataclasses makes of the command line, a record for each of them."""
        if id(parser) not in self._parsed:
            self._parsed[id(parser)] = self._filled(parser, evaluator)
        return self._parsed[id(parser)]

    def _filled(self, parser: ast.Call, evaluator: Evaluator) -> list[Record]:
        names = self.class_names(parser)
        each = [self._fields.of_class(name, evaluator) or Options(free=True, kind=name) for name in names]
        line = self.line
        if line is None:
            return [options.record(None)[0] for options in each]
        config = self._config(line)
        left, records = list(line.words), dict[int, Record]()
        # Classes that are all there take what is theirs; those of other files may have any of the rest.
        for options in sorted(each, key=lambda options: options.free):
            record, unknown = options.record(CommandLine(tuple(left), line.where))
            for name, value in config.items():
                if (name in record.fields or options.free) and not _on_line(record.fields.get(name)):
                    record.fields[name] = value
            records[id(options)] = record
            if not options.free:
                left = self._words_of(left, unknown)
        if not any(options.free for options in each):
            self.unknown += [word for word in left if word.text.startswith("--") and word.text != "--config"]
        return [records[id(options)] for options in each]

    @staticmethod
    def _words_of(words: list[Word], flags: list[Word]) -> list[Word]:
        """The words of the flags that are left, with the values behind them."""
        names = {(flag.text, flag.where) for flag in flags}
        found: list[Word] = []
        taking = False
        for word in words:
            if word.text.startswith("--"):
                taking = (word.text.partition("=")[0], word.where) in names
            if taking:
                found.append(word)
        return found

    def _config(self, line: CommandLine) -> dict[str, Argument]:
        """The file that a command line names: TRL's `--config`, or the only word, for HfArgumentParser."""
        words = [word.text for word in line.words]
        name = ""
        if "--config" in words[:-1]:
            name = words[words.index("--config") + 1]
        elif len(words) == 1 and words[0].endswith(files.ENDINGS):
            name = words[0]
        name = next((word[len("--config=") :] for word in words if word.startswith("--config=")), name)
        if not name:
            return {}
        near = Path(line.where.path) if line.where.path != COMMAND_LINE else self._path
        try:
            return dict(files.load(name, near if files.find(name, near) else self._path).fields)
        except NotLiteral:
            return {}

    def _from_file(self, record: Record, call: ast.Call, evaluator: Evaluator) -> Record:
        """A dataclass that a script fills from a file that it names itself."""
        value = _first(call) or next((k.value for k in call.keywords), None)
        if value is None:
            return record
        read = files.load(str(evaluator.given(value).value), self._path)
        found = record.copy()
        found.fields |= {name: given for name, given in read.fields.items() if name in record.fields or record.rest}
        found.rest = ""
        return found

    def _parser(self, owner: ast.expr) -> ast.Call | None:
        """The call that made the parser which an expression stands for."""
        if isinstance(owner, ast.Call) and last_name(owner.func) in PARSERS:
            return owner
        if isinstance(owner, ast.Name):
            _, bound = self._scopes.bindings(owner.id, owner)
            made = [one.value for one in bound if isinstance(one.value, ast.Call)]
            return next((call for call in made if last_name(call.func) in PARSERS), None)
        return None

    def _arguments(self, owner: ast.expr, evaluator: Evaluator) -> Record:
        """argparse's namespace, or that of a typed parser: `Arguments().parse_args()`."""
        if isinstance(owner, ast.Call):
            options = self._fields.of_class(last_name(owner.func), evaluator)
            if options is not None:
                return self._record(owner, options)
        options = self._fields.of_parser(self._calls, evaluator)
        if not options.options:
            raise NotLiteral(ASK)
        record = self._record(self._scopes.tree, options)
        record.rest = record.rest or ASK
        return record

    def _record(self, key: ast.AST, options: Options) -> Record:
        if id(key) not in self._made:
            record, unknown = options.record(self.line)
            self._made[id(key)] = record
            self.unknown += unknown
        return self._made[id(key)]

    def _is_called(self, function: Function) -> bool:
        for decorator in function.decorator_list:
            made = decorator.func if isinstance(decorator, ast.Call) else decorator
            if last_name(made) in _COMMANDS:
                return True
        for call in self._calls:
            if self._origin(call.func) in _CALLERS:
                given = _first(call)
                if given is None:
                    return True
                if any(isinstance(part, ast.Name) and part.id == function.name for part in ast.walk(given)):
                    return True
        return False

    # -- files -------------------------------------------------------------------------------------------------

    def _file(self, name: Given, call: ast.Call) -> Given | None:
        if not isinstance(name.value, str):
            return None
        record = files.load(name.value, self._path)
        # A file that only a default names is one that the command line may change.
        return (
            follows(record, [name], call.lineno) if not name.unless else Given(_open(record, name.unless), call.lineno)
        )

    def _hydra(self, decorator: ast.Call, evaluator: Evaluator) -> Record:
        """The primary config; what a defaults list brings is not known. The command line may change every value."""
        given: dict[str, Any] = {}
        for name, value in [*zip(("config_path", "config_name"), decorator.args, strict=False),
                            *((k.arg, k.value) for k in decorator.keywords)]:  # fmt: skip
            if name:
                given[name] = evaluator.given(value).value
        name = str(given.get("config_name") or "config").removesuffix(".yaml")
        folder = self._path.parent / str(given.get("config_path") or ".")
        record = files.load(str(folder / f"{name}.yaml"), self._path).copy()
        listed = record.fields.pop("defaults", None)
        entries: Any = listed.value if isinstance(listed, Given) else None
        if isinstance(entries, list):
            for entry in entries:  # pyright: ignore[reportUnknownVariableType]
                groups = list(entry.fields) if isinstance(entry, Record) else []
                record.rest = record.rest or (f"the defaults list of {name}.yaml" if entry != "_self_" else "")
                for group in groups:
                    record.fields.pop(group.partition("@")[0].split("/")[-1].split()[-1], None)
        if self.line is None:
            return _open(record, COMMAND_LINE)
        for word in self.line.words:
            path, equals, text = word.text.lstrip("+").partition("=")
            if equals and not path.startswith("-"):
                _override(
                    record, path.split("."), Given(guessed(text), 0, Source.COMMAND_LINE, word.where, word.unless)
                )
        return record

    def _origin_name(self, name: str) -> str:
        return self._origin(ast.Name(name, ast.Load())).rpartition(".")[2]


def _first(call: ast.Call) -> ast.expr | None:
    if call.args:
        return call.args[0]
    return next((k.value for k in call.keywords if k.arg in ("config_class", "f", "args", "stream")), None)


def _on_line(argument: Argument | None) -> bool:
    """True for what the command line says itself, which wins over a file."""
    return isinstance(argument, Given) and argument.source is Source.COMMAND_LINE


def _open(record: Record, unless: str) -> Record:
    """The same, where something may say otherwise."""
    found = record.copy()
    for name, value in record.fields.items():
        if isinstance(value, Given):
            inner = _open(value.value, unless) if isinstance(value.value, Record) else value.value
            found.fields[name] = Given(inner, value.line, value.source, value.where, unless)
    return found


def _override(record: Record, path: list[str], value: Given) -> None:
    *above, last = path
    for name in above:
        given = record.fields.get(name)
        if not isinstance(given, Given) or not isinstance(given.value, Record):
            given = record.fields[name] = Given(Record())
        record = given.value
    record.fields[last] = value


__all__ = ["PARSERS", "Option", "Program", "shown"]
