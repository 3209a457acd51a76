"""The server: one socket on this machine, a link with a token, and an end at once on Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from holdfast.errors import HoldfastError
from holdfast.web.app import make_app
from holdfast.web.guard import Secrets
from holdfast.web.sources import Sources
from holdfast.web.stream import Hub

HOST = "127.0.0.1"


class PortTaken(HoldfastError):
    """The port can't be had."""

    code = "port-taken"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the page is: its port, and the link with the token."""

    port: int
    link: str


def serve(places: list[Path], *, port: int = 0, writable: bool = False, on_ready: Callable[[Address], None]) -> None:
    """Serve the page until it is interrupted; `on_ready` hears of the address once connections are taken.

    Raises NoDirectory, PortTaken.
    """
    sources = Sources(places)
    keys = Secrets()
    with _listen(port) as listening:
        port = listening.getsockname()[1]
        hub = Hub(sources)
        app = make_app(sources, hub, port=port, keys=keys, writable=writable)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            log_level=logging.CRITICAL,
            server_header=False,
            date_header=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            http="h11",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
        )
        on_ready(Address(port, f"http://{HOST}:{port}/?token={keys.token}"))
        # uvicorn raises the signal that ended it once more: here Ctrl-C is how a page is put away, and no failure.
        with suppress(KeyboardInterrupt):
            _Server(config, hub).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends as soon as it is asked to, with streams open."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._hub.close)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} of this machine is in use", hint="Choose another, or leave --port out: then one is found."
            ) from error
        raise PortTaken(f"port {port} can't be used: {error.strerror}", hint="Choose one from 1024 on.") from error
    listening.set_inheritable(False)
    return listening


def has_browser() -> bool:
    """True when this machine can show a page: a graphical session, and none of another machine's terminals."""
    if sys.platform == "darwin":
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) and "SSH_CONNECTION" not in os.environ
