"""Nobody waits for the dead: while ranks do something together, each knows whether the others are still there."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
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
SILENCE = 2.5
"""Signs of life that a rank owes after which it counts as gone, where a connection was closed."""
LAST_WORDS = 10.0
"""Seconds for what a process says before it ends: a disk, or a lock of one that is gone, may hold it back for ever."""
_NAMED = 4
_STARTS = itertools.count(1)
"""Trainings of this process, alike on all ranks."""
_ENDED = 1
_GONE_WORDS = (
    *("connection closed by peer", "connection reset", "broken pipe", "connection refused", "socket closed"),
    *("timed out waiting", "connection was closed", "connection was likely closed", "remote process exited"),
)
"""How gloo and the store say that a process at the other end is gone."""


@dataclass(slots=True)
class _Line:
    """What one thread of every rank does together with the same of the others, one thing after the other.

    `turn` counts them, alike on all ranks; `what` is the one under way, empty between two; `failed` the last one that
    this rank has told a failure of. `told` is what was heard of it from another rank, and `told_at` since when.
    """

    name: str
    turn: int = 0
    what: str = ""
    failed: int = 0
    told: str = ""
    told_at: float = 0.0
    seen: dict[int, tuple[int, float]] = field(default_factory=dict[int, tuple[int, float]])
    looked: int = -1

    def begin_look(self) -> None:
        """Forget what was seen in the turn before."""
        if self.looked != self.turn or not self.what:
            self.seen, self.told, self.told_at, self.looked = {}, "", 0.0, self.turn


class Watch:
    """Ends this process where it would wait for another one that is gone, or has failed and does not come.

    Between `start` and `stop` each rank gives signs of life through the store of the process group, which takes no part
    in what the training sends. In `over` and `beside` rank 0 looks at those of all, and the others at rank 0's. What a
    collective waits for can't be interrupted: a rank that waits in vain writes why, and ends with code 1. So does one
    that waits for the store itself: two threads watch, one that asks the store and one that asks nobody.

    Seconds are those in which this process ran: who was stopped, with all others or alone, judges nobody by the time
    that it has missed.
    """

    def __init__(self, ranks: Ranks, *, tell: Callable[[str], None] = lambda text: None) -> None:
        """`tell` hears, in a thread, why this process is about to end."""
        self._ranks = ranks
        self._tell = tell
        self._store: Any = None
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lived = self._answered = 0.0
        ranks.watched = self.over
        self._prefix = ""
        self._training, self._background = _Line("training"), _Line("background")

    # -- the training's thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to give signs of life; every rank does so at once, once its process group is there.

        It asks nobody, so that the first talk of all ranks is watched too. Who has not come to it yet is waited for.
        """
        self.stop()
        if self._ranks.single:
            return
        self._prefix = f"keepstep/{next(_STARTS)}"
        _default_store().add(self._key("beat", self._ranks.rank), 1)
        self._training, self._background = _Line("training"), _Line("background")
        self._store, self._lived, self._answered = None, 0.0, 0.0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=act, args=(self._stop,), name="keepstep-watch", daemon=True)
            for act in (self._ask, self._guard)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give no further signs of life."""
        self._stop.set()
        for thread in self._threads:
            thread.join(BEAT)
        self._threads = []

    def over(self, what: str) -> AbstractContextManager[None]:
        """While the ranks do `what` together ("the save of step 4"). Every rank comes to it, in the same order.

        Raises RankLost, which names who is gone where that is known, in place of what a closed connection is called.
        """
        return self._watching(self._training, what)

    def beside(self, what: str) -> AbstractContextManager[None]:
        """The same for what the ranks' background threads do together while the training goes on."""
        return self._watching(self._background, what)

    @contextmanager
    def _watching(self, line: _Line, what: str) -> Iterator[None]:
        if not self._threads or line.what:
            yield
            return
        line.turn, line.what = line.turn + 1, what
        try:
            yield
        except KeepstepError:
            raise
        except Exception as error:
            if not _is_gone(error):
                self._say_failed(line, error)
                raise
            raise RankLost(
                f"{self._who_is_gone(line)}, in {what}: {error}",
                hint="What was committed before is untouched, and what it printed last says why it ended. "
                'Started again, train(resume_from_checkpoint="auto") goes on from there.',
            ) from error
        finally:
            line.what = ""

    def failed(self, error: BaseException) -> None:
        """Let the others know that this rank has failed, and may not come to where they wait.

        Not where another one is gone: that is no failure of this rank.
        """
        if not _is_gone(error):
            self._say_failed(self._training, error)

    def _say_failed(self, line: _Line, error: BaseException) -> None:
        if self._threads and line.what:
            line.failed = line.turn
            text = f"rank {self._ranks.rank} failed in {line.what}: {type(error).__name__}: {error}"
            self._leave_word(line, line.turn, text)

    def _who_is_gone(self, line: _Line) -> str:
        """Who gives no sign of life any more, or what was told of it, in words."""
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank]
        unknown = "another process is gone" if len(others) > 1 else f"rank {others[0]} is gone"
        try:
            if (told := self._told(line, line.turn)) or len(others) == 1:
                return told or unknown
            before = self._beats(others)
            time.sleep(BEAT * SILENCE)
            if told := self._told(line, line.turn):
                return told
            silent = [rank for rank, old, new in zip(others, before, self._beats(others), strict=True) if old == new]
            if not silent:
                return unknown
            names = " and ".join(f"rank {rank}" for rank in silent[:_NAMED])
            found = f"{names} {'is' if len(silent) == 1 else 'are'} gone"
            self._leave_word(line, line.turn, found)
            self._let_read()
        except Exception:  # the store went with the process that had it
            return line.told or unknown
        return found

    # -- its own threads ---------------------------------------------------------------------------------

    def _guard(self, stop: threading.Event) -> None:
        """Count the seconds that this process lives, and end it where it waits for a store that does not answer."""
        before = time.monotonic()
        while not stop.wait(BEAT):
            now = time.monotonic()
            self._lived, before = self._lived + min(now - before, 2 * BEAT), now
            silent = self._lived - self._answered
            if silent > PATIENCE + 2 * BEAT:  # the other thread, where it has an answer, is the first to end
                why = f"rank {LEAD}, which has the store of the process group, has not answered for {silent:.0f} s"
                for line in (self._training, self._background):
                    if what := line.what:
                        self._end(what, why)

    def _ask(self, stop: threading.Event) -> None:
        """Give signs of life, and look at those of others."""
        with suppress(Exception):
            self._store = _own_client()  # not in `start`: it waits for a process that may be gone
        while not stop.wait(BEAT):
            try:
                self._client.add(self._key("beat", self._ranks.rank), 1)
                self._answered, gone = self._lived, ""
            except Exception as error:  # the store is gone with the process that has it
                silent = self._lived - self._answered > PATIENCE
                gone = f"the store of the process group is gone: {error}" if silent else None
            for line in (self._training, self._background):
                self._look(line, gone, stop)

    def _look(self, line: _Line, gone: str | None, stop: threading.Event) -> None:
        """End this process where `line` waits in vain; `gone` says that the store is, None that it may be."""
        line.begin_look()
        turn, what = line.turn, line.what
        if not what:
            return
        try:
            why = line.told or gone if gone != "" else self._why_not_wait(line) or self._why_failed(line, turn)
        except Exception:
            return  # the next turn of this thread sees whether the store is gone
        if why and line.what and turn == line.turn and not stop.is_set():
            self._leave_word(line, turn, why)
            self._let_read()
            self._end(what, why)

    def _end(self, what: str, why: str) -> None:
        text = f"rank {self._ranks.rank} ends in {what}, where it would wait in vain: {why}"

        def say() -> None:
            logger.error("%s", text)
            sys.stderr.flush()
            with suppress(Exception):
                self._tell(text)

        speaker = threading.Thread(target=say, name="keepstep-watch", daemon=True)
        speaker.start()
        speaker.join(LAST_WORDS)
        os._exit(_ENDED)

    def _why_not_wait(self, line: _Line) -> str:
        """Who has not been heard of for too long, in words."""
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank] if self._ranks.leads else [LEAD]
        now = self._lived
        for rank, beat in zip(others, self._beats(others), strict=True):
            before, since = line.seen.get(rank, (-1, now))
            if beat != before or not beat:
                line.seen[rank] = (beat, now)
            elif now - since > PATIENCE:
                return f"rank {rank} has not been heard of for {now - since:.0f} s"
        return ""

    def _why_failed(self, line: _Line, turn: int) -> str:
        """What another rank has told of its failure, once it must have come to its end."""
        told = "" if turn == line.failed else self._told(line, turn)
        return told if told and self._lived - line.told_at > GRACE else ""

    def _told(self, line: _Line, turn: int) -> str:
        """The word that a rank has left of this turn; it is kept, since the store may go with who has it."""
        if not line.told and self._client.check([self._key(line.name, turn)]):
            line.told_at = self._lived
            line.told = self._client.get(self._key(line.name, turn)).decode()
        return line.told

    def _leave_word(self, line: _Line, turn: int, text: str) -> None:
        """Tell the others of this turn, where none has before: the first knows best."""
        with suppress(Exception):
            self._client.compare_set(self._key(line.name, turn), "", text)

    def _let_read(self) -> None:
        """Give the others the time to read what was left: the store may end with this process."""
        if self._ranks.leads and self._ranks.size > 2:
            time.sleep(BEAT * SILENCE)  # each looks once a beat, and a busy machine takes longer

    def _beats(self, ranks: list[int]) -> list[int]:
        return [self._client.add(self._key("beat", rank), 0) for rank in ranks]

    @property
    def _client(self) -> Any:
        return _default_store() if self._store is None else self._store

    def _key(self, what: str, number: int) -> str:
        return f"{self._prefix}/{what}/{number}"


def _default_store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _own_client() -> Any:
    """A connection to the store of the process group for one thread: a wait in another one does not hold it up."""
    store = _default_store()
    try:
        return store.clone()
    except (AttributeError, RuntimeError, NotImplementedError):
        return store


def _is_gone(error: BaseException) -> bool:
    """True for what a collective raises whose other end is gone."""
    return isinstance(error, (RuntimeError, OSError)) and any(word in str(error).lower() for word in _GONE_WORDS)
