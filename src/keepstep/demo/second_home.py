"""A mirror for the demonstration: a bucket on a server of its own, or, without one, a directory."""

from __future__ import annotations

import http
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("moto", "flask", "obstore")
BUCKET = "demo"
PATIENCE = 60.0
"""Seconds that the server may take to answer."""


@dataclass(frozen=True, slots=True)
class SecondHome:
    """The address of a mirror that is none yet, and what it is, in words."""

    address: str
    what: str


@contextmanager
def second_home(directory: Path) -> Generator[SecondHome]:
    """A bucket of an S3 server on this machine, which this process and its children take for S3 meanwhile; where moto
    is missing, or does not answer, the directory.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        why = f"for a real S3 server, pip install 'moto[server]' obstore: {', '.join(missing)} is missing"
        yield SecondHome(str(directory), f"a directory that stands for an object store ({why})")
        return
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            with _as_s3(address):
                if _answers(server, port):
                    yield SecondHome(f"s3://{BUCKET}/run", f"a bucket of an S3 server (moto) at {address}")
                else:
                    yield SecondHome(str(directory), "a directory that stands for an object store (moto did not start)")
        finally:
            server.kill()


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """True once the server has made the bucket."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            asking.request("PUT", f"/{BUCKET}")
            return asking.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
    return False


@contextmanager
def _as_s3(address: str) -> Generator[None]:
    names = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ENDPOINT_URL_S3": address,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in (*names, "AWS_SESSION_TOKEN")}
    os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
