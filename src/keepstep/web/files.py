"""The files of the page: a table that is made from the package, of which a request can name an entry and no path."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from keepstep.web.answers import Packed, Refused
from keepstep.web.guard import CONTENT_POLICY

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
_NEEDED_FIRST = re.compile(
    r'<script src="static/(?P<script>[\w./-]+)"></script>|<link rel="stylesheet" href="static/(?P<style>[\w./-]+)">'
)
"""What stands between a reader and the first sight of the page."""
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
        return _answer(request, packed, tag, {})

    def index(self, request: Request) -> Response:
        """The page itself, with the files that its first sight needs in it: none of them is waited for."""
        self._list()
        try:
            data, policy = self._whole()
        except (KeyError, OSError) as error:
            raise Refused(404, "the page itself can't be read any more", code="not-found") from error
        return _answer(request, Packed.of(data, TYPES[".html"]), _tag(data), {"Content-Security-Policy": policy})

    def _whole(self) -> tuple[bytes, str]:
        """The page with its styles and its first script inside, and a content policy that allows exactly these."""
        hashes: dict[str, list[str]] = {"script": [], "style": []}

        def inside(found: re.Match[str]) -> str:
            kind = "script" if found["script"] else "style"
            path = self._table.get(found["script"] or found["style"])
            if path is None:
                return found[0]
            text = path.read_text(encoding="utf-8")
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            hashes[kind].append(f"'sha256-{digest}'")
            return f"<{kind}>{text}</{kind}>"

        text = _NEEDED_FIRST.sub(inside, self._table["index.html"].read_text(encoding="utf-8"))
        policy = CONTENT_POLICY
        for kind, allowed in hashes.items():
            policy = policy.replace(f"{kind}-src 'self'", " ".join([f"{kind}-src 'self'", *allowed]))
        return text.encode(), policy

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
            known = self._known[name] = (version, Packed.of(data, TYPES[path.suffix]), _tag(data))
        return known[1], known[2]


def _answer(request: Request, packed: Packed, tag: str, headers: dict[str, str]) -> Response:
    """The body, or 304 where the client has it: with the same headers, which a browser keeps from either."""
    headers = {**headers, "ETag": tag, "Cache-Control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return packed.answer(request, headers=headers)


def _tag(data: bytes) -> str:
    return f'"{hashlib.blake2s(data, digest_size=12).hexdigest()}"'
