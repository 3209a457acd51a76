"""The thread that sends what a run commits to its mirror: the newest that is missing, and then it looks again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from keepstep.checkpointer.priority import lower_priority
from keepstep.errors import KeepstepError, MirrorOfAnother, MirrorUnavailable, RunNotFound
from keepstep.mirror import Mirror, Pace, Writer
from keepstep.operations.mirroring.plan import MirrorPlan, plan_mirror
from keepstep.operations.mirroring.syncing import Sender
from keepstep.operations.removing.pruning import policy_for
from keepstep.run import MirrorNotes, Run

logger = logging.getLogger("keepstep")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0


class Courier:
    """Sends to one mirror while one training runs, and for as long afterwards as it is waited for. It fails nothing."""

    def __init__(
        self, run: Run, mirror: Mirror, keep: str | None, bandwidth: int | None, make_home: Callable[[], None]
    ) -> None:
        self._run, self._mirror, self._keep, self._bandwidth = run, mirror, keep, bandwidth
        self._make_home = make_home
        self._untidy = False
        self._changed = threading.Condition()
        self._asked, self._done = 1, 0
        self._ends = self._hurries = self._over = self._left = False
        self._pending: dict[int, int] = {}
        self._notes = MirrorNotes(run.store, mirror.url, run.id)
        self._notes.begin_training(keep, run.lock.owner())
        run.events.listeners.append(self._hear)
        threading.Thread(target=self._work, name="keepstep-mirror", daemon=True).start()

    @property
    def behind(self) -> bool:
        """True while there is something that was not looked after yet."""
        with self._changed:
            return self._done < self._asked

    def hurry(self) -> None:
        """The training is over, and this is waited for."""
        with self._changed:
            self._ends = self._hurries = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """True as soon as nothing is left to do, or nothing can be done any more; False after so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._over or self._done >= self._asked, seconds)

    def relax(self) -> None:
        """Nobody waits any more: what is missing goes there as long as this process lives."""
        with self._changed:
            self._hurries = False

    def leave(self) -> None:
        """Another training begins: what is under way may end, and no more is begun."""
        with self._changed:
            self._left = True
            self._changed.notify_all()
        self._notes.mute()
        if self._hear in self._run.events.listeners:
            self._run.events.listeners.remove(self._hear)

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] in ("committed", "metrics", "timeline"):
            with self._changed:
                if event["event"] == "committed":
                    self._pending[event["generation"]] = event["step"]
                self._asked += 1
                self._changed.notify_all()

    # -- in the thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        lower_priority()
        try:
            self._send_all()
        except Exception as error:
            if not self._left:  # else a later training of this process has taken over
                self._give_up(error)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        why = _said(error)
        if not (self._ends and isinstance(error, MirrorOfAnother)):  # after the end the run may be another training's
            self._notes.down(why, lost=True)
            self._run.events.append("mirror_lost", why=why)
        logger.warning("Nothing is mirrored any more: %s", why)

    def _send_all(self) -> None:
        sender, pause = None, FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done < self._asked or self._ends or self._left)
                if self._left or self._done >= self._asked:
                    return
                asked = self._asked
            try:
                here = self._here()
                if here is None or (sender is None and self._too_late(here)):
                    return
                if sender is None:
                    sender = self._sender()
                more = self._send(sender, here)
            except OSError as error:  # of the mirror, or of this disk: both may come back
                if self._left:
                    return
                self._tell_trouble(error)
                pause = self._rest(pause)
                continue
            pause = FIRST_PAUSE
            self._tell_recovery()
            if not more:
                with self._changed:
                    self._done = asked
                    self._changed.notify_all()

    def _rest(self, pause: float) -> float:
        """Wait before another try; returns how long to wait before the one after it."""
        with self._changed:
            if self._hurries:  # the end of the training waits, and tells what is missing
                self._changed.wait_for(lambda: self._left, FIRST_PAUSE)
                return pause
            self._changed.wait_for(lambda: self._hurries or self._left, pause)
        return min(2 * pause, LONGEST_PAUSE)

    def _here(self) -> Run | None:
        """The run as it is now, None where another is there, or none. What the training holds open is not for two
        threads: this one looks for itself.
        """
        with suppress(RunNotFound):
            here = Run.open(self._run.path)
            return here if here.id == self._run.id else None
        return None

    def _too_late(self, here: Run) -> bool:
        """True where a first claim would end that of a later training: this one is over, and nobody waits for it, or
        another has the run.
        """
        return self._ends and (not self._hurries or here.lock.in_use)

    def _sender(self) -> Sender:
        run, mirror = self._run, self._mirror
        self._make_home()
        writer = Writer.claim(mirror, run.id)
        if not writer.exclusive:
            logger.warning("%s can't keep two writers apart: let one process at a time mirror this run", mirror.url)
        return Sender(writer, run.store, run.events, pace=Pace(self._bandwidth), note=self._notes)

    def _send(self, sender: Sender, here: Run) -> bool:
        """Send the newest that is missing; True when there is more to do."""
        with self._changed:
            pending = dict(self._pending)
        policy = policy_for(here, self._keep, None, None)
        plan: MirrorPlan = plan_mirror(here, self._mirror, self._mirror.records(), policy)
        due = [decision for decision in plan.push if decision.checkpoint.generation not in sender.refused]
        self._notes.looked((record.checkpoint for record in plan.there), plan.wanted)
        there = {record.name.generation for record in plan.there}
        waiting = {decision.checkpoint.generation for decision in plan.push}
        self._tell_skipped({g: step for g, step in pending.items() if g not in waiting}, there)
        if due:
            sender.send(here, due[0])
            return True
        sender.tell(here)
        try:
            sender.tidy(here, policy)
        except MirrorUnavailable as error:  # all is there; some stores let nothing be removed
            self._tell_untidy(error)
        return False

    def _tell_untidy(self, error: KeepstepError) -> None:
        if not self._untidy:
            logger.warning("What the policy drops stays in the mirror for now: %s", error.message)
        self._untidy = True

    def _tell_skipped(self, gone: dict[int, int], there: set[int]) -> None:
        """Of what was committed and is waiting no more, what never got there."""
        skipped = {generation: step for generation, step in gone.items() if generation not in there}
        with self._changed:
            for generation in gone:
                self._pending.pop(generation, None)
        if skipped:
            self._run.events.append(
                "mirror_skipped", steps=list(skipped.values()), generations=list(skipped),
                why="newer ones took their place before it was their turn",
            )  # fmt: skip

    def _tell_trouble(self, error: OSError) -> None:
        why, known = _said(error), bool(self._notes.note.trouble)
        self._notes.down(why)
        if not known:
            self._run.events.append("mirror_down", why=why)
            logger.warning("The mirror is behind, and tried again as long as the training runs: %s", why)
        with suppress(OSError):  # then the disk here is the trouble
            self._skip_what_went()

    def _skip_what_went(self) -> None:
        """While the mirror can't be asked: what the run has removed meanwhile will not go there any more."""
        with self._changed:
            pending = dict(self._pending)
        if (run := self._here()) is None:
            return
        here = {checkpoint.generation for checkpoint in run.checkpoints}
        self._tell_skipped({g: s for g, s in pending.items() if g not in here}, set(self._notes.note.there))

    def _tell_recovery(self) -> None:
        if self._notes.note.trouble:
            self._notes.up()
            self._run.events.append("mirror_up")
            logger.warning("The mirror answers again")


def _said(error: Exception) -> str:
    return error.message if isinstance(error, KeepstepError) else str(error) or type(error).__name__
