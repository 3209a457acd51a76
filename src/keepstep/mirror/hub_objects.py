"""A bucket of the Hugging Face Hub as a place where objects live. Needs huggingface_hub with buckets, and hf_xet.

The Hub has no condition on a write, so a `create` here replaces, which a writer notices by its probe. Bytes go through
Xet, which stores them by their content; a second request gives them their key, so nothing partial is ever seen.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from keepstep.errors import MirrorUnavailable, SettingsError
from keepstep.mirror.objects import Object

SCHEME = "hf://buckets/"
BATCH = 500
"""Keys of one request."""
_REFUSED = re.compile(r"HTTP status client error \(40[13] ")  # as Xet says it


class HubObjects:
    """Objects below a prefix of `hf://buckets/<namespace>/<name>/<prefix>`. The token is that of huggingface_hub."""

    def __init__(self, url: str) -> None:
        namespace, _, rest = url.removeprefix(SCHEME).partition("/")
        name, _, prefix = rest.partition("/")
        if not namespace or not name:
            raise SettingsError(f"{url} names no bucket", hint=f"Its form: {SCHEME}namespace/name/path")
        self._bucket, self._prefix = f"{namespace}/{name}", prefix.strip("/")
        self._url = f"{SCHEME}{self._bucket}/{self._prefix}".rstrip("/")
        self._api = _api(self._url)
        self._guard = threading.Lock()
        self._open: Any = None

    @property
    def url(self) -> str:
        return self._url

    def create(self, key: str, data: bytes) -> bool:
        self.put(key, [data], len(data))
        return True

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        xet = _xet()
        with self._failing(key):
            commit = xet.XetSession().new_upload_commit(**self._way("write"))
            stream = commit.start_upload_stream(sha256=xet.SKIP_SHA256)
        try:
            for piece in pieces:
                with self._failing(key):
                    stream.write(piece)
            with self._failing(key):
                info = stream.finish().xet_info
                commit.wait_to_finish()
        except BaseException:
            commit.abort()
            raise
        if info.file_size != size:
            raise MirrorUnavailable(f"{self.url}: {key} would have {info.file_size} bytes of {size}")
        now = int(time.time() * 1000)
        self._batch(key, [{"type": "addFile", "path": self._path(key), "xetHash": info.hash, "mtime": now}])

    def read(self, key: str, *, limit: int) -> bytes:
        found = self._find(key)
        if found.size > limit:
            raise MirrorUnavailable(f"{self.url}/{key} has {found.size} bytes, more than {limit}")
        return self._bytes(key, found, 0, found.size)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        found = self._find(key)
        return self._bytes(key, found, start, min(start + length, found.size))

    def list(self, directory: str) -> Iterator[Object]:
        from huggingface_hub.errors import EntryNotFoundError

        below = f"{self._path(directory)}/" if self._path(directory) else ""
        with self._failing(directory):
            try:
                tree = list(self._api.list_bucket_tree(self._bucket, below.rstrip("/") or None, recursive=True))
            except EntryNotFoundError:
                tree = []
        root = f"{self._prefix}/" if self._prefix else ""
        for item in sorted((item for item in tree if item.type == "file"), key=lambda item: item.path):
            if item.path.startswith(below):
                came = item.uploaded_at or item.mtime
                yield Object(item.path.removeprefix(root), item.size, came.timestamp() if came else time.time())

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), BATCH):
            some = keys[start : start + BATCH]
            there = self._infos(some)
            self._batch(some[0], [{"type": "deleteFile", "path": path} for path in there])

    # -- requests --------------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}".strip("/")

    def _infos(self, keys: Sequence[str]) -> dict[str, Any]:
        """What is there of some keys, by their paths in the bucket."""
        with self._failing(keys[0]):
            paths = [self._path(key) for key in keys]
            return {info.path: info for info in self._api.get_bucket_paths_info(self._bucket, paths)}

    def _find(self, key: str) -> Any:
        found = self._infos([key]).get(self._path(key))
        if found is None:
            raise FileNotFoundError(2, "no such object", f"{self.url}/{key}")
        return found

    def _bytes(self, key: str, found: Any, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        what = _xet().XetFileInfo(found.xet_hash, found.size)
        with self._failing(key):
            return b"".join(self._streams().download_stream(what, start, end))

    def _streams(self) -> Any:
        """The connection that everything comes through."""
        with self._guard:
            if self._open is None:
                self._open = _xet().XetSession().new_download_stream_group(**self._way("read"))
            return self._open

    def _way(self, what: str) -> dict[str, Any]:
        """How Xet gets its short-lived tokens. The Hub's own goes to the Hub alone."""
        url = f"{self._api.endpoint}/api/buckets/{self._bucket}/xet-{what}-token"
        return {"token_refresh_url": url, "token_refresh_headers": self._headers()}

    def _headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        return build_hf_headers(token=self._api.token, library_name="keepstep")

    def _batch(self, key: str, operations: list[dict[str, Any]]) -> None:
        from huggingface_hub.utils import hf_raise_for_status, http_backoff

        if not operations:
            return
        with self._failing(key):
            response = http_backoff(
                "POST",
                f"{self._api.endpoint}/api/buckets/{self._bucket}/batch",
                headers={**self._headers(), "Content-Type": "application/x-ndjson"},
                content="".join(json.dumps(operation) + "\n" for operation in operations).encode(),
            )
            # What failed stands in the body of a 200, or of a 422 where all did.
            failed = response.json().get("failed", []) if response.status_code in (200, 422) else []
            if failed:
                raise MirrorUnavailable(
                    f"{self.url}: {failed[0].get('path', key)}: {failed[0].get('error', 'refused')}"
                )
            hf_raise_for_status(response)

    @contextmanager
    def _failing(self, key: str) -> Generator[None]:
        """Others' errors as those of a mirror, with what they say, in one line, and never the token."""
        from huggingface_hub.errors import BucketNotFoundError, OfflineModeIsEnabled

        try:
            yield
        except MirrorUnavailable:
            raise
        except BucketNotFoundError as error:
            raise MirrorUnavailable(
                f"{self.url} can't be used: there is no bucket {self._bucket!r}, or the token may not see it",
                hint=f"Make it: hf buckets create {self._bucket}. Or log in: hf auth login",
            ) from error
        except OfflineModeIsEnabled as error:
            raise MirrorUnavailable(f"{self.url} is not asked: HF_HUB_OFFLINE is set", hint="Unset it.") from error
        except Exception as error:
            with self._guard:
                self._open = None
            raise self._failed(key, error) from error

    def _failed(self, key: str, error: Exception) -> MirrorUnavailable:
        line = " ".join(str(error).split()) or type(error).__name__
        if isinstance(token := self._api.token, str):
            line = line.replace(token, "…")
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, PermissionError) or _REFUSED.search(line):
            return MirrorUnavailable(
                f"{self.url} refuses: {key or 'its list'}: {line[:300]}",
                hint="Log in with a token that may write there: hf auth login. The run is untouched.",
            )
        return MirrorUnavailable(
            f"{self.url}: {key or 'its list'}: {line[:300]}",
            hint="The run itself is untouched; what is missing in the mirror goes there with the next sync.",
        )


def _xet() -> Any:
    import hf_xet

    return hf_xet


def _api(url: str) -> Any:
    if find_spec("huggingface_hub") is not None and find_spec("hf_xet") is not None:
        from huggingface_hub import HfApi, get_token

        if hasattr(HfApi, "batch_bucket_files"):
            return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=get_token())
    raise SettingsError(
        f"a mirror at {url} needs a huggingface_hub that knows buckets, and hf_xet",
        hint='Install them: pip install -U "huggingface_hub>=2.4" hf_xet',
    )
