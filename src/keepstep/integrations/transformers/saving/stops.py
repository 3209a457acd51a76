"""A training that is told to stop: the step under way is finished and saved, and is the last."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from keepstep.checkpointer import HEARD, Checkpointer, Preemption, Signals, Stopping
from keepstep.errors import KeepstepError, Preempted, RunNotFound
from keepstep.integrations.transformers.metrics.ranking import Ranking
from keepstep.integrations.transformers.resuming.loop import Loop
from keepstep.integrations.transformers.saving.jit import StockSignals
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.integrations.transformers.setup.options import OnPreempt
from keepstep.snapshot.ranks import LEAD, Ranks
from keepstep.snapshot.vote import Vote
from keepstep.units import format_duration

GO_ON = 'train(resume_from_checkpoint="auto") goes on'


ROLL_CALL = 30.0
"""Seconds that a process waits for the others, before it saves what it has."""
ANOTHER = "another rank was told"
"""What is said where nobody knows more."""
_AT_LEAST = 2.0
"""Seconds that an evaluation leaves beyond what a save takes."""


class CutShort(Exception):
    """An evaluation would outlast the time that is left."""


class Stops:
    """What becomes of a training that is told to stop, or to save.

    It ends after the save of a step, and only then: to its checkpoint it looks like a training that goes on. Several
    processes agree on the step.
    """

    def __init__(
        self,
        trainer: Any,
        checkpointer: Checkpointer,
        ranks: Ranks,
        loop: Loop,
        ranking: Ranking,
        *,
        on_preempt: OnPreempt,
        save: Callable[[], None],
        is_active: Callable[[], bool],
    ) -> None:
        self._trainer = trainer
        self._checkpointer = checkpointer
        self._ranks = ranks
        self._loop = loop
        self._ranking = ranking
        self._save = save
        self._on_preempt: OnPreempt = on_preempt
        self._stock = StockSignals(trainer, is_active=is_active)
        self._vote = Vote(ranks)
        self._signals = Signals()
        self.saves_none = self._evaluates = self.cut_short = False
        self._agreed = self._asked = False
        self._why = ANOTHER
        self._last_commit = (0, time.monotonic())

    @property
    def _told(self) -> Stopping:
        return self._checkpointer.stopping

    # -- around a training -----------------------------------------------------------------------------

    @contextmanager
    def hearing(self) -> Generator[None]:
        """Around `train()`. Raises Preempted at its end where it was stopped, once the run is given back."""
        self._ranks.alone = False
        self._vote, self.saves_none = Vote(self._ranks), False
        self._agreed = self._asked = False
        self._why = ANOTHER
        self._checkpointer.preempted = None
        numbers = HEARD if self._on_preempt != "ignore" else (signal.SIGTERM,) * self._stock.wanted
        self._signals = Signals(numbers, left_out=self._stock.owns)
        with self._told.hearing(self._signals):
            yield
        preempted = self._checkpointer.preempted
        if preempted is None:
            self._signals.deliver()
        elif self._on_preempt == "exit":
            raise Preempted(_sentence(preempted), preempted)

    def say(self) -> None:
        """What a training listens to, at its start, where that is not what every training does."""
        if not self._ranks.leads:
            return
        lines: list[str] = []
        if self._stock.wanted:
            lines.append(
                "enable_jit_checkpoint: a SIGTERM ends the training with the step under way, saved by keepstep"
            )
        if self._told.limit.text is not None:
            lines.append(f"it is saved and stopped after {self._told.limit.text}")
        if self._told.deadlines and self._on_preempt != "ignore":
            lines.append(f"once it is told to stop there are {self._told.deadlines[0]}")
        if lines:
            logger.info("%s", "; ".join(lines))

    def begins(self, control: Any) -> None:
        """Before the first step: what was told to stop while it was loading does not begin."""
        self._last_commit = (self._trainer.state.global_step, time.monotonic())
        if self._ranks.leads:
            self._told.look()
        self._hear_all()
        if self._ranks.agree(lambda: self._why != ANOTHER):
            self._loop.stops_here = self._loop.ended = True
            control.should_training_stop = True

    # -- in the loop -----------------------------------------------------------------------------------

    def step_ends(self, control: Any) -> None:
        """At the end of a step, when all others have said what is due."""
        state = self._trainer.state
        if self._ranks.leads:
            self._checkpointer.heed(state.global_step, state.max_steps)
        stops, saves, _ = self._vote.turn(self._told.told is not None, self._told.take_save(), False)
        saves, self._asked = saves or self._asked, False
        if (stops or self._agreed) and not self._is_over:
            self._stop(control)
        elif saves:
            control.should_save = True

    def evaluated(self, control: Any) -> None:
        """After an evaluation: what all have heard meanwhile counts at once."""
        if self._evaluates and self._hears_now:
            self._stop(control)
        self.holds(control)

    def holds(self, control: Any) -> None:
        """While a step is logged and evaluated: nobody takes back that it is saved."""
        if self._loop.stops_here and not self._ranking.is_saved:
            control.should_save = not self.saves_none

    def saved(self, control: Any) -> None:
        """After a save: no further step begins. Only now, so that the checkpoint says that the training goes on."""
        if self._ranking.is_saved:
            self._last_commit = (self._trainer.state.global_step, time.monotonic())
        if self._loop.stops_here or self._hears_now:
            self._loop.stops_here = control.should_training_stop = True

    def epoch_ends(self, control: Any) -> None:
        """At the end of an epoch; what is due there is made up for by the resume where the step is saved already."""
        if self._hears_now:
            self._stop(control)
        if not self._loop.stops_here:
            return
        if self._ranking.is_saved or self.saves_none:
            control.should_save = control.should_evaluate = control.should_log = False
            control.should_training_stop = True
        else:
            control.should_save = True

    @property
    def _hears_now(self) -> bool:
        """True where all know by now, since the last step, that they were told to stop what is not over yet."""
        told = self._agreed or (self._ranks.single and self._told.told is not None)
        return told and not self._loop.stops_here and not self._is_over

    @property
    def _is_over(self) -> bool:
        """True when the training has all its steps: what is left of it is its end."""
        state = self._trainer.state
        return state.global_step >= state.max_steps

    def _stop(self, control: Any) -> None:
        """Stop with the present step, which is saved where there is the time."""
        self._loop.stops_here = True
        all_here = self._ranks.all_here(self._patience())
        left = self._hear_all() if all_here else ()
        if self._ranking.is_saved:
            control.should_save = False
            control.should_training_stop = True
            return
        if not all_here:
            self._go_alone()
        self.saves_none = not self._ranks.agree(self._has_time_in(left))
        control.should_save = not self.saves_none
        if self.saves_none:
            control.should_evaluate = False
            control.should_training_stop = True

    def _hear_all(self) -> Sequence[float | None]:
        """On rank 0: the seconds that each rank knows of; `_why` is what the first one says that was told."""
        found = self._ranks.together(lambda: (self._told.told and self._told.told.why, self._told.left()))
        said = [(rank, why) for rank, (why, _) in enumerate(found) if why]
        if said:
            rank, why = said[0]
            self._why = why if rank == LEAD else f"{why} to rank {rank}"
        return [left for _, left in found]

    def _patience(self) -> float:
        """Seconds that another process is waited for, before it counts as gone."""
        left = self._told.left()
        return ROLL_CALL if left is None else max(min(left / 4, ROLL_CALL), 1.0)

    def _go_alone(self) -> None:
        """Others are gone: rank 0 saves, where it has all. Raises Preempted: the loop would wait for them."""
        self._ranks.alone = True
        if self._ranks.sharded:
            step = self._trainer.state.global_step
            logger.warning("another process is gone, with its part of the state: step %d can't be saved", step)
        self._loop.lacks = "another process was gone when it was saved: the random states of the others are not in it"
        if self._ranks.leads and not self._ranks.sharded and self._spare() >= 0:
            self._save()
        self.conclude()
        stopped = self._checkpointer.preempted
        raise Preempted("" if stopped is None else _sentence(stopped), stopped)

    def _has_time_in(self, left: Sequence[float | None]) -> Callable[[], bool]:
        """Whether the time is enough that the rank has which knows of the least."""
        known = [one for one in left if one is not None]
        return lambda: not known or min(known) >= self._save_seconds()

    # -- the time there is -----------------------------------------------------------------------------

    def _spare(self) -> float:
        """Seconds that are left beyond what a save takes by what saves have taken; without end where nobody knows."""
        left = self._told.left()
        return float("inf") if left is None else left - self._save_seconds()

    def _save_seconds(self) -> float:
        """What a save takes; 0 in a process that does not see the run."""
        try:
            return self._checkpointer.run.events.save_seconds()
        except (KeepstepError, OSError):
            return 0.0

    @contextmanager
    def evaluating(self) -> Generator[None]:
        """Around an evaluation of the training loop: one that would outlast the time that is left is cut short, and its
        metrics are recorded nowhere.
        """
        self._evaluates, self.cut_short = True, False
        try:
            yield
        except CutShort:
            self.cut_short = True
            step = self._trainer.state.global_step
            if self._ranks.leads:
                logger.warning("the evaluation of step %d is cut short: it would outlast the time that is left", step)
            self.evaluated(self._trainer.control)
        finally:
            self._evaluates = False

    def predicts(self) -> None:
        """At each batch of an evaluation. Raises CutShort where the save would come too late, on all ranks at the same
        batch: they talk of it as they do at the end of a step, and hear of it one batch later.
        """
        if not self._evaluates:
            return
        told = self._told.told is not None
        late = told and (self._loop.ended or self._spare() < _AT_LEAST)
        stops, saves, late = self._vote.turn(told, False, late)
        self._agreed, self._asked = self._agreed or stops, self._asked or saves
        if late:
            raise CutShort

    # -- the end ---------------------------------------------------------------------------------------

    def conclude(self) -> None:
        """When all is durable: what became of the training, where it was stopped."""
        self._vote.end()
        if not self._loop.stops_here:
            return
        step, why = self._trainer.state.global_step, self._told.told.why if self._told.told else self._why
        try:
            latest = self._checkpointer.run.latest
        except RunNotFound:
            latest = None
        at = None if latest is None else latest.step
        lost = step - self._last_commit[0] if at != step else 0
        seconds = time.monotonic() - self._last_commit[1] if lost else 0.0
        self._checkpointer.preempted = Preemption(why, step, at, max(lost, 0), seconds)
        self._signals.forget()
        if self._ranks.leads:
            logger.warning("%s", _sentence(self._checkpointer.preempted))

    def share(self) -> None:
        """Let every rank know what rank 0 does."""
        self._checkpointer.preempted = self._ranks.agree(lambda: self._checkpointer.preempted)


def _sentence(stopped: Preemption) -> str:
    text = f"told to stop ({stopped.why}): the training ends at step {stopped.step}"
    if stopped.resumes_at is None:
        return f"{text}, and nothing was saved yet; {GO_ON} from the start"
    if not stopped.lost_steps:
        saved = ", saved" if stopped.resumes_at == stopped.step else ""
        return f"{text}{saved}; {GO_ON} from step {stopped.resumes_at}"
    steps = "1 step" if stopped.lost_steps == 1 else f"{stopped.lost_steps} steps"
    lost = f"{steps} ({format_duration(stopped.lost_seconds)}) are lost, since there was no time for a save"
    return f"{text}; {lost}; {GO_ON} from step {stopped.resumes_at}"
