"""The questions of the page, by address: each finds its run by key, and answers in JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keepstep.errors import KeepstepError
from keepstep.version import __version__
from keepstep.web import closer, pages
from keepstep.web.answers import Refused, answer
from keepstep.web.sources import Sources
from keepstep.web.view import Opened, RunView

logger = logging.getLogger("keepstep")

AT_ONCE = 8
"""Runs of a list that are read at the same time."""
ROW_PATIENCE = 5.0
"""Seconds after which a run that does not answer is listed without its figures."""
MOST_POINTS = 20_000


class Api:
    """Handlers over the table of runs."""

    def __init__(self, sources: Sources, *, csrf: str, writable: bool) -> None:
        self.sources = sources
        self.csrf = csrf
        self.writable = writable
        self._reading = asyncio.Semaphore(AT_ONCE)

    def routes(self) -> list[Route]:
        """What is asked with GET."""
        return [
            Route("/api/about", self.about),
            Route("/api/runs", self.runs),
            Route("/api/runs/{key}", self.run),
            Route("/api/runs/{key}/curves", self.curves),
            Route("/api/runs/{key}/checkpoints/{generation:int}", self.checkpoint),
            Route("/api/runs/{key}/disk", self.disk),
            Route("/api/runs/{key}/plan", self.plan),
            Route("/api/runs/{key}/replay", self.replay),
            Route("/api/runs/{key}/health", self.health),
        ]

    async def about(self, request: Request) -> Response:
        """The server itself."""
        facts = {"version": __version__, "writable": self.writable, "csrf": self.csrf, "single": self.sources.single}
        return answer(request, facts)

    async def runs(self, request: Request) -> Response:
        """Every run; one that can't be read has a row that says so."""
        views = await self.sources.views()
        rows = await asyncio.gather(*map(self._row, views))
        body = {"roots": [str(root.path) for root in self.sources.roots], "runs": rows}
        return answer(request, body | {"problems": list(self.sources.problems)})

    async def run(self, request: Request) -> Response:
        """One run in full."""
        view = await self._view(request)
        return await self._page(request, "summary", partial(pages.summary, view))

    async def curves(self, request: Request) -> Response:
        """Curves of a run, by name and window."""
        query = request.query_params
        names = tuple(name for name in query["names"].split(",") if name) if "names" in query else None
        start, stop = (_number(query.get(name), name) for name in ("start", "stop"))
        points = _number(query.get("points"), "points")
        points = pages.CURVE_POINTS if points is None else min(max(points, 2), MOST_POINTS)
        find = partial(pages.curves, names=names, start=start, stop=stop, points=points)
        return await self._page(request, ("curves", names, start, stop, points), find)

    async def checkpoint(self, request: Request) -> Response:
        """One checkpoint of a run."""
        generation: int = request.path_params["generation"]
        find = partial(closer.checkpoint, generation=generation)
        return await self._page(request, ("checkpoint", generation), find)

    async def disk(self, request: Request) -> Response:
        """Where a run's bytes are, and will be."""
        return await self._page(request, "disk", closer.disk)

    async def plan(self, request: Request) -> Response:
        """What a policy and a budget would do now."""
        keep, budget = _trial(request)
        return await self._page(request, ("plan", keep, budget), partial(closer.plan, keep=keep, budget=budget))

    async def replay(self, request: Request) -> Response:
        """What a policy and a budget would have done."""
        keep, budget = _trial(request)
        return await self._page(request, ("replay", keep, budget), partial(closer.replay, keep=keep, budget=budget))

    async def health(self, request: Request) -> Response:
        """Findings, events, attempts, stalls."""
        return await self._page(request, "health", closer.health)

    async def _row(self, view: RunView) -> msgspec.Raw | dict[str, Any]:
        async with self._reading:
            try:
                return msgspec.Raw((await view.packed("row", partial(pages.row, view), ROW_PATIENCE)).plain)
            except KeepstepError as error:
                return pages.broken_row(view, error.message)
            except Exception as error:
                # What one run holds must not take the list from all others.
                logger.exception("%s can't be shown", view.path)
                return pages.broken_row(view, f"keepstep failed at this run: {type(error).__name__}")

    async def _view(self, request: Request) -> RunView:
        return await self.sources.view(request.path_params["key"])

    async def _page(self, request: Request, what: object, find: Callable[[Opened], object]) -> Response:
        view = await self._view(request)
        return (await view.packed(what, find)).answer(request)


def _trial(request: Request) -> tuple[str | None, str | None]:
    """The policy and the budget that are tried; left out, or empty, they are the run's own and none."""
    keep, budget = (request.query_params.get(name, "").strip() or None for name in ("keep", "budget"))
    return keep, budget


def _number(text: str | None, name: str) -> int | None:
    if text is None or not text.strip():
        return None
    try:
        return int(text) if len(text) < 20 else int(float("nan"))
    except ValueError:
        raise Refused(400, f"{name} is no whole number", code="query") from None
