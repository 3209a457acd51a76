"""A thread of its own for the blocking reads of one run, so that a disk that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from keepstep.errors import KeepstepError

T = TypeVar("T")

IDLE_SECONDS = 30.0
"""After so long without work the thread ends; the next piece of work starts another."""
PATIENCE_SECONDS = 20.0
"""How long an answer is waited for before the page says that the run does not answer."""


class NoAnswer(KeepstepError):
    """Reading a run takes longer than anybody waits for."""

    code = "no-answer"


class Lane:
    """Calls functions one after the other in a daemon thread: none of them needs a lock against the others.

    A daemon, so that the server ends at once although a file system hangs.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._alive = False
        self._since: float | None = None

    async def call(self, function: Callable[[], T], patience: float = PATIENCE_SECONDS) -> T:
        """What `function` returns or raises. Raises NoAnswer after `patience` seconds, at once where it hangs."""
        if (since := self._since) is not None and time.monotonic() - since > PATIENCE_SECONDS:
            raise self._no_answer(time.monotonic() - since)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # pyright: ignore[reportArgumentType]

        def work() -> None:
            if answer.cancelled():
                return
            outcome: tuple[T | None, BaseException | None]
            try:
                outcome = function(), None
            except BaseException as error:
                outcome = None, error
            with suppress(RuntimeError):  # the loop is closed: the server ended meanwhile
                loop.call_soon_threadsafe(settle, *outcome)

        self._put(work)
        done, _ = await asyncio.wait({answer}, timeout=patience)
        if not done:
            answer.cancel()
            raise self._no_answer(patience)
        return answer.result()

    def _put(self, work: Callable[[], None]) -> None:
        with self._guard:
            self._work.put(work)
            if not self._alive:
                self._alive = True
                threading.Thread(target=self._run, name=f"keepstep-web {self._what}", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._guard:
                    if self._work.empty():
                        self._alive = False
                        return
                continue
            self._since = time.monotonic()
            work()
            self._since = None
            del work

    def _no_answer(self, seconds: float) -> NoAnswer:
        return NoAnswer(
            f"{self._what} has not answered for {seconds:.0f} s",
            hint="Its file system may hang, or be very slow; the page goes on as soon as it answers.",
        )
