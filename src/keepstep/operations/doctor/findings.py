"""What a rule is, what it finds, and the report of one target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keepstep.operations.doctor.facts import Facts
from keepstep.operations.doctor.found import Found, Where


class Severity(StrEnum):
    """How much a finding matters: it fails or loses work; it may; it is good to know."""

    ERROR = "error"
    WARNING = "warning"
    HINT = "hint"


_LETTERS = {"E": Severity.ERROR, "W": Severity.WARNING, "I": Severity.HINT}


Check = Callable[[Facts], Found | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that can be wrong with a training's checkpoints, under an id that never changes.

    `solved` says what keepstep does about it in an attached training; the rule is then silent there. `sources` are the
    kinds of target that it looks at.
    """

    id: str
    title: str
    what: str
    why: str
    fix: str
    check: Check
    solved: str = ""
    sources: frozenset[str] = frozenset()

    @property
    def severity(self) -> Severity:
        """By the letter of the id."""
        return _LETTERS[self.id[0]]

    @property
    def number(self) -> int:
        """The id without its letter; no two rules share it."""
        return int(self.id[1:])


@dataclass(frozen=True, slots=True)
class Used:
    """A training argument as it is known: its value, where it comes from, and what may say otherwise."""

    name: str
    value: Any
    source: str
    where: str = ""
    unless: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "value": self.value,
            "source": self.source,
            "where": self.where or None,
            "unless": self.unless or None,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that applies: what is wrong here, why it matters, what to do, and where it stands.

    `values` are the training arguments that the rule looked at, and `unless` what may say otherwise than a default that
    it rests on; empty where it rests on none.
    """

    rule: Rule
    what: str
    fix: str
    where: Where
    values: tuple[Used, ...] = ()
    unless: str = ""
    own_title: str = ""
    own_why: str = ""

    @property
    def title(self) -> str:
        """The rule's title, unless this case has a truer one."""
        return self.own_title or self.rule.title

    @property
    def why(self) -> str:
        """Why it matters, here."""
        return self.own_why or self.rule.why

    @property
    def sentence(self) -> str:
        """What is wrong, with what may still make it right."""
        if not self.unless:
            return self.what
        if self.what.endswith("?"):
            return f"{self.what} (Unless {self.unless} says otherwise)"
        return f"{self.what}, unless {self.unless} says otherwise"

    @property
    def id(self) -> str:
        return self.rule.id

    @property
    def severity(self) -> Severity:
        return self.rule.severity

    def to_json(self) -> dict[str, Any]:
        """Plain values; `line` is None where no line is meant."""
        return {
            "id": self.id,
            "severity": self.severity.value,
            "title": self.title,
            "what": self.sentence,
            "why": self.why,
            "fix": self.fix,
            "where": str(self.where),
            "path": self.where.path,
            "line": self.where.line or None,
            "cell": self.where.cell or None,
            "unless": self.unless or None,
            "values": [used.to_json() for used in self.values],
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that is not known, in words, and the rules that could not be judged without it."""

    missing: str
    rules: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"missing": self.missing, "rules": list(self.rules)}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one target: findings, the gravest first; what could not be read, and what that leaves open.

    `ignored` are the ids of findings that were asked to be left out. `settings` are the training arguments that are
    known, and `command` is the place that says how the training is started; empty where nothing does.
    """

    target: str
    kind: str
    findings: tuple[Finding, ...] = ()
    unread: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    ignored: tuple[str, ...] = ()
    settings: tuple[Used, ...] = ()
    command: str = ""

    def count(self, severity: Severity) -> int:
        """Number of findings of that severity."""
        return sum(finding.severity is severity for finding in self.findings)

    @property
    def ok(self) -> bool:
        """True without an error."""
        return self.count(Severity.ERROR) == 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {
            "target": self.target,
            "kind": self.kind,
            "command": self.command or None,
            "ok": self.ok,
            "findings": [finding.to_json() for finding in self.findings],
            "unread": list(self.unread),
            "not_judged": [gap.to_json() for gap in self.gaps],
            "ignored": list(self.ignored),
            "settings": [used.to_json() for used in self.settings],
        }


_ORDER = list(Severity)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, warnings, hints; each by id, then by line."""
    return tuple(sorted(findings, key=lambda f: (_ORDER.index(f.severity), f.rule.number, f.where.path, f.where.line)))
