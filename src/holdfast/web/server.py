"""The server: one socket on this machine, a link with a token, and an end at once on Ctrl-C."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from holdfast.errors import HoldfastError
from holdfast.web.app import make_app
from holdfast.web.guard import Secrets
from holdfast.web.sources import Sources

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
        app = make_app(sources, port=port, keys=keys, writable=writable)
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
        _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends as soon as it is asked to."""


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
