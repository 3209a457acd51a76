"""A training's mirror: what is committed goes there in a thread of its own, and comes back to an empty machine."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.checkpointer.priority import lower_priority
from keepstep.errors import KeepstepError, MirrorOfAnother, MirrorUnavailable, RunInUse, RunNotFound
from keepstep.mirror import Mirror, Pace, Writer, open_mirror
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import MirrorPlan, plan_mirror
from keepstep.operations.mirroring.syncing import Sender
from keepstep.operations.removing.pruning import policy_for
from keepstep.paths import expanded
from keepstep.retention import parse
from keepstep.run import Resume, Run, holds_run
from keepstep.units import format_duration, format_size, parse_duration, parse_size

logger = logging.getLogger("keepstep")

WAIT = "10m"
"""How long the end of a training waits for its mirror."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0
_QUIET = 2.0
"""Seconds that the end of a training may take without a word."""
_NEWEST: tuple[Resume, ...] = (True, "auto", "latest")
"""What a resume may ask for that a mirror is looked at for."""


@dataclass(frozen=True, slots=True)
class MirrorTerms:
    """Where the mirror is, what stays there (None: as in the run), how long the end of a training waits for it, in
    seconds; whether a training begins without it, and how many bytes a second may go.
    """

    address: str
    keep: str | None
    wait: float
    required: bool
    bandwidth: int | None

    @classmethod
    def of(
        cls, address: str | None, keep: str | None, wait: str, *, required: bool, bandwidth: str | None
    ) -> MirrorTerms | None:
        """None without an address. Raises SettingsError, PolicyError, QuantityError, also for an address of no kind."""
        if address is None:
            return None
        if keep is not None:
            parse(keep)
        rate = None if bandwidth is None else parse_size(bandwidth.removesuffix("/s"), "mirror_bandwidth")
        open_mirror(address)
        return cls(address, keep, parse_duration(wait, "mirror_wait"), required, rate)


