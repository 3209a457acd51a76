"""A shell script's commands with their variables put in, without a shell: sh(1) and bash(1), where they are plain.

What only running it would tell (a command that is put in, an argument of the script, a loop's variable) stands in words
as UNKNOWN. Nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading.command_line import UNKNOWN, Word
from keepstep.operations.doctor.reading.shell_words import NAME, Part, Raw, lines, pieces
from keepstep.operations.doctor.reading.values import ENVIRONMENT

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_DECLARES = frozenset({"export", "declare", "local", "readonly", "typeset", "set"})
_OPENS = frozenset({"if", "for", "while", "until", "case", "select"})
_CLOSES = frozenset({"fi", "done", "esac"})
_BETWEEN = frozenset({"then", "do", "else", "elif", "!", "time", "exec", "nohup", "command", "builtin", "sudo"})
"""Words before a command that are no part of it."""
_MOST_COMMANDS = 2_000
_DEEPEST = 4
_LONGEST_WORD = 20_000


@dataclass(frozen=True, slots=True)
class Command:
    """The words of a command, and the line where it begins."""

    words: tuple[Word, ...]
    line: int

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(word.text for word in self.words)


def commands(text: str, path: str, first_line: int = 1) -> list[Command]:
    """Every command of a script in its order; those of a function where it is called."""
    reader = _Shell(path)
    reader.run(list(lines(text, first_line)), {})
    return reader.found


@dataclass(slots=True)
class _Value:
    """What a variable holds: words for an array, one for a text."""

    words: list[str]
    array: bool = False
    unless: str = ""


@dataclass(slots=True)
class _Shell:
    path: str
    found: list[Command] = field(default_factory=list[Command])
    _values: dict[str, _Value] = field(default_factory=dict[str, _Value])
    _functions: dict[str, list[list[Raw]]] = field(default_factory=dict[str, list[list[Raw]]])
    _deep: int = 0

    def run(self, body: Sequence[list[Raw]], positional: dict[str, _Value]) -> None:
        """Follow commands in their order; what is set inside of a branch or a loop is not known behind it."""
        opened: list[set[str]] = []
        index = 0
        while index < len(body) and len(self.found) < _MOST_COMMANDS:
            words = body[index]
            index += 1
            name = _function_name(words)
            if name:
                inner, index = _function_body(body, index, words)
                self._functions[name] = inner
                continue
            while words and words[0].bare in _OPENS | _CLOSES | _BETWEEN | {"{", "}"}:
                first, words = words[0].bare, words[1:]
                if first in _OPENS:
                    opened.append(set())
                if first in ("for", "select") and words:
                    self._values[words[0].text] = _Value([UNKNOWN])
                    words = []
                if first == "case":
                    words = []
                if first in _CLOSES and opened:
                    for changed in opened.pop():
                        self._values[changed] = _Value([UNKNOWN])
            changed = self._command(words, positional)
            for inside in opened:
                inside.update(changed)

    def _command(self, words: list[Raw], positional: dict[str, _Value]) -> set[str]:
        """Follow a command; the names that it sets."""
        if words and words[0].bare in _DECLARES:
            words = [word for word in words[1:] if not word.text.startswith("-")]
        changed: set[str] = set()
        while words and (match := _ASSIGNMENT.match(words[0].parts[0].text)) and not words[0].parts[0].quote:
            changed.add(self._assign(match, words[0], positional))
            words = words[1:]
        if not words:
            return changed
        expanded = [word for raw in words for word in self._expanded(raw, positional)]
        if not expanded:
            return changed
        called = expanded[0].text
        if called == "shift" and positional:
            number = int(expanded[1].text) if len(expanded) > 1 and expanded[1].text.isdigit() else 1
            left = positional["@"].words[number:]
            positional.clear()
            positional |= _positional(left)
            return changed
        if called == "eval" and self._deep < _DEEPEST:
            self._evaluate(expanded[1:], words[0].line, positional)
            return changed
        if called in self._functions and self._deep < _DEEPEST:
            self._deep += 1
            self.run(self._functions[called], _positional([word.text for word in expanded[1:]]))
            self._deep -= 1
            return changed
        self.found.append(Command(tuple(expanded), words[0].line))
        if called in ("bash", "sh", "/bin/bash", "/bin/sh", "srun", "env", "ssh"):
            self._inner(expanded, words[0].line)
        return changed

    def _evaluate(self, words: Sequence[Word], line: int, positional: dict[str, _Value]) -> None:
        """`eval "$CMD --x 1"`: the words are a command again."""
        before = len(self.found)
        self._deep += 1
        self.run(list(lines(" ".join(word.text for word in words), line)), positional)
        self._deep -= 1
        unless = next((word for word in words if word.unless), None)
        if unless is not None:
            self.found[before:] = [_within(one, unless, line) for one in self.found[before:]]

    def _inner(self, words: Sequence[Word], line: int) -> None:
        """`bash -c "..."`, also behind srun."""
        texts = [word.text for word in words]
        for number, text in enumerate(texts[:-1]):
            shell = text in ("-c", "-lc", "-xc") and number and texts[number - 1].rpartition("/")[2] in ("bash", "sh")
            if shell and self._deep < _DEEPEST:
                inner = _Shell(self.path, _deep=self._deep + 1)
                inner.run(list(lines(texts[number + 1], line)), {})
                self.found += [_within(one, words[number + 1], line) for one in inner.found]

    def _assign(self, match: re.Match[str], raw: Raw, positional: dict[str, _Value]) -> str:
        name, appends = match[1], bool(match[2])
        first = raw.parts[0]
        value = Raw([Part(first.text[match.end() :], first.quote), *raw.parts[1:]], raw.line)
        if value.text.startswith("(") and not value.parts[0].quote:
            raws = [one for inner in lines(value.text[1:-1], raw.line) for one in inner]
            made = _Value([word.text for one in raws for word in self._expanded(one, positional)], array=True)
        else:
            texts = self._expanded(value, positional, split=False)
            text = texts[0] if texts else Word("")
            made = _Value([text.text], unless=text.unless)
        before = self._values.get(name)
        if appends and before is not None:
            joined = before.words + made.words if before.array else ["".join(before.words + made.words)]
            made = _Value(joined, before.array, made.unless or before.unless)
        self._values[name] = made
        return name

    # -- words -------------------------------------------------------------------------------------------------

    def _expanded(self, raw: Raw, positional: dict[str, _Value], *, split: bool = True) -> list[Word]:
        """The words that one becomes: a bare variable is split, an array becomes all of its words."""
        words, unless = [""], ""
        for part in raw.parts:
            if part.quote == "'":
                words[-1] += part.text
                continue
            for piece, value in pieces(part.text):
                if not piece:
                    assert value is not None
                    found = self._value(value, positional)
                    unless = unless or found.unless
                    whole = bool(part.quote) or not split
                    several = found.words if whole else [one for word in found.words for one in word.split()]
                    if several:
                        words[-1] += several[0]
                        words += several[1:]
                    elif len(raw.parts) == 1 and part.text.startswith("$") and words == [""]:
                        return []
                else:
                    words[-1] += piece
        where = Where(self.path, raw.line)
        return [Word(text[:_LONGEST_WORD], where, unless) for text in words]

    def _value(self, expression: str, positional: dict[str, _Value]) -> _Value:
        """`NAME`, `NAME:-default`, `NAME[@]`, `@`, `((...))`; UNKNOWN for everything else."""
        if expression.startswith("(("):
            return _Value([self._arithmetic(expression[2:-2], positional)])
        match = re.match(r"([A-Za-z_]\w*|\d+|[@*])(\[[@*]\])?", expression)
        if match is None:
            return _Value([UNKNOWN])
        name, rest = match[1], expression[match.end() :]
        value = positional.get(name) or self._values.get(name)
        slice_ = re.fullmatch(r":(\d+)", rest)
        if slice_ and name in "@*" and value is not None:
            return _Value(value.words[int(slice_[1]) - 1 :], array=True)
        if rest[:2] in (":-", ":=") or rest[:1] in ("-", "="):
            if value is not None and any(value.words):
                return value
            default = rest[2:] if rest[0] == ":" else rest[1:]
            raw = next((word for line in lines(default, 0) for word in line), None)
            texts = self._expanded(raw, positional, split=False) if raw else [Word("")]
            return _Value([texts[0].text], unless=ENVIRONMENT if value is None else value.unless)
        if rest or value is None:
            return _Value([UNKNOWN])
        return value

    def _arithmetic(self, text: str, positional: dict[str, _Value]) -> str:
        def known(match: re.Match[str]) -> str:
            value = self._value(match[1], positional).words
            return value[0] if value and value[0].isdigit() else UNKNOWN

        found = re.sub(r"\$?\{?([A-Za-z_]\w*)\}?", known, text)
        if UNKNOWN in found or len(found) > 100 or not re.fullmatch(r"[\d\s+*/%()-]+", found) or "**" in found:
            return UNKNOWN
        try:
            return str(_computed(ast.parse(found.strip(), mode="eval").body))
        except (SyntaxError, ValueError, ArithmeticError, RecursionError):
            return UNKNOWN


def _within(command: Command, word: Word, line: int) -> Command:
    """A command that another one is given as a text."""
    words = [Word(one.text, Where(word.where.path, line) if word.where else None, one.unless or word.unless)
             for one in command.words]  # fmt: skip
    return Command(tuple(words), line)


def _computed(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            one, two = _computed(left), _computed(right)
            match op:
                case ast.Add():
                    return one + two
                case ast.Sub():
                    return one - two
                case ast.Mult():
                    return one * two
                case ast.Div() | ast.FloorDiv():
                    return one // two
                case ast.Mod():
                    return one % two
                case _:
                    raise ValueError
        case _:
            raise ValueError


def _positional(texts: list[str]) -> dict[str, _Value]:
    found = {str(number): _Value([text]) for number, text in enumerate(texts, start=1)}
    return {**found, "@": _Value(texts, array=True), "*": _Value(texts, array=True)}


def _function_name(words: Sequence[Raw]) -> str:
    """The name in `name() {` and `function name {`."""
    texts = [word.bare for word in words]
    if len(texts) > 1 and texts[0] == "function":
        return texts[1].removesuffix("()")
    if texts and texts[0].endswith("()") and NAME.fullmatch(texts[0][:-2].replace("-", "_")):
        return texts[0][:-2]
    return ""


def _function_body(body: Sequence[list[Raw]], index: int, words: list[Raw]) -> tuple[list[list[Raw]], int]:
    """The commands between the braces of a function, and the place behind them."""
    inner: list[list[Raw]] = []
    texts = [word.bare for word in words]
    depth = texts.count("{")
    if depth:
        rest = words[texts.index("{") + 1 :]
        if rest:
            inner.append(rest)
    while index < len(body):
        line = body[index]
        index += 1
        texts = [word.bare for word in line]
        if not depth and texts[:1] == ["{"]:
            depth, line = 1, line[1:]
        elif texts[:1] == ["}"]:
            return inner, index
        if line:
            inner.append(line)
    return inner, index
