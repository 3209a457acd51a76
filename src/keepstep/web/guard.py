"""Who may ask: host, origin, method, token, form of a request; and what every answer forbids the browser."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keepstep.web.answers import Refused, error_answer

METHODS = frozenset({"GET", "HEAD", "POST"})
MOST_BYTES = 64 * 1024
"""Bytes of a request's body; the longest that the page sends is some hundred."""
MOST_QUERY = 8 * 1024
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
CSRF = "x-keepstep-csrf"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What one server makes up at its start and forgets at its end: 256 bits each."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class Guard:
    """Stands in front of the whole application: nothing behind it sees a request that is not in order.

    A page of another site can't read an answer (no CORS), can't reach this one under a name of its own (Host is
    checked: DNS rebinding), and can't make the browser change anything (the cookie is SameSite=Strict, Origin is
    checked with every method, and a POST needs a header that only this page knows).
    """

    def __init__(self, app: ASGIApp, *, port: int, keys: Secrets) -> None:
        self._app = app
        self._keys = keys
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self._origins = frozenset(f"http://{host}" for host in self._hosts)
        # Cookies are not told apart by port: each server has a name of its own for its one.
        self._cookie = f"keepstep_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        guarded = _guarded(scope["path"], send)
        try:
            entrance = self._check(scope)
            body = await _body(receive, scope) if scope["method"] == "POST" else None
        except Refused as error:
            await error_answer(error)(scope, receive, guarded)
            return
        if entrance is not None:
            await entrance(scope, receive, guarded)
        else:
            await self._app(scope, receive if body is None else _again(body, receive), guarded)

    def _check(self, scope: Scope) -> Response | None:
        """Raises Refused for what must not pass. A redirect where the link with the token was followed."""
        headers = Headers(scope=scope)
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            raise Refused(
                403,
                "this server answers under 127.0.0.1 and localhost with its own port alone",
                hint="Open the link that keepstep ui printed. Through an ssh tunnel, use the same port on both sides.",
                code="host",
            )
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            raise Refused(403, "another site's page asked for this", code="origin")
        if scope["method"] not in METHODS:
            raise Refused(405, f"{scope['method']} is not understood here", code="method")
        if len(scope.get("query_string", b"")) > MOST_QUERY:
            raise Refused(414, "the request's query is too long", code="too-long")
        if (entrance := self._entrance(scope)) is not None:
            return entrance
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and scope["path"] != "/":
            raise Refused(403, "another site's page asked for this", code="origin")
        if not self._knows(headers):
            raise Refused(
                401,
                "this browser has not shown the token of this server",
                hint="Open the whole link that keepstep ui printed; a server that is started again prints another.",
                code="token",
            )
        if scope["method"] == "POST":
            self._check_post(headers)
        return None

    def _entrance(self, scope: Scope) -> Response | None:
        """The link that was printed: the token moves into a cookie, and out of the address."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return None
        tokens = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        if len(tokens) != 1 or not _same(tokens[0], self._keys.token):
            return None
        response = RedirectResponse("/", 303)
        response.set_cookie(self._cookie, self._keys.token, httponly=True, samesite="strict", path="/")
        return response

    def _knows(self, headers: Headers) -> bool:
        found: list[str] = []
        for header in headers.getlist("cookie"):
            try:
                cookie = SimpleCookie(header).get(self._cookie)
            except CookieError:
                continue
            found += [cookie.value] if cookie else []
        return len(found) == 1 and _same(found[0], self._keys.token)

    def _check_post(self, headers: Headers) -> None:
        if not _same(headers.get(CSRF, ""), self._keys.csrf):
            raise Refused(403, "the request lacks what only this page knows", hint="Reload the page.", code="csrf")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "a request that changes something is JSON", code="media-type")


def _same(one: str, other: str) -> bool:
    """Compared in a time that says nothing about where they differ."""
    return secrets.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())


async def _body(receive: Receive, scope: Scope) -> bytes:
    """The whole body of a request. Raises Refused when it is too large."""
    length = Headers(scope=scope).get("content-length", "0")
    pieces: list[bytes] = []
    size = int(length) if length.isdigit() else 0
    if size <= MOST_BYTES:
        size = 0
        while size <= MOST_BYTES:
            message = await receive()
            if message["type"] != "http.request":
                break
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size <= MOST_BYTES and not message.get("more_body"):
                return b"".join(pieces)
    raise Refused(413, f"a request has at most {MOST_BYTES:,} bytes", code="too-large")


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read already, then whatever else comes."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _guarded(path: str, send: Send) -> Send:
    """Adds the headers that every answer has; what is said of runs is never stored."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if not path.startswith("/static/"):
                headers["Cache-Control"] = "no-store"
        await send(message)

    return with_headers
