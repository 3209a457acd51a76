"""A hub on this machine: a real HTTP server that takes repositories, branches, LFS objects and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_" + "a" * 34


@dataclass
class Hub:
    """What arrived. `refuse` answers every request whose path contains a key with that status."""

    url: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    branches: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    committed_to: list[str] = field(default_factory=list)
    summaries: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    open: threading.Event = field(default_factory=threading.Event)
    """While it is not set, commits wait."""

    def download(self, folder: str, target: Path) -> Path:
        """What arrived in a folder of the repository ("": in all of it), as files in a directory."""
        inside = f"{folder}/" if folder else ""
        for path, data in self.files.items():
            if path.startswith(inside):
                place = target / path.removeprefix(inside)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        return target


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        return

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        body = self._body()
        hub, path = self.hub, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        refused = next((status for part, status in hub.refuse.items() if part in path), None)
        if refused is None and "/objects/put/" not in path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            refused = 401
        if refused is not None:
            self._answer({"error": "no"}, refused)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            hub.repositories[name] = asked
            self._answer({"url": f"{hub.url}/{name}", "name": name, "id": "1"})
        elif "/branch/" in path:
            hub.branches.add(path.rpartition("/branch/")[2])
            self._answer({})
        elif "/preupload/" in path:
            self._answer({"files": [_preupload(entry) for entry in json.loads(body)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"transfer": "basic", "objects": [self._action(o) for o in json.loads(body)["objects"]]})
        elif "/objects/put/" in path:
            oid = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == oid
            hub.objects[oid] = body
            self._answer({})
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()], path)
        elif self.command == "GET":
            self._answer({"error": "there is none"}, 404)
        else:
            self._answer({"errors": [], "warnings": []})

    do_GET = do_POST = do_PUT = _handle

    def _action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/objects/put/{wanted['oid']}"
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": {"href": href}}}

    def _commit(self, lines: list[dict[str, Any]], path: str) -> None:
        self.hub.open.wait()
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "header":
                self.hub.summaries.append(value["summary"])
        self.hub.committed_to.append(path.rpartition("/commit/")[2])
        oid = "c" * 40
        repository = path.removeprefix("/api/models/").partition("/commit/")[0]
        self._answer({"commitUrl": f"{self.hub.url}/{repository}/commit/{oid}", "commitOid": oid, "hookOutput": ""})


def _preupload(entry: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if entry["path"].endswith(".safetensors") else "regular"
    return {"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


@contextmanager
def hub() -> Iterator[Hub]:
    """A running hub."""
    kept = Hub()
    kept.open.set()
    handler = type("Handler", (_Handler,), {"hub": kept})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        kept.open.set()
        server.shutdown()
        thread.join()
        server.server_close()
