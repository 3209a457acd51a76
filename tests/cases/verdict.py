"""The judgement of a situation: ours beside the stock Trainer, from how both ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.cases.facts import BEST, OURS_ALONE, Facts, Gap, differences, gap

KILLED = -9


class Verdict(StrEnum):
    """Ours beside the stock Trainer.

    EXACT: what happened to it left no trace, and the receipt says so. LABELLED: it did, and the receipt says that it
    may. AS_STOCK: no better and no worse. BETTER: nearer to a training that was left alone than the stock Trainer's, or
    it goes on where that one fails. WRONG: no worse than the stock Trainer, but the receipt says exact and it is not.
    WORSE: further off than the stock Trainer, or off where nothing happens.
    """

    EXACT = "exact"
    LABELLED = "labelled"
    AS_STOCK = "as stock"
    BETTER = "better"
    WRONG = "WRONG"
    WORSE = "WORSE"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit code (minus the signal that killed it), and its facts or its error."""

    code: int
    facts: Facts | None = None
    error: str = ""

    @property
    def done(self) -> bool:
        """True when it did what it was to do, to its end."""
        return self.code == 0 and self.facts is not None

    @property
    def told(self) -> str:
        """Why it did not."""
        return self.error or f"exit code {self.code}"


@dataclass(frozen=True)
class Trial:
    """A situation as one side went through it: the training left alone, and the one in which something happened."""

    whole: Ending
    broken: tuple[Ending, ...] = ()

    @property
    def last(self) -> Ending:
        """How the last process ended."""
        return self.broken[-1] if self.broken else self.whole


@dataclass(frozen=True)
class Account:
    """How far a side is off, and each thing in words."""

    gap: Gap
    texts: tuple[str, ...] = ()
    level: str | None = None
    """What the receipt of the resume says; None without one."""
    interrupted: bool = False
    """Whether it is off from its own training that was left alone."""
    unlike: bool = False
    """Whether that one took another course than the stock Trainer's that was left alone."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    engine: str
    verdict: Verdict
    ours: str
    stock: str
    seconds: float = 0.0


def account(trial: Trial, wants: Mapping[str, Any], beside: Trial | None = None) -> Account:
    """How far a side is off from what it should be; `beside` is the stock Trainer's.

    What ours does where nothing happens is compared with it, unless it is known to be off itself there.
    """
    if not trial.whole.done:
        return Account(Gap.TRAINING_FAILS, (f"fails: {trial.whole.told}",))
    for ending in trial.broken[:-1]:
        if ending.code != KILLED and not ending.done:
            return Account(Gap.TRAINING_FAILS, (f"fails: {ending.told}",))
    if not trial.last.done:
        return Account(Gap.RESUME_FAILS, (f"resume fails: {trial.last.told}",), interrupted=True)
    whole, last = trial.whole.facts or {}, trial.last.facts or {}
    stock = (beside.whole.facts if beside else None) or {}
    measure = stock if all(stock.get(name) == value for name, value in wants.items()) else {}
    own = differences(whole, last, OURS_ALONE if stock and stock.get("best metric") is None else ())
    unmet = {name: f"{name}: {last.get(name)}, not {value}" for name, value in wants.items() if last.get(name) != value}
    unlike = differences(measure, whole, (*OURS_ALONE, *_incomparable(stock), *wants)) if measure else {}
    texts = (*own.values(), *unmet.values(), *(f"left alone, beside stock, {text}" for text in unlike.values()))
    receipt = last.get("receipt")
    return Account(gap([*own, *unmet, *unlike]), texts, receipt and receipt["level"], bool(own), bool(unlike))


def _incomparable(stock: Facts) -> tuple[str, ...]:
    """The best, where the stock Trainer looks for none."""
    return BEST if stock.get("best metric") is None else ()


def judge(ours: Account, stock: Account) -> Verdict:
    """The verdict of ours beside the stock Trainer's."""
    if ours.gap > stock.gap or ours.unlike:
        return Verdict.WORSE
    if ours.gap >= Gap.RESUME_FAILS:
        return Verdict.AS_STOCK if ours.gap == stock.gap else Verdict.BETTER
    if ours.interrupted:
        if ours.level == "exact":
            return Verdict.WRONG
        if ours.level is not None:
            return Verdict.LABELLED
    elif ours.gap is Gap.NONE and ours.level == "exact":
        return Verdict.EXACT
    elif ours.gap is Gap.NONE and ours.level is not None:
        return Verdict.LABELLED
    return Verdict.BETTER if ours.gap < stock.gap else Verdict.AS_STOCK


def row(name: str, engine: str, ours: Trial, stock: Trial, wants: Mapping[str, Any]) -> Row:
    """The line of a situation and an engine."""
    control = account(stock, wants)
    found = account(ours, wants, stock)
    return Row(name, engine, judge(found, control), told(found, ours), told(control, stock))


def told(found: Account, trial: Trial) -> str:
    """An account in words."""
    text = "; ".join(found.texts) or "as it should be"
    receipt = (trial.last.facts or {}).get("receipt") if trial.last.done else None
    if receipt and receipt["level"] != "exact":
        text += f" ({receipt['level']}: {'; '.join(receipt['why'])})"
    elif receipt and found.interrupted:
        text += " (the receipt says exact)"
    return text
