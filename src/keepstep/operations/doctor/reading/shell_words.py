"""A shell's text as commands of words, each in pieces that know how they are quoted: sh(1), Token Recognition."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z_]\w*")
_ENDS = frozenset({";", "&", "|", "\n", "(", ")"})


@dataclass(slots=True)
class Part:
    """A piece of a word: its text, and how it is quoted: with ', with ", or not at all (empty)."""

    text: str
    quote: str = ""


@dataclass(slots=True)
class Raw:
    """A word as it is written."""

    parts: list[Part]
    line: int

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def bare(self) -> str:
        """The text of a word without quotes, empty for any other."""
        return self.text if all(not part.quote for part in self.parts) else ""


def pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """A text in pieces: plain ones, and what stands behind a `$`."""
    position, plain = 0, ""
    while position < len(text):
        char = text[position]
        if char == "\\" and position + 1 < len(text):
            plain += text[position + 1]
            position += 2
            continue
        if char == "`":
            end = text.find("`", position + 1)
            end = len(text) if end < 0 else end + 1
            expression: str | None = "`"
        elif char == "$" and position + 1 < len(text):
            expression, end = _expression(text, position + 1)
        else:
            expression, end = None, position + 1
        if expression is None:
            plain += char
            position = end
            continue
        if plain:
            yield plain, None
            plain = ""
        yield "", expression
        position = end
    if plain:
        yield plain, None


def _expression(text: str, start: int) -> tuple[str | None, int]:
    """What follows a `$`, and the place behind it; None where the `$` is only one."""
    if text[start] == "{":
        end = _closing(text, start, "{", "}")
        return text[start + 1 : end - 1], end
    if text[start] == "(":
        end = _closing(text, start, "(", ")")
        inner = text[start:end]
        return (inner if inner.startswith("((") and inner.endswith("))") else "`"), end
    if match := NAME.match(text, start):
        return match[0], match.end()
    if text[start] in "@*#?$!" or text[start].isdigit():
        return text[start], start + 1
    return None, start


def _closing(text: str, start: int, opens: str, closes: str) -> int:
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == opens) - (text[position] == closes)
        if not depth:
            return position + 1
    return len(text)


def lines(text: str, first_line: int) -> Iterator[list[Raw]]:
    """Commands as lists of words; comments, redirections of input and here-documents left out."""
    lexer = _Lexer(text, first_line)
    words: list[Raw] = []
    for token in lexer.tokens():
        if token is None:
            if words:
                yield words
            words = []
        else:
            words.append(token)
    if words:
        yield words


class _Lexer:
    """Splits a shell's text into words, None between commands."""

    def __init__(self, text: str, line: int) -> None:
        self._text = text
        self._at = 0
        self._line = line
        self._documents: list[str] = []

    def tokens(self) -> Iterator[Raw | None]:
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char == "\\" and text[self._at + 1 : self._at + 2] == "\n":
                self._at += 2
                self._line += 1
            elif char in " \t\r":
                self._at += 1
            elif char == "#":
                self._at = _end_of_line(text, self._at)
            elif char == "\n":
                self._at += 1
                self._line += 1
                yield None
                self._skip_documents()
            elif text.startswith("<<", self._at) and not text.startswith("<<<", self._at):
                self._document()
            elif char in _ENDS or char in "<>":
                yield from self._operator(char)
            elif (word := self._word()) is not None:
                yield word

    def _operator(self, char: str) -> Iterator[Raw | None]:
        self._at += 1
        if char in "<>":
            while self._text[self._at : self._at + 1] in ("<", ">", "&") and self._at < len(self._text):
                self._at += 1
            while self._text[self._at : self._at + 1] in (" ", "\t"):
                self._at += 1
            if self._at < len(self._text) and self._text[self._at] not in "\n;":
                self._word()  # the file that is read or written is no argument
            return
        yield None

    def _word(self) -> Raw | None:
        text, start_line = self._text, self._line
        parts: list[Part] = []
        begin = self._at
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\r\n;&|<>" or (char in "()" and not self._is_part(begin)):
                break
            parts.append(self._part(char, begin))
        if self._at == begin:
            self._at += 1
        elif self._text[begin : self._at].isdigit() and text[self._at : self._at + 1] in ("<", ">"):
            return None  # 2>&1: the number belongs to the redirection
        return Raw(parts or [Part("")], start_line)

    def _is_part(self, begin: int) -> bool:
        """True for the brackets of `name()`, and of an array's values."""
        before = self._text[begin : self._at]
        return (
            bool(re.fullmatch(r"[\w-]+\(?", before)) and self._text[self._at : self._at + 2] in ("()", ")")
        ) or bool(re.fullmatch(r"[A-Za-z_]\w*\+?=", before))

    def _part(self, char: str, begin: int) -> Part:
        text = self._text
        if char in "'\"":
            end = self._quoted(char)
            inner = text[self._at + 1 : end]
            self._line += inner.count("\n")
            self._at = end + 1
            return Part(inner.replace("\\\n", "") if char == '"' else inner, char)
        if char == "(":  # an array
            end = _closing(text, self._at, "(", ")")
        elif char == "$" and text[self._at + 1 : self._at + 2] in ("(", "{"):
            _, end = _expression(text, self._at + 1)
        elif char == "`":
            end = text.find("`", self._at + 1)
            end = len(text) if end < 0 else end + 1
        elif char == "\\":
            end = self._at + 2
            if text[self._at + 1 : end] == "\n":
                self._at = end
                self._line += 1
                return Part("")
        else:
            end = self._at + 1
            while end < len(text) and text[end] not in " \t\r\n;&|<>()'\"\\`$":
                end += 1
        inner = text[self._at : end]
        self._line += inner.count("\n")
        self._at = end
        return Part(inner)

    def _quoted(self, quote: str) -> int:
        """The place of the closing quote."""
        position = self._at + 1
        while position < len(self._text):
            if self._text[position] == "\\" and quote == '"':
                position += 2
                continue
            if self._text[position] == quote:
                return position
            position += 1
        return len(self._text)

    def _document(self) -> None:
        match = re.compile(r"<<-?\s*(['\"]?)([\w.-]+)\1").match(self._text, self._at)
        if match is None:
            self._at += 2
            return
        self._documents.append(match[2])
        self._at = match.end()

    def _skip_documents(self) -> None:
        while self._documents:
            ending = self._documents.pop(0)
            while self._at < len(self._text):
                end = _end_of_line(self._text, self._at)
                line = self._text[self._at : end]
                self._at = min(end + 1, len(self._text))
                self._line += 1
                if line.strip() == ending:
                    break


def _end_of_line(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
