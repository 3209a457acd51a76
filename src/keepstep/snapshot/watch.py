"""Nobody waits for the dead: while ranks do something together, each knows whether the others are still there."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from keepstep.errors import KeepstepError, RankLost
from keepstep.snapshot.ranks import LEAD, Ranks

logger = logging.getLogger("keepstep")

BEAT = 2.0
"""Seconds between two signs of life."""
PATIENCE = 120.0
"""Seconds without a sign of life after which a rank counts as gone. Waiting for a disk gives signs of life."""
GRACE = 30.0
"""Seconds in which a rank must have come to its end where another has failed on its own."""
_ENDED = 1
_GONE_WORDS = (
    *("connection closed by peer", "connection reset", "broken pipe", "connection refused", "socket closed"),
    *("timed out waiting", "connection was closed", "remote process exited"),
)
"""How gloo and the store say that a process at the other end is gone."""


class Watch:
    """Ends this process where it would wait for another one that is gone, or has failed and does not come.

    Between `start` and `stop` each rank gives signs of life through the store of the process group, which takes no part
    in what the training sends. In `over` rank 0 looks at those of all, and the others at rank 0's. What a collective
    waits for can't be interrupted: a rank that waits in vain writes why, and ends with code 1.
    """

    def __init__(self, ranks: Ranks, *, tell: Callable[[str], None] = lambda text: None) -> None:
        """`tell` hears, in a thread, why this process is about to end."""
        self._ranks = ranks
        self._tell = tell
        self._store: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._what = ""
        self._turn = self._failed = 0
        self._prefix = ""

    # -- the training's thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to give signs of life; every rank does so at once, once its process group is there."""
        self.stop()
        if self._ranks.single:
            return
        self._prefix, self._turn = self._ranks.agree(lambda: f"keepstep/{time.time_ns()}"), 0
        self._failed = 0
        self._store = _own_client()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name="keepstep-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give no further signs of life."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(BEAT)
        self._thread = None

    @contextmanager
    def over(self, what: str) -> Iterator[None]:
        """While the ranks do `what` together ("the save of step 4"). Every rank comes to it, in the same order.

        Raises RankLost in place of what a closed connection is called.
        """
        if self._thread is None or self._what:
            yield
            return
        self._turn, self._what = self._turn + 1, what
        try:
            yield
        except KeepstepError:
            raise
        except Exception as error:
            if not _is_gone(error):
                self.failed(error)
                raise
            raise RankLost(
                f"another process is gone, in {what}: {error}",
                hint="What was committed before is untouched, and what it printed last says why it ended. "
                'Started again, train(resume_from_checkpoint="auto") goes on from there.',
            ) from error
        finally:
            self._what = ""

    def failed(self, error: BaseException) -> None:
        """Let the others know that this rank has failed, and may not come to where they wait."""
        if self._thread is None or not self._what:
            return
        self._failed = self._turn
        text = f"rank {self._ranks.rank} failed in {self._what}: {type(error).__name__}: {error}"
        with suppress(Exception):
            self._store.set(self._key("failed", self._turn), text)

    # -- its own thread ----------------------------------------------------------------------------------

    def _run(self, stop: threading.Event) -> None:
        seen: dict[int, tuple[int, float]] = {}
        failed_at = 0.0
        turn = 0
        lost = time.monotonic()
        while not stop.wait(BEAT):
            if self._turn != turn or not self._what:
                seen, failed_at, turn = {}, 0.0, self._turn
            try:
                self._store.add(self._key("beat", self._ranks.rank), 1)
                lost = time.monotonic()
                why = self._why_not_wait(seen) if self._what else ""
                if not why and self._what and turn != self._failed and self._store.check([self._key("failed", turn)]):
                    failed_at = failed_at or time.monotonic()
                    if time.monotonic() - failed_at > GRACE:
                        why = self._store.get(self._key("failed", turn)).decode()
            except Exception as error:  # the store is gone with the process that has it
                why = ""
                if self._what and time.monotonic() - lost > PATIENCE:
                    why = f"the store of the process group is gone: {error}"
            what = self._what
            if why and what and turn == self._turn and not stop.is_set():
                with suppress(Exception):
                    self._store.set(self._key("failed", turn), why)
                text = f"rank {self._ranks.rank} ends in {what}, where it would wait in vain: {why}"
                with suppress(Exception):
                    self._tell(text)
                _end(text)

    def _why_not_wait(self, seen: dict[int, tuple[int, float]]) -> str:
        """Who has not been heard of for too long, in words; `seen` are the beats of the others, and since when."""
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank] if self._ranks.leads else [LEAD]
        now = time.monotonic()
        for rank, beat in zip(others, self._beats(others), strict=True):
            before, since = seen.get(rank, (-1, now))
            if beat != before:
                seen[rank] = (beat, now)
            elif now - since > PATIENCE:
                return f"rank {rank} has not been heard of for {now - since:.0f} s"
        return ""

    def _beats(self, ranks: list[int]) -> list[int]:
        return [self._store.add(self._key("beat", rank), 0) for rank in ranks]

    def _key(self, what: str, number: int) -> str:
        return f"{self._prefix}/{what}/{number}"


def _own_client() -> Any:
    """A connection to the store of the process group for one thread: a wait in another one does not hold it up."""
    store: Any = dist.distributed_c10d._get_default_store()
    try:
        return store.clone()
    except (AttributeError, RuntimeError, NotImplementedError):
        return store


def _is_gone(error: BaseException) -> bool:
    """True for what a collective raises whose other end is gone."""
    return isinstance(error, (RuntimeError, OSError)) and any(word in str(error).lower() for word in _GONE_WORDS)


def _end(text: str) -> None:
    logger.error("%s", text)
    sys.stderr.flush()
    os._exit(_ENDED)
