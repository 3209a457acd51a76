"""How metrics get out: over HTTP, or as a text file that a node exporter picks up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keepstep.errors import SettingsError
from keepstep.prometheus.families import Look, RunCollector

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}/metrics"


def parse_target(text: str) -> Address | Path:
    """`HOST:PORT` or `:PORT` (this machine only) is an address, `FILE.prom` a text file. Raises SettingsError."""
    if text.endswith(".prom"):
        return Path(text)
    host, colon, port = text.rpartition(":")
    if colon and port.isascii() and port.isdigit() and int(port) < 2**16:
        return Address(host or "127.0.0.1", int(port))
    raise SettingsError(
        f"prometheus is {text!r}", hint="It is an address such as '127.0.0.1:9400' or ':9400', or a file 'name.prom'."
    )


def registry(look: Look) -> CollectorRegistry:
    """A registry that measures these runs anew at each scrape. Raises SettingsError without prometheus-client."""
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise SettingsError(
            "metrics for Prometheus need the package prometheus-client",
            hint='Install it: pip install "keepstep[metrics]"',
        ) from error
    found = CollectorRegistry(auto_describe=False)
    found.register(RunCollector(look))  # pyright: ignore[reportArgumentType]
    return found


def text_of(measured: CollectorRegistry) -> str:
    """Its metrics now, in Prometheus's text format."""
    from prometheus_client import generate_latest

    return generate_latest(measured).decode()


def write_file(measured: CollectorRegistry, path: Path) -> None:
    """The same into a file, which is replaced as a whole. Raises OSError."""
    from prometheus_client import write_to_textfile

    write_to_textfile(os.fspath(path), measured)


def serve(measured: CollectorRegistry, address: Address) -> tuple[Address, Callable[[], None]]:
    """Listen in a thread; returns where (port 0 is any free one), and what ends it. Raises OSError."""
    from prometheus_client import start_http_server

    server, thread = start_http_server(address.port, address.host, measured)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return Address(address.host, server.server_port), stop
