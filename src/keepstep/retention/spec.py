"""The text form of a retention policy, such as `best:3,latest:2,within:6h`, read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from keepstep.errors import PolicyError
from keepstep.retention.rules import UNITS, Rule, Seconds, rule_classes

_NUMBER = r"0*([1-9][0-9]{0,17})"
_DURATION = rf"0*([1-9][0-9]{{0,17}})\s*([{''.join(UNITS)}])"


def parse(spec: str) -> tuple[Rule, ...]:
    """Rules of a spec, in its order; white space and upper case don't matter.

    PolicyError on an empty spec, an unknown word, a missing or bad number, and a rule that stands twice.
    """
    if not spec.strip():
        raise PolicyError("the retention policy is empty", hint=_what_there_is())
    rules: list[Rule] = []
    for piece in spec.lower().split(","):
        rule = _parse_rule(piece.strip(), spec)
        if any(type(rule) is type(other) for other in rules):
            raise PolicyError(
                f"{rule.word()!r} stands twice in {spec!r}",
                hint="Give each rule once; the larger number includes the smaller.",
            )
        rules.append(rule)
    return tuple(rules)


def format_spec(rules: Iterable[Rule]) -> str:
    """The rules as text that `parse` reads back to the same rules."""
    return ",".join(rule.spec() for rule in rules)


def rule_table() -> list[tuple[str, str]]:
    """One row per rule for help and docs: an example spec and what it means in one sentence."""
    rows: list[tuple[str, str]] = []
    for cls in rule_classes().values():
        rows.append((cls.example, cls.meaning()))
        rows += [(f"{cls.example}:{flag}", meaning) for flag, meaning in cls.flags.items()]
    return rows


def _parse_rule(piece: str, spec: str) -> Rule:
    if not piece:
        raise PolicyError(f"a rule is missing between the commas of {spec!r}", hint=_what_there_is())
    word, *parts = (part.strip() for part in piece.split(":"))
    cls = rule_classes().get(word)
    if cls is None:
        from difflib import get_close_matches

        near = get_close_matches(word, rule_classes(), n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise PolicyError(f"there is no retention rule {word!r} in {spec!r}", hint=guess + _what_there_is())
    flags = {flag: True for flag in cls.flags if flag in parts[len(cls.arguments()) :]}
    arguments = _parse_arguments(cls, piece, [part for part in parts if part not in flags])
    if len(parts) != len(arguments) + len(flags):
        raise _bad(piece, f"{parts[-1]!r} stands twice", cls)
    return cls(**arguments, **flags)


def _parse_arguments(cls: type[Rule], piece: str, parts: list[str]) -> dict[str, int]:
    kinds = cls.arguments()
    if len(parts) < len(kinds):
        raise _bad(piece, f"the number is missing ({list(kinds)[len(parts)]})", cls)
    if len(parts) > len(kinds):
        raise _bad(piece, f"{parts[len(kinds)]!r} is too much", cls)
    return {
        name: _parse_number(kind, text, piece, cls) for (name, kind), text in zip(kinds.items(), parts, strict=True)
    }


def _parse_number(kind: Any, text: str, piece: str, cls: type[Rule]) -> int:
    if kind == Seconds:
        if duration := re.fullmatch(_DURATION, text):
            return int(duration[1]) * UNITS[duration[2]]
        raise _bad(piece, f"{text!r} is no duration (a whole number and one of {', '.join(UNITS)})", cls)
    if number := re.fullmatch(_NUMBER, text):
        return int(number[1])
    raise _bad(piece, f"{text!r} is no whole number of 1 or more", cls)


def _bad(piece: str, what: str, cls: type[Rule]) -> PolicyError:
    return PolicyError(f"retention rule {piece!r}: {what}", hint=f"Write it like {cls.example!r}.")


def _what_there_is() -> str:
    return f"There is {', '.join(example for example, _ in rule_table())}."
