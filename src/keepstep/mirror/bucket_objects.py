"""An object store (S3 and its kin, Google's, Azure's) as a place where objects live. Needs the extra `s3`: obstore.

obstore's ways, which the settings below answer, as they were seen: it keeps references to the buffers that it is given,
counts the time of an upload as time without an answer, gives up after seconds where it is not told otherwise, reports
our own object as another's when the answer to a create was lost, and does not compare what arrived unless asked to.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from keepstep.errors import MirrorUnavailable, SettingsError
from keepstep.mirror.objects import Object

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
PART = 16 * 2**20
"""Bytes of a part of a large upload, and the size from which an object is sent in parts."""
MOST_PARTS = 10_000
IN_FLIGHT = 4
BATCH = 200
_RETRY = {
    "max_retries": 100,
    "retry_timeout": timedelta(minutes=4),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}
_LOST_ANSWERS = 3


class BucketObjects:
    """Objects below a prefix of a bucket. Credentials come from the environment, and an AWS profile where boto3 is."""

    def __init__(self, url: str, *, retry: dict[str, Any] | None = None) -> None:
        if find_spec("obstore") is None:
            raise SettingsError(
                f"a mirror at {_plain(url)} needs obstore", hint='Install it: pip install "keepstep[s3]"'
            )
        self._url = _plain(url)
        settings = {"retry_config": _RETRY if retry is None else retry, **_endpoint(url)}
        provider = _profile(url)
        # Two clients: one that waits long for an upload to end, and one that notices soon when no answer comes.
        self._writer = _open(url, settings, provider, {"timeout": "10 minutes"}, **_checksum(url))
        self._reader = _open(url, settings, provider, {"timeout": "10 minutes", "read_timeout": "30 seconds"})

    @property
    def url(self) -> str:
        return self._url

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        for attempt in range(_LOST_ANSWERS):
            try:
                obstore.put(self._writer, key, data, mode="create")
                return True
            except AlreadyExistsError:
                return self.read(key, limit=len(data) + 1) == data
            except BaseError as error:
                # The answer may be lost, and the object be there.
                with suppress(FileNotFoundError):
                    return self.read(key, limit=len(data) + 1) == data
                if attempt == _LOST_ANSWERS - 1:
                    raise self._failed(key, error) from error
        raise AssertionError("unreachable")

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        import obstore

        with self._failing(key):
            if size <= PART:
                obstore.put(self._writer, key, b"".join(pieces), use_multipart=False)
            else:
                part = -(-max(PART, -(-size // MOST_PARTS)) // PART) * PART
                obstore.put(self._writer, key, iter(pieces), chunk_size=part, max_concurrency=IN_FLIGHT)

    def read(self, key: str, *, limit: int) -> bytes:
        import obstore

        with self._failing(key):
            found = obstore.get(self._reader, key)
            if found.meta["size"] > limit:
                raise MirrorUnavailable(f"{self.url}/{key} has {found.meta['size']} bytes, more than {limit}")
            return bytes(found.bytes())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        import obstore

        if not length:
            return b""
        with self._failing(key):
            return bytes(obstore.get_range(self._reader, key, start=start, length=length))

    def list(self, directory: str) -> Iterator[Object]:
        import obstore

        stream: Any = obstore.list(self._reader, directory or None)
        while True:
            with self._failing(directory):
                batch = next(iter(stream), None)
            if batch is None:
                return
            for item in batch:
                yield Object(item["path"], item["size"], item["last_modified"].timestamp())

    def delete(self, keys: Sequence[str]) -> None:
        import obstore

        for start in range(0, len(keys), BATCH):
            with self._failing(keys[start]):
                try:
                    obstore.delete(self._writer, [*keys[start : start + BATCH]])
                except FileNotFoundError:  # Azure's: one was gone, and the rest of the batch may not be
                    for key in keys[start : start + BATCH]:
                        with suppress(FileNotFoundError):
                            obstore.delete(self._writer, key)

    @contextmanager
    def _failing(self, key: str) -> Generator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise self._failed(key, error) from error

    def _failed(self, key: str, error: BaseException) -> MirrorUnavailable:
        line = next(iter(str(error).splitlines()), type(error).__name__).strip()
        return MirrorUnavailable(
            f"{self.url}: {key or 'its list'}: {line[:300]}",
            hint="The run itself is untouched; what is missing in the mirror goes there with the next sync.",
        )


def is_bucket(url: str) -> bool:
    """True for an address of an object store, False for a path."""
    return "://" in url and urlsplit(url).scheme in SCHEMES


def _open(url: str, settings: dict[str, Any], provider: Any, client: dict[str, Any], **more: Any) -> Any:
    from obstore import store

    if provider is not None:
        more["credential_provider"] = provider
    options = dict(client)
    if str(settings.get("endpoint", "")).startswith("http://"):
        options["allow_http"] = True
    try:
        from_url: Any = store.from_url
        return from_url(url, client_options=options, **settings, **more)
    except Exception as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise SettingsError(f"{_plain(url)} is no address of a mirror: {line[:300]}") from error


def _plain(url: str) -> str:
    """The address without a user, a password or parameters."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2] if parts.scheme not in ("abfs", "abfss") else parts.netloc
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


def _is_aws(url: str) -> bool:
    return urlsplit(url).scheme in ("s3", "s3a")


def _endpoint(url: str) -> dict[str, Any]:
    """Where S3's kin live: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, as other tools read them."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return {"endpoint": endpoint} if _is_aws(url) and endpoint else {}


def _checksum(url: str) -> dict[str, Any]:
    """What has an S3 server refuse bytes that were changed on their way, at less cost than signing them."""
    return {"checksum_algorithm": "CRC64NVME", "unsigned_payload": True} if _is_aws(url) else {}


def _profile(url: str) -> Any:
    """AWS profiles, which obstore doesn't read, through boto3 where it is installed and nothing else is given."""
    if not _is_aws(url) or os.environ.get("AWS_ACCESS_KEY_ID") or find_spec("boto3") is None:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except Exception:  # no profile there: obstore's own search goes on
        return None
