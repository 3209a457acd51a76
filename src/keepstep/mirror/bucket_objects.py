"""An object store (S3 and its kin, Google's, Azure's) as a place where objects live. Needs the extra `s3`: obstore.

obstore's ways, which the settings below answer, as they were seen: it keeps references to the buffers that it is given,
counts the time of an upload as time without an answer, gives up after seconds where it is not told otherwise, reports
our own object as another's when the answer to a create was lost, and does not compare what arrived unless asked to.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from keepstep.errors import MirrorUnavailable, SettingsError
from keepstep.mirror.bucket_errors import beyond_its_end, knows_no_ranges, says_not_found, unavailable
from keepstep.mirror.objects import Object
from keepstep.mirror.whole_reads import WholeReads

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
PART = 16 * 2**20
"""Bytes of a part of a large upload, and the size from which an object is sent in parts."""
MOST_PARTS = 10_000
IN_FLIGHT = 4
BATCH = 200
_LOST_ANSWERS = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one question to a store may take, all in seconds: `outage`, for which it is asked again, so many times
    and with pauses up to `longest_pause`; `silence`, after which an answer counts as lost; and `upload`, of one part.
    """

    outage: float = 240
    tries: int = 100
    longest_pause: float = 5
    silence: float = 30
    upload: float = 600


PATIENCE = Patience()


class BucketObjects:
    """Objects below a prefix of a bucket. Credentials come from the environment, and an AWS profile where boto3 is."""

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        if find_spec("obstore") is None:
            raise SettingsError(
                f"a mirror at {plain(url)} needs obstore", hint='Install it: pip install "keepstep[s3]"'
            )
        self._url = plain(url)
        wait = patience or PATIENCE
        settings: dict[str, Any] = {"retry_config": _retry(wait), **_endpoint(url), **_checksum(url)}
        provider, upload, silence = _profile(url), timedelta(seconds=wait.upload), timedelta(seconds=wait.silence)
        # Two clients: one that waits long for an upload to end, and one that notices soon when no answer comes.
        self._uploads = _open(url, settings, provider, {"timeout": upload})
        self._store = _open(url, settings, provider, {"timeout": upload, "read_timeout": silence})
        # Some answer a range with everything.
        self._has_ranges = True
        self._whole = WholeReads(self._pieces)

    @property
    def url(self) -> str:
        return self._url

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        for attempt in range(_LOST_ANSWERS):
            try:
                with self._failing(key, in_bucket=True):
                    obstore.put(self._store, key, data, mode="create")
                return True
            except MirrorUnavailable as error:
                if isinstance(error.__cause__, AlreadyExistsError):
                    return self._holds(key, data)
                # The answer may be lost, and the object be there.
                with suppress(FileNotFoundError):
                    return self._holds(key, data)
                if attempt == _LOST_ANSWERS - 1:
                    raise
        raise AssertionError("unreachable")

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        import obstore

        with self._failing(key, in_bucket=True):
            if size <= PART:
                obstore.put(self._uploads, key, b"".join(pieces), use_multipart=False)
            else:
                part = -(-max(PART, -(-size // MOST_PARTS)) // PART) * PART
                obstore.put(self._uploads, key, iter(pieces), chunk_size=part, max_concurrency=IN_FLIGHT)

    def read(self, key: str, *, limit: int) -> bytes:
        import obstore

        with self._failing(key):
            found = obstore.get(self._store, key)
            if found.meta["size"] > limit:
                raise MirrorUnavailable(f"{self.url}/{key} has {found.meta['size']} bytes, more than {limit}")
            return bytes(found.bytes())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        import obstore
        from obstore.exceptions import BaseError

        if not length:
            return b""
        with self._failing(key):
            if self._has_ranges:
                try:
                    return bytes(obstore.get_range(self._store, key, start=start, length=length))
                except BaseError as error:
                    if beyond_its_end(error):
                        return b""
                    if not knows_no_ranges(error):
                        raise
                    self._has_ranges = False
            return self._whole.range(key, start, length)

    def list(self, directory: str) -> Iterator[Object]:
        import obstore

        stream: Any = obstore.list(self._store, directory or None)
        while True:
            with self._failing(directory, in_bucket=True):
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
                    obstore.delete(self._store, [*keys[start : start + BATCH]])
                except FileNotFoundError:  # Azure's: one was gone, and the rest of the batch may not be
                    for key in keys[start : start + BATCH]:
                        with suppress(FileNotFoundError):
                            obstore.delete(self._store, key)

    def _holds(self, key: str, data: bytes) -> bool:
        import obstore

        with self._failing(key):
            found = obstore.get(self._store, key)
            return found.meta["size"] == len(data) and bytes(found.bytes()) == data

    def _pieces(self, key: str) -> Iterator[bytes]:
        import obstore

        yield from map(bytes, obstore.get(self._store, key).stream(min_chunk_size=PART))

    @contextmanager
    def _failing(self, key: str, *, in_bucket: bool = False) -> Generator[None]:
        """obstore's errors as those of a mirror. That an object is missing stays what it is, but `in_bucket`, where
        only the bucket can be.
        """
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            # One that what is sent raises passes too.
            if isinstance(error, FileNotFoundError) and not (in_bucket and says_not_found(error)):
                raise
            bucket = urlsplit(self.url).netloc
            raise unavailable(self.url, bucket, key, error, in_bucket=in_bucket) from error


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
        raise SettingsError(f"{plain(url)} is no address of a mirror: {line[:300]}") from error


def _retry(patience: Patience) -> dict[str, Any]:
    longest = timedelta(seconds=patience.longest_pause)
    backoff = {"init_backoff": min(timedelta(milliseconds=100), longest), "max_backoff": longest, "base": 2}
    return {"max_retries": patience.tries, "retry_timeout": timedelta(seconds=patience.outage), "backoff": backoff}


def plain(url: str) -> str:
    """The address without a user, a password or parameters."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if user and parts.scheme in ("abfs", "abfss"):  # there it is the container
        host = f"{user.partition(':')[0]}@{host}"
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


def _is_aws(url: str) -> bool:
    return urlsplit(url).scheme in ("s3", "s3a")


def _is_azure(url: str) -> bool:
    return urlsplit(url).scheme in ("az", "azure", "abfs", "abfss")


def _endpoint(url: str) -> dict[str, Any]:
    """Where S3's kin live, and Azure's: by the names that other tools read."""
    names: tuple[str, ...] = ()
    if _is_aws(url):
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    elif _is_azure(url):
        names = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    endpoint = next(filter(None, map(os.environ.get, names)), None)
    return {"endpoint": endpoint} if endpoint else {}


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
