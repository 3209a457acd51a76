"""The judgement of a row, from how its training ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of an interrupted training that ours resumed."""

    EXACT = "exact"
    LABELLED = "labelled"
    REFUSED = "refused"
    DOUBTED = "DOUBTED"
    WRONG = "WRONG"
    FAILS = "FAILS"


MEANINGS = {
    Verdict.EXACT: "all that trains came back, at the resume and as the best at the end; the resumed training ended "
    "with the bits, and logged the numbers, of one that was left alone; the receipt says exact",
    Verdict.LABELLED: "not so, and the receipt or a warning says why",
    Verdict.REFUSED: "not resumed: it would have gone on from other values, and the message says which",
    Verdict.DOUBTED: "exact, but the receipt promises less",
    Verdict.WRONG: "the receipt says exact, and it is not",
    Verdict.FAILS: "an error that is no refusal, or a NaN",
}


@dataclass(frozen=True)
class Share:
    """How many of the values that train came back; `lost` are the first names of those that did not.

    `error` is what ended it before that could be asked.
    """

    back: int
    of: int
    lost: tuple[str, ...] = ()
    error: str = ""

    @property
    def whole(self) -> bool:
        """True where every value came back."""
        return not self.error and self.back == self.of

    @property
    def percent(self) -> float:
        """The share, 0 to 100; below 100 where anything is lost."""
        found = 100 * self.back / self.of if self.of else 100.0
        return found if self.whole else min(found, 99.9)

    def __str__(self) -> str:
        if self.error:
            return "raises"
        return "100 %" if self.whole else f"{self.percent:.1f} %"


@dataclass(frozen=True)
class Ending:
    """How a resumed training ended, beside one that was left alone.

    `resumed` and `best` are the shares of what trains that came back at the resume and with the best at the end;
    `state` is that of the optimizer's state. `off` says how the course differs, empty where it does not. `level` is
    the word of the receipt, None without one, `why` its reasons. `refusal` is the message of a refusal, `error` any
    other; `warned` are warnings about what was loaded.
    """

    resumed: Share | None = None
    best: Share | None = None
    state: Share | None = None
    off: str = ""
    level: str | None = None
    why: tuple[str, ...] = ()
    refusal: str = ""
    error: str = ""
    warned: tuple[str, ...] = ()

    @property
    def course(self) -> str:
        """The resumed training beside the one that was left alone, in a word or a few."""
        if self.refusal:
            return "refused"
        return f"fails: {self.error}" if self.error else self.off or "exact"

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of some of what did not come back."""
        shares = (self.resumed, self.state, self.best)
        return tuple(dict.fromkeys(name for share in shares if share for name in share.lost))

    @property
    def told(self) -> str:
        """Why it is not exact, in words."""
        if text := self.refusal or self.error:
            return text
        found = [*self.why, self.off, f"not back: {', '.join(self.lost)}" if self.lost else ""]
        return "; ".join(filter(None, found))

    @property
    def same(self) -> bool:
        """True where nothing differs, with the best at the end neither."""
        shares = (self.resumed, self.state, self.best)
        return (
            not self.refusal
            and not self.error
            and not self.off
            and all(share is None or share.whole for share in shares)
        )


def judge(ours: Ending) -> Verdict:
    """The verdict of a row."""
    if ours.refusal:
        return Verdict.REFUSED
    if ours.error or "NaN" in ours.off:
        return Verdict.FAILS
    if ours.same:
        return Verdict.EXACT if ours.level == "exact" else Verdict.DOUBTED
    return Verdict.WRONG if ours.level == "exact" and not ours.warned else Verdict.LABELLED


@dataclass(frozen=True)
class Row:
    """One line of the matrix: the stock Trainer's ending and ours."""

    group: str
    name: str
    stock: Ending
    ours: Ending
    seconds: float = 0.0
    missing: str = ""
    killed: bool = False

    @property
    def verdict(self) -> Verdict:
        """The verdict of ours."""
        return judge(self.ours)
