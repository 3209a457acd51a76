"""The files of the page: a table that is made from the package, of which a request can name an entry and no path."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from holdfast.web.answers import Packed, Refused

HOME = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
"""What is served, by the end of its name; other files of the package (licences, notes) are not."""
_Version = tuple[int, int]


class Files:
    """Regular files below a directory that belongs to the package; each is read again when it changed."""

    def __init__(self, home: Path = HOME) -> None:
        self._home = home
        self._table: dict[str, Path] = {}
        self._known: dict[str, tuple[_Version, Packed, str]] = {}
        self._list()

    def answer(self, request: Request, name: str) -> Response:
        """A file by its name in the table; 304 where the client has it. Raises Refused (404)."""
        path = self._table.get(name)
        if path is None:
            raise Refused(404, "there is no such file", code="not-found")
        try:
            packed, tag = self._read(name, path)
        except OSError as error:
            raise Refused(404, "this file of the page can't be read any more", code="not-found") from error
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return packed.answer(request, headers=headers)

    def index(self, request: Request) -> Response:
        """The page itself."""
        self._list()
        return self.answer(request, "index.html")

    def _list(self) -> None:
        self._table = {
            path.relative_to(self._home).as_posix(): path
            for path in sorted(self._home.rglob("*"))
            if path.suffix in TYPES and path.is_file() and not path.is_symlink()
        }

    def _read(self, name: str, path: Path) -> tuple[Packed, str]:
        found = path.stat()
        version = (found.st_mtime_ns, found.st_size)
        known = self._known.get(name)
        if known is None or known[0] != version:
            data = path.read_bytes()
            tag = f'"{hashlib.blake2s(data, digest_size=12).hexdigest()}"'
            known = self._known[name] = (version, Packed.of(data, TYPES[path.suffix]), tag)
        return known[1], known[2]
