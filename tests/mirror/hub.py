"""As much of the Hub as a bucket needs, on this machine alone: its requests, over Xet's own store in a directory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_hidden"
BUCKET = "team/bucket"


class Hub(ThreadingHTTPServer):
    """`files` lie in the bucket; `refuses` is an answer that every write gets; so many requests find it `busy`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cas = f"local://{directory}"
        self.files: dict[str, dict[str, Any]] = {}
        self.refuses: tuple[int, dict[str, Any]] | None = None
        self.busy = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def size_of(self, xet_hash: str) -> int:
        from hf_xet import XetFileInfo, XetSession

        streams = XetSession().new_download_stream_group(endpoint=self.cas)
        return sum(map(len, streams.download_stream(XetFileInfo(xet_hash))))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if self.server.busy:
            self.server.busy -= 1
            return self._say(503, {"error": "busy"})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, {"error": "Invalid username or password."})
        if not path.startswith(f"/api/buckets/{BUCKET}/"):
            return self._say(404, {"error": "Bucket not found"}, {"X-Error-Code": "RepoNotFound"})
        what, _, rest = path.removeprefix(f"/api/buckets/{BUCKET}/").partition("/")
        if what in ("xet-read-token", "xet-write-token"):
            return self._say(200, {"accessToken": "xet", "exp": int(time.time()) + 3600, "casUrl": self.server.cas})
        if what == "tree":
            found = [file for path, file in sorted(self.server.files.items()) if path.startswith(rest)]
            return self._say(200, found)
        if what == "paths-info":
            files = self.server.files
            return self._say(200, [files[path] for path in json.loads(body)["paths"] if path in files])
        assert what == "batch", path
        if self.server.refuses is not None:
            return self._say(*self.server.refuses)
        for operation in map(json.loads, body.splitlines()):
            if operation["type"] == "deleteFile":
                del self.server.files[operation["path"]]
                continue
            now, size = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), self.server.size_of(operation["xetHash"])
            self.server.files[operation["path"]] = {
                "type": "file", "path": operation["path"], "size": size, "xetHash": operation["xetHash"],
                "uploadedAt": now, "mtime": "2001-01-01T00:00:00.000Z",
            }  # fmt: skip
        return self._say(200, {"success": True, "failed": []})

    do_GET = do_POST = _serve

    def _say(self, status: int, what: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(what).encode()
        self.send_response_only(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing is said."""


@contextmanager
def running(directory: Path) -> Generator[Hub]:
    with Hub(directory) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