class Mirroring:
    """The mirror of one training after the other. It never fails a training, but for `required` at its start."""

    def __init__(self, terms: MirrorTerms) -> None:
        self._terms = terms
        self.trial = ""
        """The trial of a search that is trained: it has a mirror of its own, below the address."""
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._ends = self._over = False
        self._thread: threading.Thread | None = None
        self._run: Run | None = None
        self._trouble = ""
        self._untidy = False

    @property
    def address(self) -> str:
        """Where the mirror of what is trained now lies."""
        return f"{self._terms.address.rstrip('/')}/{self.trial}" if self.trial else self._terms.address

    def fetch(self, path: Path, resume: Resume) -> None:
        """Bring the newest that can be resumed from to `path`, where the mirror has a newer one than lies there.

        Raises MirrorUnavailable where the mirror is required, RunLocked, StorageError.
        """
        mirror = open_mirror(self.address)
        self._make_home()
        try:
            found = plan_pull(mirror, path, "latest") if resume in _NEWEST or self._terms.required else None
            if found is None or found.settled or resume not in _NEWEST or not found.record.checkpoint.resumable:
                return
            began = time.monotonic()
            step, size = found.record.checkpoint.step, format_size(found.record.checkpoint.size_bytes)
            logger.warning("Step %d comes from the mirror %s (%s)", step, mirror.url, size)
            here = bring(mirror, found, older=True, on_damage=logger.warning)
            took = format_duration(time.monotonic() - began)
            logger.warning("Step %d is here from the mirror after %s, every byte compared", here.step, took)
        except RunNotFound:
            return  # there is none yet
        except RunInUse as error:
            logger.warning("The mirror %s is left alone: %s", mirror.url, error.message)
        except MirrorUnavailable as error:
            if self._terms.required:
                raise
            what = "this directory alone counts" if holds_run(path) else "it begins without"
            logger.warning("The mirror can't be asked, and %s: %s", what, error.message)

    def begin(self, run: Run) -> None:
        """Mirror what a run commits from now on, and what of it the mirror lacks already."""
        self._run, self._ends, self._over, self._trouble = run, False, False, ""
        self._asked, self._done = 1, 0
        run.events.listeners.append(self._hear)
        self._thread = threading.Thread(target=self._work, args=(run,), name="keepstep-mirror", daemon=True)
        self._thread.start()

    def end(self, left: float | None = None) -> None:
        """Wait until all is there, as long as the terms say, or no longer than `left` seconds; then say what is not."""
        thread, run, self._thread = self._thread, self._run, None
        if thread is None or run is None:
            return
        limit = self._terms.wait if left is None else max(0.0, min(self._terms.wait, left))
        until = time.monotonic() + limit
        with self._changed:
            self._ends = True
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_over, min(_QUIET, limit)):
                logger.warning("Waiting for the mirror, at most %s (Ctrl-C: not at all)", format_duration(limit))
                self._changed.wait_for(self._is_over, until - time.monotonic())
            done = self._done >= self._asked
        if not done:
            way = f"keepstep mirror sync {run.path} {self.address}"
            why = f": {self._trouble}" if self._trouble else ""
            logger.warning("The mirror lacks what was committed last%s. Send it with: %s", why, way)

    def _is_over(self) -> bool:
        return self._done >= self._asked or self._over

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] in ("committed", "metrics", "timeline"):
            with self._changed:
                self._asked += 1
                self._changed.notify_all()

    # -- in the thread ---------------------------------------------------------------------------------

    def _work(self, run: Run) -> None:
        lower_priority()
        try:
            self._mirror(run)
        except MirrorOfAnother as error:
            self._trouble = error.message
            run.events.append("mirror_lost", why=error.message)
            logger.warning("Nothing is mirrored any more: %s", error.message)
        except Exception as error:
            self._trouble = str(error)
            logger.warning("Nothing is mirrored any more: %s", error)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _mirror(self, run: Run) -> None:
        mirror, sender, pause = open_mirror(self.address), None, _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done < self._asked or self._ends)
                if self._done >= self._asked:
                    return
                asked = self._asked
            try:
                if sender is None:
                    sender = self._sender(run, mirror)
                more = self._send(run, mirror, sender)
            except MirrorUnavailable as error:
                self._tell_trouble(run, error)
                pause = self._rest(pause)
                continue
            pause = _FIRST_PAUSE
            self._tell_recovery(run)
            if not more:
                with self._changed:
                    self._done = asked
                    self._changed.notify_all()

    def _rest(self, pause: float) -> float:
        """Wait before another try; returns how long to wait before the one after it."""
        if self._ends:  # the end of the training waits, and tells what is missing
            time.sleep(_FIRST_PAUSE)
            return pause
        with self._changed:
            self._changed.wait_for(lambda: self._ends, pause)
        return min(2 * pause, _LONGEST_PAUSE)

    def _make_home(self) -> None:
        """A directory that holds the mirrors of trials is made as a mirror is: where the one above is there."""
        path = self._terms.address.removeprefix("file://")
        if self.trial and "://" not in path:
            with suppress(OSError):  # what it means is said once the mirror is written
                expanded(path).mkdir()

    def _sender(self, run: Run, mirror: Mirror) -> Sender:
        self._make_home()
        writer = Writer.claim(mirror, run.id)
        if not writer.exclusive:
            logger.warning("%s can't keep two writers apart: let one process at a time mirror this run", mirror.url)
        return Sender(writer, run.store, run.events, pace=Pace(self._terms.bandwidth))

    def _send(self, run: Run, mirror: Mirror, sender: Sender) -> bool:
        """Send the newest that is missing; True when there is more to do."""
        # What the training holds open is not for two threads: this one looks for itself.
        here = Run.open(run.path)
        if here.id != run.id:
            return False
        policy = policy_for(here, self._terms.keep, None, None)
        plan: MirrorPlan = plan_mirror(here, mirror, mirror.records(), policy)
        due = [decision for decision in plan.push if decision.checkpoint.generation not in sender.refused]
        if due:
            sender.send(here, due[0])
            return True
        try:
            sender.tidy(here, policy)
        except MirrorUnavailable as error:  # all is there; some stores let nothing be removed
            self._tell_untidy(error)
        return False

    def _tell_trouble(self, run: Run, error: KeepstepError) -> None:
        if not self._trouble:
            run.events.append("mirror_down", why=error.message)
            logger.warning("The mirror is behind, and tried again as long as the training runs: %s", error.message)
        self._trouble = error.message

    def _tell_untidy(self, error: KeepstepError) -> None:
        if not self._untidy:
            logger.warning("What the policy drops stays in the mirror for now: %s", error.message)
        self._untidy = True

    def _tell_recovery(self, run: Run) -> None:
        if self._trouble:
            self._trouble = ""
            run.events.append("mirror_up")
            logger.warning("The mirror answers again")
