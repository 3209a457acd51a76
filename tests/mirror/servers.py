"""Object stores in processes of their own, on this machine alone: each test that asks for one gets one, and ends it.

`moto` comes with the development group. The others are real servers: `make servers` puts them below `.servers/`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

BUCKET = "bucket"
KEY, SECRET = "key", "hidden-secret"
REQUIRED = "KEEPSTEP_REQUIRE_SERVERS"
"""Set where they must be there: a test that is skipped then is one that fails."""
INSTALLED = Path(__file__).parents[2] / ".servers"
_PATIENCE = 240.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class EndedAtOnce(Exception):
    """A server that ended before it answered, with what it said."""


class Server(ABC):
    """A server that was started: killed without a word, and started anew over what it had."""

    scheme = "s3"

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="keepstep-server-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.log = self._directory / "log"
        """What it prints."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    def environment(self, port: int | None = None) -> Mapping[str, str]:
        """What makes a process take this server for the real one; by another port, where something stands between."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str = BUCKET) -> None:
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=20, retries={"max_attempts": 1}),
        )
        try:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=name)
            client.put_object(Bucket=name, Key="ready", Body=b"")
            client.delete_object(Bucket=name, Key="ready")
        finally:
            client.close()

    def start(self) -> None:
        """Return once it answers and has the bucket."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, cwd=self._directory, start_new_session=True
            )
        end = time.monotonic() + _PATIENCE
        while True:
            if self._process.poll() is not None:
                raise EndedAtOnce(self.log.read_text(errors="replace")[-2000:])
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self.make_bucket()
            except Exception:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, to it and to what it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


class Moto(Server):
    """Keeps all in memory: killed, it has forgotten everything."""

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]


class Seaweed(Server):
    """SeaweedFS: master, volumes, filer and its S3. It tells its maker nothing and listens on this machine alone."""

    def __init__(self) -> None:
        super().__init__()
        self._ports = [_port_of_two() for _ in range(4)]
        self.port = self._ports[3]

    def _command(self) -> list[str]:
        there = {"accessKey": KEY, "secretKey": SECRET}
        may = ["Admin", "Read", "List", "Tagging", "Write"]
        who = {"identities": [{"name": "tests", "credentials": [there], "actions": may}]}
        (self._directory / "s3.json").write_text(json.dumps(who))
        (self._directory / "data").mkdir(exist_ok=True)
        master, volume, filer, s3 = self._ports
        return [
            installed("python/bin/weed"), "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-dir={self._directory}/data", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=0",
            f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}",
            f"-filer.localSocket={self._directory}/filer", "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0",
            "-s3.port.lance=0", f"-s3.localSocket={self._directory}/s3", f"-s3.config={self._directory}/s3.json",
            "-s3.autoCreateBucket=false",
        ]  # fmt: skip


class Rclone(Server):
    """`rclone serve s3`: it ignores every condition and every range, and is what a test must notice."""

    def _command(self) -> list[str]:
        (self._directory / "data").mkdir(exist_ok=True)
        return [
            installed("python/bin/rclone"), "serve", "s3", "data", "--config", "rclone.conf",
            "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off",
        ]  # fmt: skip


class Azurite(Server):
    """Azure's blobs, as its maker's emulator has them."""

    scheme = "az"
    _ACCOUNT = "devstoreaccount1"
    # The key that the emulator publishes.
    _KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def _command(self) -> list[str]:
        return [
            "node", installed("azurite/node_modules/.bin/azurite-blob"), "--blobHost", "127.0.0.1", "--blobPort",
            str(self.port), "-l", "data", "--silent", "--skipApiVersionCheck", "--disableTelemetry",
        ]  # fmt: skip

    def environment(self, port: int | None = None) -> Mapping[str, str]:
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self._ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": self._KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port or self.port}/{self._ACCOUNT}",
        }

    def make_bucket(self, name: str = BUCKET) -> None:
        now = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        what = f"x-ms-date:{now}\nx-ms-version:2021-08-06\n/{self._ACCOUNT}/{self._ACCOUNT}/{name}\nrestype:container"
        seal = hmac.new(base64.b64decode(self._KEY), f"PUT{chr(10) * 12}{what}".encode(), hashlib.sha256).digest()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{self._ACCOUNT}/{name}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": now,
                "x-ms-version": "2021-08-06",
                "Content-Length": "0",
                "Authorization": f"SharedKey {self._ACCOUNT}:{base64.b64encode(seal).decode()}",
            },
        )
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 409:  # it is there
                    raise


@contextmanager
def running(kind: type[Server]) -> Generator[Server]:
    """A server of a kind, with an empty bucket."""
    server = _started(kind)
    try:
        yield server
    finally:
        server.close()


def _started(kind: type[Server]) -> Server:
    """A free port may be another's when it is asked for: then with others."""
    for left in reversed(range(3)):
        server = kind()
        try:
            server.start()
            return server
        except BaseException as error:
            server.close()
            if not left or not isinstance(error, EndedAtOnce):
                raise
    raise AssertionError("unreachable")


def installed(name: str) -> str:
    """The path of a program below `.servers/`. Where it is not there the test is skipped, or fails if it must be."""
    path = INSTALLED / name
    if not path.exists():
        say = pytest.fail if os.environ.get(REQUIRED) else pytest.skip
        say(f"{path.name} is not installed: make servers")
    return str(path)


def use(server: Server, patch: pytest.MonkeyPatch, port: int | None = None) -> None:
    """Have this process, and what it starts, take a server for the real one."""
    for name, value in server.environment(port).items():
        patch.setenv(name, value)


def _port_of_two() -> int:
    """A port that is free, and so is the one ten thousand above, where SeaweedFS listens too."""
    while True:
        port = random.randrange(12000, 22000)  # below those that the system gives to clients
        with suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10000))
            return port
