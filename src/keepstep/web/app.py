"""The application: the guard in front, the page's files, the API, and errors in one shape."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keepstep.errors import KeepstepError
from keepstep.web.actions import Actions
from keepstep.web.answers import Refused, error_answer
from keepstep.web.api import Api
from keepstep.web.asking import Asking
from keepstep.web.files import Files
from keepstep.web.guard import Guard, Secrets
from keepstep.web.sources import Sources
from keepstep.web.stream import Hub

logger = logging.getLogger("keepstep")


def make_app(
    sources: Sources,
    hub: Hub,
    *,
    port: int,
    keys: Secrets,
    writable: bool = False,
    files: Files | None = None,
) -> Guard:
    """The page's application for one server, behind the guard, which knows its port and its secrets."""
    table = files or Files()
    api = Api(sources, csrf=keys.csrf, writable=writable)
    actions = Actions(sources, hub, writable=writable)
    asking = Asking(sources, hub, writable=writable)

    async def index(request: Request) -> Response:
        return table.index(request)

    async def file(request: Request) -> Response:
        return table.answer(request, request.path_params["name"])

    inside = Starlette(
        routes=[
            Route("/", index),
            Route("/static/{name:path}", file),
            Route("/api/stream", hub.stream),
            *api.routes(),
            *actions.routes(),
            *asking.routes(),
        ],
        exception_handlers={KeepstepError: _ours, HTTPException: _http, Exception: _bug},
    )
    return Guard(inside, port=port, keys=keys)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, KeepstepError)
    return error_answer(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_answer(Refused(error.status_code, error.detail, code="http"))


async def _bug(request: Request, error: Exception) -> Response:
    # Neither what was asked nor what failed goes to the browser; the terminal has it.
    logger.error("the page asked for %s, and that failed", request.url.path, exc_info=error)
    refused = Refused(500, "keepstep failed at this", hint="The terminal of keepstep ui says more.", code="bug")
    return error_answer(refused)
