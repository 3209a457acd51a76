"""Whether a command is started again: counts, back-off, and the ends that no restart makes better. No I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from keepstep.supervision.ends import Ending, Kind

EARLY_SECONDS = 300.0
"""Without a step to go by, an end within this time is at the same place as one before it that was."""
LONGEST_SECONDS = 600.0
"""What back-off grows to."""
_FINAL = frozenset({Kind.DONE, Kind.INTERRUPTED, Kind.TOLD})


class What(StrEnum):
    """What follows an end."""

    AGAIN = "again"
    GO_BACK = "again, one checkpoint back"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows an end, after how many seconds, and why; `failed` where the supervisor gives up."""

    what: What
    why: str = ""
    delay: float = 0.0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How often is enough: crashes in all, and in a row without a new commit; `backoff` in seconds, the first wait."""

    max_restarts: int = 20
    without_commit: int = 3
    backoff: float = 5.0


class Restarts:
    """The ends of a supervision so far; `crashes` and `preemptions` count them apart."""

    def __init__(self, limits: Limits, *, draw: random.Random | None = None) -> None:
        self.limits = limits
        self.crashes = self.preemptions = 0
        self.went_back = False
        self._draw = draw or random.Random()
        self._last: Ending | None = None
        self._in_vain = 0

    def decide(self, ending: Ending, *, told: bool, committed: bool | None, may_go_back: bool) -> Decision:
        """What follows an end. `told`: a signal to stop or to save was handed on; `committed`: there is a new commit
        since the last end, None where no run is known; `may_go_back`: there is a checkpoint before the newest.
        """
        if ending.kind in _FINAL or (told and ending.kind is Kind.PREEMPTED):
            return Decision(What.STOP, ending.reason)
        progress = ending.seconds >= EARLY_SECONDS if committed is None else committed
        before, self._last = self._last, ending
        if ending.kind is Kind.PREEMPTED:
            self.preemptions += 1
            self._in_vain = 0 if progress else self._in_vain + 1
            return Decision(What.AGAIN, "preempted", self._wait(self._in_vain))
        self.crashes += 1
        self._in_vain = 1 if progress else self._in_vain + 1
        if not progress and _is_same(before, ending):
            why = f"the same end came a second time, and no restart makes it better: {ending.kind}"
            return Decision(What.STOP, why, failed=True)
        if self.crashes > self.limits.max_restarts:
            why = f"it was restarted {self.limits.max_restarts} times, which is all that --max-restarts allows"
            return Decision(What.STOP, why, failed=True)
        if self._in_vain <= self.limits.without_commit:
            return Decision(What.AGAIN, str(ending.kind), self._wait(self._in_vain))
        loop = (
            f"{self._in_vain} ends in a row without a new {'commit' if committed is not None else 'sign of progress'}"
        )
        if may_go_back and not self.went_back:
            self.went_back, self._in_vain, self._last = True, 1, None
            return Decision(What.GO_BACK, loop, self._wait(1))
        return Decision(What.STOP, f"crash loop: {loop}", failed=True)

    def _wait(self, times: int) -> float:
        """Seconds: doubled from one time to the next, and somewhere within the upper half, so that many don't come
        back at once.
        """
        longest = min(self.limits.backoff * 2 ** max(times - 1, 0), max(LONGEST_SECONDS, self.limits.backoff))
        return longest * self._draw.uniform(0.5, 1.0)


def _is_same(before: Ending | None, ending: Ending) -> bool:
    if before is None or not ending.signature or before.signature != ending.signature:
        return False
    return ending.step is not None or max(before.seconds, ending.seconds) < EARLY_SECONDS
