"""What other processes have asked of the session, until it is answered in the event log."""

from __future__ import annotations

import logging
from contextlib import suppress

from keepstep.checkpointer.stopping.stopping import Stopping
from keepstep.checkpointer.stopping.told import Told
from keepstep.model import Checkpoint
from keepstep.run import Request, Requests, Run

logger = logging.getLogger("keepstep")


class Errands:
    """The requests of one session of a run. None of them is left unanswered when it ends.

    It never fails: who asks for too much must not end a training.
    """

    def __init__(self, run: Run, stopping: Stopping) -> None:
        self._run = run
        self._stopping = stopping
        self._requests = Requests(run.store)
        self._saves: list[Request] = []
        self._begun: list[Request] = []
        self._stops: list[Request] = []
        with suppress(OSError):
            for request in self._requests.waiting():
                self._requests.withdraw(request)
                self._answer(request, "too late: the training that it was for has ended", done=False)

    def look(self, step: int) -> None:
        """Take what has been asked since the last step: one `stat` where nothing was."""
        try:
            for request in self._requests.waiting():
                self._requests.withdraw(request)
                self._take(request, step)
        except OSError as error:
            logger.debug("requests can't be read: %s", error)

    def _take(self, request: Request, step: int) -> None:
        who = f"process {request.pid} on {request.host}"
        self._run.events.append("requested", id=request.id, what=request.what, step=step, by=who)
        if request.what == "stop":
            self._stops.append(request)
            self._stopping.tell(Told(f"keepstep stop, by {who}"))
        else:
            self._saves.append(request)
            self._stopping.wants_save = True

    def save_begins(self) -> None:
        """What is saved now is what was asked for before."""
        self._begun, self._saves = self._begun + self._saves, []

    def committed(self, checkpoint: Checkpoint) -> None:
        """A save is on the disk."""
        begun, self._begun = self._begun, []
        for request in begun:
            self._answer(request, f"saved as {checkpoint.name}", step=checkpoint.step)

    def refused(self, step: int, why: str) -> None:
        """There was no room for a save."""
        begun, self._begun = self._begun + self._saves, []
        self._saves = []
        for request in begun:
            self._answer(request, f"not saved: {why}", done=False, step=step)

    def end(self, how: str, *, done: bool) -> None:
        """The session ends; `done` says that it was stopped, as who asked for that wanted."""
        for request in self._stops:
            self._answer(request, how, done=done)
        for request in self._saves + self._begun:
            self._answer(request, how, done=False)
        self._stops, self._saves, self._begun = [], [], []

    def _answer(self, request: Request, text: str, *, done: bool = True, step: int | None = None) -> None:
        more = {} if step is None else {"step": step}
        self._run.events.append("answered", id=request.id, what=request.what, done=done, answer=text, **more)
