"""What the page asks of a training that runs, where writing is allowed: to save now, to stop."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, get_args

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from keepstep.errors import KeepstepError
from keepstep.operations.requesting import answers, ask
from keepstep.run import Request, Wish, open_run
from keepstep.web.actions import fields_of, in_thread, must_write
from keepstep.web.answers import Refused, answer
from keepstep.web.sources import Sources
from keepstep.web.stream import Hub
from keepstep.web.view import RunView

logger = logging.getLogger("keepstep")

PATIENCE = 3600.0
"""Seconds after which a request that nobody has answered is taken back."""


class Asking:
    """Leaves requests as `keepstep save-now` and `keepstep stop` do; what is answered is told by the stream."""

    def __init__(self, sources: Sources, hub: Hub, *, writable: bool) -> None:
        self._sources = sources
        self._hub = hub
        self._writable = writable
        self._asked: dict[tuple[str, Wish], asyncio.Task[None]] = {}

    def routes(self) -> list[Route]:
        """What is asked with POST."""
        return [Route("/api/runs/{key}/ask", self.ask, methods=["POST"])]

    async def ask(self, request: HttpRequest) -> Response:
        """Ask a training to save or to stop; once for each, while it has not answered. Refused without
        `--allow-write`, and where nobody trains.
        """
        must_write(self._writable)
        view = await self._sources.view(request.path_params["key"])
        what = _wish((await fields_of(request)).get("what"))
        if (view.key, what) not in self._asked:
            left = await in_thread(partial(_ask, view, what), f"asking in {view.path}")
            self._follow(view, left)
        return answer(request, {"what": what}, 202)

    def _follow(self, view: RunView, request: Request) -> None:
        asked = (view.key, request.what)
        if asked not in self._asked:
            self._asked[asked] = asyncio.create_task(self._tell(view, request))
            self._asked[asked].add_done_callback(lambda _: self._asked.pop(asked, None))

    async def _tell(self, view: RunView, request: Request) -> None:
        loop = asyncio.get_running_loop()

        def tell(state: str, **fields: Any) -> None:
            told = {"key": view.key, "what": request.what, "state": state, **fields}
            loop.call_soon_threadsafe(self._hub.tell, view.key, "asked", told)

        def follow() -> None:
            for event in answers(open_run(view.path), request, PATIENCE):
                if event["event"] == "requested":
                    tell("seen")
                else:
                    tell("answered", done=bool(event.get("done")), answer=str(event.get("answer", "")))

        try:
            await in_thread(follow, f"waiting for an answer in {view.path}")
        except KeepstepError as error:
            tell("unanswered", answer=error.message)
        except Exception:
            logger.exception("nobody knows what became of a request in %s", view.path)
            tell("unanswered", answer="keepstep failed at this; its terminal says more")


def _wish(given: object) -> Wish:
    for wish in get_args(Wish):
        if given == wish:
            return wish
    raise Refused(400, 'what is asked is neither "save" nor "stop"', code="body")


def _ask(view: RunView, what: Wish) -> Request:
    return ask(open_run(view.path), what)
