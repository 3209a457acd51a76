"""The server: one socket on this machine, a link with a token, and an end at once on Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn

from keepstep.errors import KeepstepError
from keepstep.web.app import make_app
from keepstep.web.files import Files
from keepstep.web.guard import Secrets
from keepstep.web.sources import Sources
from keepstep.web.stream import Hub

HOST = "127.0.0.1"


class PortTaken(KeepstepError):
    """The port can't be had."""

    code = "port-taken"


class PageServer:
    """The page of some runs. It takes connections from its creation on, and answers them while `run` runs."""

    def __init__(
        self, places: list[Path], *, port: int = 0, writable: bool = False, files: Files | None = None
    ) -> None:
        """`port` 0 finds a free one. Raises NoDirectory, PortTaken."""
        sources = Sources(places)
        self._socket = _listen(port)
        self.port: int = self._socket.getsockname()[1]
        keys = Secrets()
        self.link = f"http://{HOST}:{self.port}/?token={keys.token}"
        """What lets a browser in."""
        self.hub = Hub(sources)
        app = make_app(sources, self.hub, port=self.port, keys=keys, writable=writable, files=files)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            log_level=logging.CRITICAL,
            server_header=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            http="h11",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config, self.hub)

    def run(self) -> None:
        """Answer until Ctrl-C, SIGTERM, or `stop` of another thread."""
        # uvicorn raises the signal that ended it once more: here Ctrl-C is how a page is put away, and no failure.
        with self._socket, suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run`, with streams open; from any thread."""
        self._server.end()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._hub.close)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.end()


def _listen(port: int) -> socket.socket:
    # The protocol is said, because asyncio sends small answers at once only where it sees it.
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
    return listening


def has_browser() -> bool:
    """True when this machine can show a page to who sits at it: a graphical session, not another one's terminal."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
