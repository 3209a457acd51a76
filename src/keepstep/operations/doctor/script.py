"""A training script, read without being run: its configs, what it attaches, what it resumes from, what it loads."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from keepstep.errors import SettingsError
from keepstep.operations.doctor.adapters import adapter_facts, configures_adapter
from keepstep.operations.doctor.facts import Facts, Model
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading.coercion import of_setting
from keepstep.operations.doctor.reading.command_line import CommandLine
from keepstep.operations.doctor.reading.evaluating import Evaluator
from keepstep.operations.doctor.reading.notebook import read_notebook
from keepstep.operations.doctor.reading.program import Program
from keepstep.operations.doctor.reading.scopes import Scopes
from keepstep.operations.doctor.reading.texts import read_text
from keepstep.operations.doctor.reading.values import NotLiteral, last_name, plain, shown
from keepstep.operations.doctor.settings import OLD_NAMES, Argument, Given, Settings, Source, Unread

_TRL_CONFIGS = frozenset({
    "SFTConfig", "DPOConfig", "KTOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig", "ORPOConfig", "CPOConfig",
    "OnlineDPOConfig", "GKDConfig", "PRMConfig", "BCOConfig", "NashMDConfig", "XPOConfig", "PPOConfig",
})  # fmt: skip
_LIBRARIES = ("transformers", "trl", "Trainer", "TrainingArguments", "llamafactory", "axolotl", "unsloth")
_SEEDERS = frozenset({"set_seed", "manual_seed", "manual_seed_all", "seed_everything"})
_ONLY_LOOKING = frozenset({"evaluate", "predict", "log_metrics", "save_metrics", "log", "args", "model"})
"""What is asked of a trainer that trains nothing."""
_OPTIONS = ("keep", "mode", "metric", "budget", "fresh", "save_every")


@dataclass(frozen=True, slots=True)
class Script:
    """Facts of every config that is made in a script; `shell` are the commands in a notebook, each with its line."""

    facts: tuple[Facts, ...]
    shell: tuple[tuple[str, int], ...] = ()


def read_script(path: Path, line: CommandLine | None = None) -> Script:
    """What a script or a notebook says about its training when it is started with a command line; None where nobody
    knows that.

    Raises SettingsError for what is no Python or no notebook, and OSError.
    """
    text = read_text(path)
    if path.suffix.lower() != ".ipynb":
        return Script(tuple(_Reader(path, parse(path, text), line).facts()))
    notebook = read_notebook(path, text)
    broken = tuple(f"cell {number}, which is no Python" for number in notebook.broken)
    found = _Reader(path, parse(path, notebook.text), line).facts()
    facts = [replace(one, place_of=notebook.place, unread=(*one.unread, *broken)) for one in found]
    if notebook.shell and not any(one.where.line for one in facts):
        facts = []  # what trains is started from here, and is elsewhere
    return Script(tuple(facts), notebook.shell)


def trains(path: Path) -> bool:
    """True for a script that may train something: its text speaks of a trainer, or of the libraries that have one."""
    return any(word in read_text(path) for word in _LIBRARIES)


def parse(path: Path, text: str) -> ast.Module:
    """The syntax tree of a Python text. Raises SettingsError."""
    try:
        return ast.parse(text, filename=str(path))
    except SyntaxError as error:
        raise SettingsError(
            f"{path}:{error.lineno or 1}: {error.msg}", hint="Python itself would not run it: correct that first."
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SettingsError(f"{path} can't be parsed: {error}") from None


class _Reader:
    """Walks one module's syntax tree."""

    def __init__(self, path: Path, tree: ast.Module, line: CommandLine | None) -> None:
        self._path = path
        self._scopes = Scopes(tree)
        self._nodes = self._scopes.nodes
        self._names = _imported(self._nodes)
        self._program = Program(path, self._scopes, self._origin, line)
        self._values = Evaluator(self._scopes, self._program)
        self._calls = [node for node in self._nodes if isinstance(node, ast.Call)]
        self._classes = {node.name for node in self._nodes if isinstance(node, ast.ClassDef)}
        self._own_configs = self._subclasses_of_configs()

    def facts(self) -> Iterator[Facts]:
        """One for each config that is made, by a call or by a parser; one with unknown settings where there is none."""
        common = self._common()
        configs = [call for call in self._calls if self._is_config(call.func) and not self._only_evaluates(call)]
        made = [(call, self._settings(call)) for call in configs]
        made += [(call, settings) for call in self._program.parsers() for settings in self._parsed(call)]
        for call, settings in made:
            yield self._facts(call.lineno, settings, common, self._same_directory(call, settings, made))
        if not made:
            why = "the training arguments: nothing here makes TrainingArguments, SFTConfig or one of their kind"
            yield self._facts(0, Settings({}, complete=False, why_incomplete=why), common, ())

    def _only_evaluates(self, config: ast.Call) -> bool:
        """True where the trainer that a config is made for evaluates or predicts, and does nothing else."""
        scope = self._scopes.context(config).scope
        names = {
            target.id
            for node in self._nodes
            if isinstance(node, ast.Assign) and self._scopes.context(node).scope is scope
            if isinstance(node.value, ast.Call) and last_name(node.value.func).endswith("Trainer")
            if any(part is config for part in ast.walk(node.value))
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        uses = {
            node.attr
            for node in self._nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
            if self._scopes.context(node).scope is scope
        }
        return bool(uses) and uses <= _ONLY_LOOKING

    # -- the training arguments ----------------------------------------------------------------------------

    def _is_config(self, node: ast.expr) -> bool:
        return self._names_config(self._name(node))

    def _names_config(self, name: str) -> bool:
        if name in self._own_configs or name in _TRL_CONFIGS:
            return True
        return name.endswith("TrainingArguments") and name not in self._classes and not name.startswith("Data")

    def _subclasses_of_configs(self) -> frozenset[str]:
        """Classes of the file that are configs, whatever they are called."""
        found: set[str] = set()
        for cls in (node for node in self._nodes if isinstance(node, ast.ClassDef)):
            bases = {self._name(base) for base in cls.bases}
            dotted = {base.attr for base in cls.bases if isinstance(base, ast.Attribute)}  # of another module
            if any(
                b in _TRL_CONFIGS
                or b in found
                or (b.endswith("TrainingArguments") and (b in dotted or b not in self._classes))
                for b in bases
            ):
                found.add(cls.name)
        return frozenset(found)

    def _settings(self, call: ast.Call) -> Settings:
        """What a call of a config's class gives it."""
        values = dict[str, Argument]()
        why, name = "", self._name(call.func)
        own = self._program.fields(name, self._values) if name in self._own_configs else None
        for field_, default in (own.fields if own is not None else {}).items():
            self._put(values, field_, default)
        if call.args and not isinstance(call.args[0], ast.Starred):
            values["output_dir"] = self._values.read(call.args[0])
        for keyword in call.keywords:
            if keyword.arg is not None:
                self._put(values, keyword.arg, self._values.read(keyword.value))
                continue
            try:
                record = self._values.record(keyword.value)
            except NotLiteral as error:
                why = f"**{shown(keyword.value)} (line {keyword.value.lineno}){_from(str(error), keyword.value)}"
                continue
            if record.rest:
                why = f"**{shown(keyword.value)} (line {keyword.value.lineno}), from {record.rest}"
            for key, argument in record.fields.items():
                self._put(values, key, _used_in(argument, keyword.value.lineno))
        if own is None and name in self._own_configs:
            why = why or f"the defaults of {name}"
        for target in self._targets(call):
            self._changes(target, values)
        return Settings(values, complete=not why, trl=self._is_trl(name), why_incomplete=why)

    def _parsed(self, parser: ast.Call) -> Iterator[Settings]:
        """What a parser of dataclasses makes of the command line, for each config among them."""
        names = self._program.class_names(parser)
        for number, (name, record) in enumerate(zip(names, self._program.classes(parser, self._values), strict=False)):
            if not self._names_config(name):
                continue
            values = dict[str, Argument]()
            for key, argument in record.fields.items():
                self._put(values, key, _used_in(argument, 0))
            for target in self._scopes.unpacked(self._is_result_of(parser), number, len(names)):
                self._changes(target, values)
            why = (
                f"the training arguments: {last_name(parser.func)} takes them from {record.rest}" if record.rest else ""
            )
            yield Settings(values, complete=not why, trl=self._is_trl(name), why_incomplete=why)

    def _is_result_of(self, parser: ast.Call) -> Callable[[ast.expr], bool]:
        return lambda value: isinstance(value, ast.Call) and self._program.parser_of(value) is parser

    def _is_trl(self, name: str) -> bool:
        if name in _TRL_CONFIGS:
            return True
        classes = [node for node in self._nodes if isinstance(node, ast.ClassDef) and node.name == name]
        return any(self._name(base) in _TRL_CONFIGS for cls in classes for base in cls.bases)

    @staticmethod
    def _put(values: dict[str, Argument], name: str, argument: Argument) -> None:
        name = OLD_NAMES.get(name, name)
        if isinstance(argument, Given) and argument.source in (Source.COMMAND_LINE, Source.FILE):
            argument = replace(argument, value=of_setting(name, argument.value))
        values[name] = argument

    def _targets(self, call: ast.Call) -> Iterator[str]:
        for node in self._nodes:
            if isinstance(node, ast.Assign) and node.value is call:
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))

    def _changes(self, target: str, values: dict[str, Argument]) -> None:
        """`args.save_steps = 100` after the config was made."""
        for change in self._scopes.changes_anywhere(target):
            if change.kind != "attribute" or change.key is None:
                continue
            reason = self._values.holds(change.conditions)
            if reason is not None and not reason.value:
                continue
            if reason is None or change.value is None:
                values[change.key] = Unread(f"{target}.{change.key}", change.line)
            else:
                self._put(values, change.key, self._values.read(change.value))

    def _same_directory(
        self, call: ast.Call, settings: Settings, made: list[tuple[ast.Call, Settings]]
    ) -> tuple[int, ...]:
        """Lines of earlier configs that name the same directory."""
        mine = settings.values.get("output_dir")
        if not isinstance(mine, Given):
            return ()
        return tuple(
            other.lineno
            for other, theirs in made
            if other.lineno < call.lineno
            and isinstance(given := theirs.values.get("output_dir"), Given)
            and given.value == mine.value
        )

    # -- everything around it ------------------------------------------------------------------------------

    def _common(self) -> dict[str, object]:
        options = self._attach_options()
        trains = list(self._trains())
        reseeds = [
            Unread(shown(call), call.lineno, varies=True)
            for call in self._calls
            if self._name(call.func) in _SEEDERS and call.args and self._values.varies(call.args[0])
        ]
        lost, lost_line = adapter_facts(self._nodes, self._name)
        gguf = next((k for call in self._calls for k in call.keywords if k.arg == "gguf_file"), None)
        model = Model(
            lost,
            lost_line,
            f"gguf_file={shown(gguf.value)}" if gguf else "",
            gguf.value.lineno if gguf else 0,
            adapter=not lost and configures_adapter(self._nodes, self._name),
        )
        return {
            "attached": options is not None,
            **{name: (options or {}).get(name) for name in _OPTIONS},
            "resume": tuple(trains),
            "reseeds": tuple(reseeds),
            "model": model,
        }

    def _attach_options(self) -> dict[str, Argument] | None:
        """The arguments of `keepstep.attach(...)` or of a ManagedTrainer's `keepstep={...}`; None without either."""
        managed = any(
            self._name(base) == "ManagedTrainer"
            for node in self._nodes if isinstance(node, ast.ClassDef) for base in node.bases
        )  # fmt: skip
        found: dict[str, Argument] | None = {} if managed else None
        for call in self._calls:
            if self._origin(call.func) == "keepstep.attach":
                found = found or {}
                for keyword in call.keywords:
                    if keyword.arg is None:
                        found |= {name: Unread(f"**{shown(keyword.value)}", call.lineno) for name in _OPTIONS}
                    else:
                        found[keyword.arg] = self._values.read(keyword.value)
            for keyword in call.keywords if managed else ():
                if keyword.arg == "keepstep" and (options := self._values.mapping(keyword.value)) is not None:
                    found = (found or {}) | {
                        name: _used_in(value, keyword.value.lineno) for name, value in options.items()
                    }
        return found

    def _trains(self) -> Iterator[Argument]:
        """What each `trainer.train(...)` resumes from; `model.train()` is another thing."""
        trainers = {
            target.id
            for node in self._nodes
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            if last_name(node.value.func).lower().endswith("trainer")
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in self._calls:
            if not isinstance(call.func, ast.Attribute) or call.func.attr != "train":
                continue
            keywords = {k.arg: k.value for k in call.keywords}
            receiver = call.func.value
            name = last_name(receiver.func if isinstance(receiver, ast.Call) else receiver)
            if "resume_from_checkpoint" in keywords:
                yield self._values.read(keywords["resume_from_checkpoint"])
            elif name in trainers or "trainer" in name.lower():
                if None in keywords:
                    yield Unread("**" + shown(keywords[None]), call.lineno)
                elif call.args:
                    yield self._values.read(call.args[0])
                else:
                    yield Given(None, call.lineno)

    def _facts(self, line: int, settings: Settings, common: dict[str, object], same: tuple[int, ...]) -> Facts:
        unread = settings.unread
        if not settings.complete:
            unread = (*unread, settings.why_incomplete)
        unread = (*unread, *dict.fromkeys(f"{word.text}, which is no option of this" for word in self._program.unknown))
        for name in _OPTIONS:
            given = common[name]
            if isinstance(given, Unread):
                unread = (*unread, f"attach({name}={given.text}) (line {given.line})")
        return Facts(
            "script",
            Where(str(self._path), line),
            settings,
            same_directory=same,
            unread=unread,
            command=self._program.line.where if self._program.line is not None else None,
            **common,  # type: ignore[arg-type]
        )

    # -- names ---------------------------------------------------------------------------------------------

    def _origin(self, node: ast.expr) -> str:
        """The dotted name behind an expression, import aliases resolved: `keepstep.attach`."""
        match node:
            case ast.Name(id=name):
                return self._names.get(name, name)
            case ast.Attribute(value=base, attr=name):
                return f"{self._origin(base)}.{name}"
            case _:
                return ""

    def _name(self, node: ast.expr) -> str:
        return self._origin(node).rpartition(".")[2]


def _used_in(argument: Argument, line: int) -> Argument:
    """A value of a record, as it is used in a line."""
    if isinstance(argument, Unread):
        return argument
    try:
        return replace(argument, value=plain(argument.value), line=line or argument.line)
    except NotLiteral as error:
        return Unread("{...}", line, cause=str(error))


def _from(cause: str, node: ast.expr) -> str:
    return f", from {cause}" if cause and cause not in ast.unparse(node) else ""


def _imported(nodes: list[ast.AST]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found
