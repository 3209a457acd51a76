"""What stands between a client and a server, and does what lines and servers do: it reads whole requests and answers,
and spoils those that a fault is meant for.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVER = 10**9
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Request:
    """A request on its way: what the client said, before a server has heard of it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    """Bytes of the body after which the line is cut."""
    stall: float = 0
    """Seconds of silence before it is."""


class Reset(Exception):
    """The line is cut at once."""


Fault = Callable[[Request, Callable[[Request], Answer]], Answer]
"""Gets a request and a way to ask the server; returns what the client hears."""


@dataclass
class Meant:
    """A fault for requests that begin like this ("PUT .*/data/"), so many times."""

    what: re.Pattern[str]
    fault: Fault
    left: int
    struck: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, request: Request) -> bool:
        if self.what.match(f"{request.method} {request.path}") is None:
            return False
        with self.guard:
            self.left -= 1
            self.struck += self.left >= 0
            return self.left >= 0


class Line(ThreadingHTTPServer):
    """A proxy on this machine alone. `faults` may be changed at any time."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.faults: list[Meant] = []
        self.closing = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def spoil(self, what: str, fault: Fault, times: int = EVER) -> Meant:
        """From now on, this many requests of this kind."""
        meant = Meant(re.compile(what), fault, times)
        self.faults.append(meant)
        return meant

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none of ours."""

    def ask(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            found = connection.getresponse()
            headers = {name: value for name, value in found.getheaders() if name.lower() not in _HOP}
            if request.method == "HEAD":
                headers["Content-Length"] = found.getheader("Content-Length", "0")
            return Answer(found.status, headers, found.read())
        except OSError:
            raise Reset from None
        finally:
            connection.close()


@contextmanager
def line_to(port: int) -> Generator[Line]:
    """A line to a server at a port, without faults yet."""
    with Line(port) as line:
        thread = threading.Thread(target=line.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield line
        finally:
            line.closing.set()
            line.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Line

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        request = Request(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
        try:
            meant = next((meant for meant in list(self.server.faults) if meant.takes(request)), None)
            answer = self.server.ask(request) if meant is None else meant.fault(request, self.server.ask)
            self._answer(answer)
        except (Reset, OSError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _answer(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: answer.cut])
        if answer.cut is not None:
            self.server.closing.wait(answer.stall)
            raise Reset

    def log_message(self, *arguments: object) -> None:
        """Nothing is said."""


# -- what goes wrong ---------------------------------------------------------------------------------------


def says(status: int, code: str, **headers: str) -> Fault:
    """The server says no, without having done anything."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>it says</Message></Error>".encode()
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, ask: Answer(status, {"Content-Type": "application/xml", **more}, body)


def resets(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    """The line breaks before the server has heard of it."""
    raise Reset


def loses_the_answer(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    """It is done, and nobody hears of it."""
    ask(request)
    raise Reset


def cuts_the_answer(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    answer = ask(request)
    answer.cut = len(answer.body) // 2
    return answer


def stalls_in_the_answer(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    answer = cuts_the_answer(request, ask)
    answer.stall = 600
    return answer


def shortens_the_answer(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    """Fewer bytes than were asked for, as if they were all."""
    answer = ask(request)
    answer.body = answer.body[: len(answer.body) // 2]
    start, _, size = answer.headers.get("Content-Range", "bytes 0-0/0").removeprefix("bytes ").partition("/")
    first = int(start.partition("-")[0])
    if answer.status == 206:
        answer.headers["Content-Range"] = f"bytes {first}-{first + len(answer.body) - 1}/{size}"
    return answer


def flips_up(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    """One bit changes on the way up; the line itself notices nothing."""
    request.body = _flipped(request.body)
    return ask(request)


def flips_down(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    answer = ask(request)
    answer.body = _flipped(answer.body)
    return answer


def is_silent(line: Line, seconds: float) -> Fault:
    """No answer, for so long."""

    def fault(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        line.closing.wait(seconds)
        raise Reset

    return fault


def is_slow(seconds: float) -> Fault:
    def fault(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        time.sleep(seconds)
        return ask(request)

    return fault


def does(act: Callable[[], object]) -> Fault:
    """Something happens to the server just before it would hear of it."""

    def fault(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        act()
        return ask(request)

    return fault


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 0x10
    return bytes(changed)
