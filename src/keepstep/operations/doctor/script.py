"""A training script, read without being run: its configs, what it attaches, what it resumes from, what it loads."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keepstep.errors import SettingsError
from keepstep.operations.doctor.adapters import adapter_facts, configures_adapter
from keepstep.operations.doctor.facts import Facts, Model
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.literals import Literals, last_name, shown
from keepstep.operations.doctor.settings import OLD_NAMES, Argument, Given, Settings, Unread

LARGEST = 5 * 10**6
"""Bytes above which a file is no script that a person wrote."""
IGNORE = re.compile(r"#\s*keepstep:\s*ignore\b(?!-)[\s:=]*([A-Z0-9,\s]*)")
_TRL_CONFIGS = frozenset({
    "SFTConfig", "DPOConfig", "KTOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig", "ORPOConfig", "CPOConfig",
    "OnlineDPOConfig", "GKDConfig", "PRMConfig", "BCOConfig", "NashMDConfig", "XPOConfig", "PPOConfig",
})  # fmt: skip
_PARSERS = ("HfArgumentParser", "TrlParser")
_SEEDERS = frozenset({"set_seed", "manual_seed", "manual_seed_all", "seed_everything"})
_OPTIONS = ("keep", "mode", "metric", "budget", "fresh")


@dataclass(frozen=True, slots=True)
class Script:
    """Facts of every config that is made in a script, and the ids that comments ask to ignore, by line."""

    facts: tuple[Facts, ...]
    ignored: dict[int, frozenset[str]] = field(default_factory=dict[int, frozenset[str]])


def read_script(path: Path) -> Script:
    """What a script says about its training. Raises SettingsError for one that is no Python, OSError."""
    text = read_text(path)
    try:
        tree = ast.parse(text, filename=str(path))
    except SyntaxError as error:
        raise SettingsError(
            f"{path}:{error.lineno or 1}: {error.msg}", hint="Python itself would not run it: correct that first."
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SettingsError(f"{path} can't be parsed: {error}") from None
    return Script(tuple(_Reader(path, tree).facts()), ignored_lines(text, python=True))


def read_text(path: Path) -> str:
    """A text file's content. Raises SettingsError for a huge one, or one that is no text, and OSError."""
    if path.stat().st_size > LARGEST:
        raise SettingsError(
            f"{path} is too large to be a script or a config", hint="Give the file that a person wrote."
        )
    try:
        with tokenize.open(path) if path.suffix == ".py" else path.open(encoding="utf-8") as file:
            return file.read()
    except (UnicodeDecodeError, SyntaxError):
        raise SettingsError(
            f"{path} is no text", hint="Give a Python script, a YAML file, or a run directory."
        ) from None


def ignored_lines(text: str, *, python: bool) -> dict[int, frozenset[str]]:
    """Ids in comments such as `# keepstep: ignore W204`, by line; without an id, all (`*`)."""
    found: dict[int, frozenset[str]] = {}
    for line, comment in _comments(text) if python else enumerate(text.splitlines(), start=1):
        if match := IGNORE.search(comment):
            found[line] = frozenset(re.findall(r"[EWI]\d+", match[1])) or frozenset("*")
    return found


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


class _Reader:
    """Walks one module's syntax tree."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self._path = path
        self._literals = Literals(tree)
        self._nodes = list(ast.walk(tree))
        self._names = _imported(self._nodes)
        self._calls = [node for node in self._nodes if isinstance(node, ast.Call)]
        self._own_configs = self._subclasses_of_configs()

    def facts(self) -> Iterator[Facts]:
        """One for each config that is made; one with unknown settings where a parser makes it, or nothing is found."""
        common = self._common()
        configs = [call for call in self._calls if self._is_config(call.func)]
        made = [(call, self._settings(call)) for call in configs]
        for call, settings in made:
            yield self._facts(call.lineno, settings, common, self._same_directory(call, settings, made))
        if made:
            return
        for call in self._calls:
            if self._name(call.func) in _PARSERS:
                why = f"the training arguments: {self._name(call.func)} takes them from the command line"
                yield self._facts(call.lineno, Settings({}, complete=False, why_incomplete=why), common, ())
                return
        why = "the training arguments: nothing here makes TrainingArguments, SFTConfig or one of their kind"
        yield self._facts(0, Settings({}, complete=False, why_incomplete=why), common, ())

    # -- the training arguments ----------------------------------------------------------------------------

    def _is_config(self, node: ast.expr) -> bool:
        name = self._name(node)
        return name in _TRL_CONFIGS or name.endswith("TrainingArguments") or name in self._own_configs

    def _subclasses_of_configs(self) -> frozenset[str]:
        found: set[str] = set()
        for node in self._nodes:
            if isinstance(node, ast.ClassDef):
                bases = {self._name(base) for base in node.bases}
                if any(b in _TRL_CONFIGS or b.endswith("TrainingArguments") or b in found for b in bases):
                    found.add(node.name)
        return frozenset(found)

    def _settings(self, call: ast.Call) -> Settings:
        values: dict[str, Argument] = {}
        why = ""
        if call.args and not isinstance(call.args[0], ast.Starred):
            values["output_dir"] = self._literals.read(call.args[0])
        for keyword in call.keywords:
            if keyword.arg is not None:
                self._take(values, keyword.arg, keyword.value)
                continue
            inner = self._literals.mapping(keyword.value)
            if inner is None:
                why = f"**{shown(keyword.value)} (line {keyword.value.lineno})"
            for name, value in (inner or {}).items():
                self._take(values, name, value)
        name = self._name(call.func)
        if name in self._own_configs:
            why = why or f"the defaults of {name}"
        for target in self._targets(call):
            self._changes(target, values)
        return Settings(values, complete=not why, trl=name in _TRL_CONFIGS, why_incomplete=why)

    def _take(self, values: dict[str, Argument], name: str, node: ast.expr) -> None:
        values[OLD_NAMES.get(name, name)] = self._literals.read(node)

    def _targets(self, call: ast.Call) -> Iterator[str]:
        for node in self._nodes:
            if isinstance(node, ast.Assign) and node.value is call:
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))

    def _changes(self, target: str, values: dict[str, Argument]) -> None:
        """`args.save_steps = 100` after the config was made."""
        for node in self._nodes:
            match node:
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=name), attr=attribute)], value=value):
                    if name == target:
                        self._take(values, attribute, value)
                case ast.AugAssign(target=ast.Attribute(value=ast.Name(id=name), attr=attribute) as changed):
                    if name == target:
                        values[attribute] = Unread(shown(changed), node.lineno)
                case _:
                    pass

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
            if self._name(call.func) in _SEEDERS and call.args and self._literals.varies(call.args[0])
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
                        found[keyword.arg] = self._literals.read(keyword.value)
            for keyword in call.keywords if managed else ():
                if keyword.arg == "keepstep" and (options := self._literals.mapping(keyword.value)) is not None:
                    found = (found or {}) | {name: self._literals.read(value) for name, value in options.items()}
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
                yield self._literals.read(keywords["resume_from_checkpoint"])
            elif name in trainers or "trainer" in name.lower():
                if None in keywords:
                    yield Unread("**" + shown(keywords[None]), call.lineno)
                elif call.args:
                    yield self._literals.read(call.args[0])
                else:
                    yield Given(None, call.lineno)

    def _facts(self, line: int, settings: Settings, common: dict[str, object], same: tuple[int, ...]) -> Facts:
        unread = settings.unread
        if not settings.complete:
            unread = (*unread, settings.why_incomplete)
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


def _imported(nodes: list[ast.AST]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found
