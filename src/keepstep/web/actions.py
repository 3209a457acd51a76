"""What the page can set off: a verification, and, where writing is allowed, a plan that was shown."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keepstep.errors import KeepstepError, RunLocked
from keepstep.operations.checking import note
from keepstep.operations.removing.sandbox import carry_out
from keepstep.operations.seeing.overview import is_training
from keepstep.repository import Verification
from keepstep.run import open_run
from keepstep.web.answers import Refused, answer, as_error
from keepstep.web.sources import Sources
from keepstep.web.stream import Hub
from keepstep.web.view import RunView

logger = logging.getLogger("keepstep")

T = TypeVar("T")


class Actions:
    """Handlers of POST requests. Each works on a `Run` of its own, in a thread that no reader waits for."""

    def __init__(self, sources: Sources, hub: Hub, *, writable: bool) -> None:
        self._sources = sources
        self._hub = hub
        self._writable = writable
        self._verifying: dict[tuple[str, int], asyncio.Task[None]] = {}

    def routes(self) -> list[Route]:
        """What is asked with POST."""
        return [
            Route("/api/runs/{key}/apply", self.apply, methods=["POST"]),
            Route("/api/runs/{key}/verify", self.verify, methods=["POST"]),
        ]

    async def apply(self, request: Request) -> Response:
        """Carry out the plan of a digest. Refused without `--allow-write`, in training, and when it changed."""
        must_write(self._writable)
        view = await self._sources.view(request.path_params["key"])
        fields = await fields_of(request)
        keep, budget = (_text(fields, name, needed=False) for name in ("keep", "budget"))
        digest, set_policy = _text(fields, "digest", needed=True), fields.get("set_policy", False)
        if not isinstance(set_policy, bool):
            raise Refused(400, "set_policy is neither true nor false", code="body")
        work = partial(_apply, view, keep, budget, digest or "", set_policy=set_policy)
        return answer(request, await in_thread(work, f"applying to {view.path}"))

    async def verify(self, request: Request) -> Response:
        """Begin to check every byte of one checkpoint; what comes of it is told by the stream."""
        view = await self._sources.view(request.path_params["key"])
        generation = (await fields_of(request)).get("generation")
        if not isinstance(generation, int) or isinstance(generation, bool):
            raise Refused(400, "the generation is no whole number", code="body")
        known = await view.read(lambda opened: {one.generation for one in opened.run.checkpoints})
        if generation not in known:
            raise Refused(404, f"there is no checkpoint of generation {generation}", code="checkpoint-not-found")
        task = (view.key, generation)
        if task not in self._verifying:
            self._verifying[task] = asyncio.create_task(self._verify(view, generation))
            self._verifying[task].add_done_callback(lambda _: self._verifying.pop(task, None))
        return answer(request, {"generation": generation}, 202)

    async def _verify(self, view: RunView, generation: int) -> None:
        told: dict[str, Any] = {"key": view.key, "generation": generation}
        try:
            found = await in_thread(partial(_verified, view, generation), f"verifying in {view.path}")
        except KeepstepError as error:
            told |= {"ok": None, "problems": [], "error": error.message}
        except Exception:
            logger.exception("generation %d of %s can't be verified", generation, view.path)
            told |= {"ok": None, "problems": [], "error": "keepstep failed at this; its terminal says more"}
        else:
            told |= {"ok": found.ok, "problems": [str(problem) for problem in found.problems], "error": None}
        self._hub.tell(view.key, "verified", told)


def _apply(view: RunView, keep: str | None, budget: str | None, digest: str, *, set_policy: bool) -> dict[str, Any]:
    run = open_run(view.path)
    run.must_be_managed()
    if is_training(run):
        raise RunLocked(
            f"{view.path} is in training: its own process prunes it", hint="Wait for its end, or stop it first."
        )
    done = carry_out(run, keep, budget, digest, set_policy=set_policy)
    outcomes = (
        ("removed", done.removed),
        ("thinned", done.thinned),
        ("removed", done.removed_aside),
        ("spared", done.spared),
        ("kept whole", done.not_thinned),
    )
    return {
        "done": [
            {"step": one.step, "generation": one.generation, "name": one.name, "what": what}
            for what, found in outcomes
            for one in found
        ],
        "freed_bytes": done.freed_bytes,
        "policy_set": set_policy,
    }


def _verified(view: RunView, generation: int) -> Verification:
    run = open_run(view.path)
    one = next((one for one in run.checkpoints if one.generation == generation), None)
    if one is None:
        raise Refused(404, f"generation {generation} is gone", code="checkpoint-not-found")
    verification = run.verify(one)
    note(run, verification)
    return verification


def must_write(writable: bool) -> None:
    """Raises Refused on a page that only reads."""
    if not writable:
        raise Refused(403, "this page only reads", hint="Start it with: keepstep ui --allow-write", code="read-only")


async def in_thread(work: Callable[[], T], what: str) -> T:
    """What `work` returns, from a thread of its own that the end of the server does not wait for."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # pyright: ignore[reportArgumentType]
        else:
            answer.set_exception(error)

    def run() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = work(), None
        except OSError as error:
            outcome = None, error if isinstance(error, KeepstepError) else as_error(error)
        except BaseException as error:
            outcome = None, error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name=f"keepstep-web {what}", daemon=True).start()
    return await answer


async def fields_of(request: Request) -> dict[str, Any]:
    """The object that a request brings. Raises Refused."""
    try:
        fields: object = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused(400, "the request is not JSON", code="body") from None
    if not isinstance(fields, dict):
        raise Refused(400, "the request is no JSON object", code="body")
    return cast("dict[str, Any]", fields)


def _text(fields: dict[str, Any], name: str, *, needed: bool) -> str | None:
    value = fields.get(name)
    if value is None and not needed:
        return None
    if not isinstance(value, str):
        raise Refused(400, f"{name} is no text", code="body")
    return value
