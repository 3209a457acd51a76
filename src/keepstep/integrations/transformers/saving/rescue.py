"""The last step of a training that an exception ends: saved where its state is whole, else it is said why not."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from keepstep.integrations.transformers.metrics.ranking import Ranking
from keepstep.integrations.transformers.resuming.loop import Loop
from keepstep.integrations.transformers.resuming.loop_state import LoopState
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.snapshot import random_state
from keepstep.snapshot.ranks import Ranks


class Rescue:
    """Knows at each moment whether the state of the last step is still there, and saves it when all else fails.

    Between two steps it is; from the first forward pass of a step on, until that is done, it is not. Fetching a batch
    draws random numbers: what there was before is noted, where it is asked for.
    """

    def __init__(self, trainer: Any, ranks: Ranks, loop: Loop, ranking: Ranking, *, asked: bool) -> None:
        self._trainer = trainer
        self._ranks = ranks
        self._loop = loop
        self._ranking = ranking
        self._asked = asked
        self.start()

    def start(self) -> None:
        """Begin a training: there is nothing to lose yet."""
        self._steps, self._half_done, self._drawn, self._saving = 0, False, False, False
        self._note: tuple[LoopState, random_state.RandomState] | None = None

    def step_ends(self) -> None:
        """A step is done."""
        self._steps, self._half_done, self._drawn, self._note = self._steps + 1, False, False, None

    def fetches(self) -> None:
        """The next epoch, or the next batches, are about to be drawn."""
        self._drawn = True
        if self._asked and self._steps and self._note is None:
            self._note = self._loop.capture(), random_state.capture()

    def trains(self) -> None:
        """A batch is about to be trained on."""
        self._half_done = True

    @contextmanager
    def of_save(self) -> Generator[None]:
        """Around a save: what ends that is not made good by another."""
        self._saving = True
        yield
        self._saving = False

    def save(self, error: BaseException, save: Callable[[], None]) -> None:
        """Save the last step, where that is asked for and not done yet; what fails is noted beside `error`."""
        wanted = self._asked or isinstance(error, KeyboardInterrupt)
        if not wanted or not self._steps or self._ranking.is_saved:
            return
        step, why = self._trainer.state.global_step, self._why_not()
        if why:
            if self._asked:
                logger.warning("save_on_exception: step %d is not saved: %s", step, why)
            return
        try:
            if self._note is not None:
                self._loop.noted = self._note[0]
                random_state.restore(self._note[1])
            save()
            logger.warning("%s ended the training between two steps: step %d is saved", type(error).__name__, step)
        except Exception as second:
            error.add_note(f"keepstep: the save of step {step} after it failed as well: {second}")
        finally:
            self._loop.noted = None

    def _why_not(self) -> str:
        if self._saving:
            return "it was its own save that failed"
        if not self._ranks.single:
            return "it would take the other processes, and they may be gone"
        if self._half_done:
            return "the exception came in the middle of the step after it, and what that has changed is not known"
        if self._drawn and self._note is None:
            return "the next batches are drawn already"
        return ""
