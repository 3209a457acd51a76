"""Server-sent events (WHATWG HTML, 9.2): what changed in the runs, while anybody listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from keepstep.errors import KeepstepError
from keepstep.run import History, Point
from keepstep.strict import finite_or_name
from keepstep.web.answers import Refused, encode
from keepstep.web.sources import Sources
from keepstep.web.view import RunView, Stamps

logger = logging.getLogger("keepstep")

POLL_SECONDS = 0.5
ROOT_POLL_SECONDS = 3.0
PING_SECONDS = 15.0
MOST_WAITING = 256
"""Messages that a listener may be behind; after that it is told to look at everything anew."""
MOST_LISTENERS = 64
ALL = ""
"""The key under which the list of runs is listened to."""

Message = tuple[str, Any]


class Listener:
    """One open stream: messages that are on their way to it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue()

    def put(self, message: Message | None) -> None:
        """Add a message; a listener that is too far behind loses what it has not read, and is told so."""
        if message is not None and self.queue.qsize() >= MOST_WAITING:
            while not self.queue.empty():
                self.queue.get_nowait()
            message = ("behind", {})
        self.queue.put_nowait(message)


class Hub:
    """Who listens to what. The first listener of a run sets off its watcher, the last one's leaving ends it."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._listeners: dict[str, set[Listener]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    @property
    def watched(self) -> frozenset[str]:
        """Keys that are watched now."""
        return frozenset(self._watchers)

    def tell(self, key: str, event: str, data: Any) -> None:
        """Send a message to who listens to a key."""
        for listener in self._listeners.get(key, ()):
            listener.put((event, data))

    def close(self) -> None:
        """End all streams at once, and let no more begin."""
        self._closed = True
        for watcher in self._watchers.values():
            watcher.cancel()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.put(None)

    async def stream(self, request: Request) -> Response:
        """`GET /api/stream?run=KEY`: changes of one run, and of the list; without a key those of the list alone."""
        key = request.query_params.get("run") or None
        view = None if key is None else await self._sources.view(key)
        if len(self._listeners.get(ALL, ())) >= MOST_LISTENERS:
            raise Refused(503, "too many pages listen already", hint="Close some of them.", code="busy")
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(self._messages(view), media_type="text/event-stream", headers=headers)

    async def _messages(self, view: RunView | None) -> AsyncIterator[bytes]:
        listener = Listener()
        keys = [ALL] if view is None else [ALL, view.key]
        for key in keys:
            self._join(key, listener, view)
        try:
            yield b"retry: 1000\n\n"
            while not self._closed:
                try:
                    message = await asyncio.wait_for(listener.queue.get(), PING_SECONDS)
                except TimeoutError:
                    yield b": ping\n\n"
                    continue
                if message is None:
                    return
                event, data = message
                yield b"event: %s\ndata: %s\n\n" % (event.encode(), encode(data))
        finally:
            for key in keys:
                self._leave(key, listener)

    def _join(self, key: str, listener: Listener, view: RunView | None) -> None:
        self._listeners.setdefault(key, set()).add(listener)
        if key not in self._watchers:
            work = self._watch_roots() if key == ALL or view is None else _Watch(view, self.tell).run()
            self._watchers[key] = asyncio.create_task(work, name=f"watching {key or 'the roots'}")

    def _leave(self, key: str, listener: Listener) -> None:
        listeners = self._listeners.get(key, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(key, None)
            if watcher := self._watchers.pop(key, None):
                watcher.cancel()

    async def _watch_roots(self) -> None:
        """Tell when a root gains or loses a run."""
        before: list[str] | None = None
        while self._sources.roots:
            try:
                now = [view.key for view in await self._sources.views()]
                if before is not None and now != before:
                    self.tell(ALL, "runs", {"keys": now})
                before = now
            except KeepstepError:
                pass
            except Exception:  # what comes and goes below a root is no reason to look no more
                logger.exception("the directories that runs lie below can't be watched; they are looked at again")
            await asyncio.sleep(ROOT_POLL_SECONDS)


class _Watch:
    """Looks at one run's files again and again, and tells what changed."""

    def __init__(self, view: RunView, tell: Callable[[str, str, Any], None]) -> None:
        self._view = view
        self._tell = tell
        self._history: History | None = None
        self._before: Stamps | None = None
        self._problem: str | None = None

    async def run(self) -> None:
        """Never ends by itself; a run that can't be read is told once, and looked at again."""
        while True:
            try:
                changed, points = await self._view.lane.call(self._look)
            except KeepstepError as error:
                self._say_problem(error.message)
            except Exception:
                logger.exception("%s can't be watched", self._view.path)
                self._say_problem("keepstep failed at watching it")
            else:
                if self._problem is not None:
                    self._problem, changed = None, ["checkpoints", "events", "curves", "disk", "in_flight"]
                for point in points:
                    said = {"key": self._view.key, "step": point.step, "values": _finite(point.values)}
                    said |= {"odd": _odd(point.values)}
                    self._tell(self._view.key, "points", said | {"attempt": point.attempt, "epoch": point.epoch})
                if changed:
                    self._tell(self._view.key, "run", {"key": self._view.key, "changed": changed})
            await asyncio.sleep(POLL_SECONDS)

    def _say_problem(self, message: str) -> None:
        if message != self._problem:
            self._problem = message
            self._tell(self._view.key, "run", {"key": self._view.key, "changed": ["problem"], "problem": message})

    def _look(self) -> tuple[list[str], list[Point]]:
        """In the run's thread: parts that changed since the last look, and points that were logged since."""
        now, before = self._view.stamps(), self._before
        self._before = now
        if before is None:
            self._history = self._view.followed
            self._history.read()
            return [], []
        changed = [part for part in now if now[part] != before[part]]
        if not self._view.present:
            raise Refused(404, f"{self._view.path} is gone", code="run-not-found")
        points: list[Point] = []
        if "curves" in changed and self._history is not None:
            news = self._history.read()
            points = [] if news.anew else news.points[-MOST_WAITING // 2 :]
        # What lies aside goes without a change beside the checkpoints.
        if "checkpoints" in changed or "events" in changed:
            changed.append("disk")
        return changed, points


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if value - value == 0 else None for name, value in values.items()}


def _odd(values: dict[str, float]) -> dict[str, float | str]:
    """What JSON has no numbers for, by its name."""
    return {name: finite_or_name(value) for name, value in values.items() if value - value != 0}
