"""What a training logs: into the history of its run, and beside what an interrupted attempt had logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from keepstep.checkpointer.cadence import spent_since
from keepstep.run import Course, Ending, Exactness, History, Observer, Receipt, ResumePoint, Run, logged_beyond

logger = logging.getLogger("keepstep")

MOST_POINTS = 200_000
"""Log calls behind the checkpoint that are read: some hundred megabytes in memory at the most."""
Causes = Callable[[], Sequence[str]]
"""What may make a resumed course another one, in words; asked when it is."""


def no_causes() -> Sequence[str]:
    """Nothing is known."""
    return ()


class Journal:
    """The attempt of one session of a run, and the receipt of its resume as more of the course is seen.

    It never fails: a log must not end a training.
    """

    def __init__(self, run: Run, point: ResumePoint | None) -> None:
        self._run = run
        self._from = None if point is None else point.checkpoint
        self._mine = self._from is not None and self._from.run_id == run.id
        self._first_generation = run.next_generation()
        self._history: History | None = None
        self._number: int | None = None
        self._observer: Observer | None = None
        self._causes: Causes = no_causes

    def spent(self) -> float:
        """Seconds that attempts before trained beyond where this one goes on from, and lost; 0 where nobody knows."""
        newer = self._from is not None and (not self._mine or self._from.generation + 1 < self._first_generation)
        if newer or (self._from is None and self._first_generation > 1):
            return 0.0  # they were saved since
        try:
            history = History(self._run.store)
            points = history.read(from_step=0 if self._from is None else self._from.step, most=MOST_POINTS).points
        except OSError:
            return 0.0
        return spent_since(self._from, history.attempts, points)

    def expect(self, receipt: Receipt) -> Receipt:
        """The receipt with what its course will be compared with: what was logged behind the checkpoint before."""
        self._observer = None
        if self._from is None or not self._mine:
            return replace(receipt, course=Course())
        history = History(self._run.store)
        generation, step = self._from.generation, self._from.step
        try:
            points = history.read(from_step=step, most=MOST_POINTS).points
        except OSError as error:
            logger.warning("What was logged before can't be read, so the course is not compared: %s", error)
            return receipt
        attempts = [one for one in history.attempts if one.number != self._number]
        exact = receipt.level is Exactness.EXACT
        self._observer = Observer(logged_beyond(attempts, points, generation=generation, step=step, exact=exact))
        return replace(receipt, course=self._observer.course)

    def begin(self, receipt: Receipt | None, max_steps: int | None = None, causes: Causes = no_causes) -> None:
        """Begin an attempt, where it goes on from is settled. `max_steps` is its end, `causes` of another course."""
        origin = self._from
        self._causes = causes
        self._history = History(self._run.store)
        self._number = self._history.begin(
            from_step=None if origin is None else origin.step,
            from_generation=origin.generation if origin is not None and self._mine else None,
            timeline=self._run.repository.current_timeline(),
            max_steps=max_steps,
            first_generation=self._first_generation,
            level=None if receipt is None else receipt.level.value,
        )

    def log(
        self, receipt: Receipt | None, step: int, epoch: float | None, values: Mapping[str, float]
    ) -> Receipt | None:
        """Note the values of one step; returns the receipt as it is then. Begins an attempt where none is."""
        if self._history is None:
            self.begin(receipt)
        assert self._history is not None
        self._history.log(step, epoch, values)
        return self._seen(receipt, self._observer.take(step, values)) if self._observer else receipt

    def end(self, receipt: Receipt | None, how: Ending | None) -> Receipt | None:
        """End the attempt; returns the receipt as it is then. Nothing where none was begun, or it has ended already.

        With None it is not known how it ended; that can still be said.
        """
        observer, self._observer = self._observer, None
        if self._history is not None:
            self._history.end(how)
            self._history = None if how is not None else self._history
        return self._seen(receipt, observer.end()) if observer else receipt

    def _seen(self, before: Receipt | None, course: Course | None) -> Receipt | None:
        """Put down what is new of the course, and say it where it is the first match, or another course."""
        if before is None or course is None:
            return before
        receipt = before.observed(course, self._likely() if course.left else ())
        told = before.course is not None and before.course.equal is not None
        corrected = receipt.level is not before.level
        if corrected:
            text = "the resume from step %d is %s after all: %s"
            logger.warning(text, receipt.step, receipt.level.value, receipt.reasons[-1].text)
        elif course.deviation is not None or not told:
            expected = f", as was to be expected: {before.level.value}" if course.left else ""
            logger.info("%s%s", course.line(compared=bool(receipt.compared)), expected)
        self._run.events.append("course", **receipt.to_json())
        return receipt

    def _likely(self) -> Sequence[str]:
        try:
            return self._causes()
        except Exception:  # it looks into objects of others, which may be anything
            logger.debug("what may have caused another course can't be seen", exc_info=True)
            return ()
