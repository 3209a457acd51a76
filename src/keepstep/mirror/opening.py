"""What people name as a run: a directory of one, or the mirror of one, by its address or as a directory."""

from __future__ import annotations

import os
from pathlib import Path

from keepstep.errors import MirrorUnavailable, RunNotFound
from keepstep.mirror import layout
from keepstep.paths import expanded
from keepstep.run import Run, open_run

_AWS = (
    "Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (AWS_PROFILE) where boto3 is installed.\n"
    "Another server than Amazon's: AWS_ENDPOINT_URL. Region: AWS_REGION."
)
_AZURE = "Credentials: AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN."
_WAYS_IN = {
    "s3": _AWS,
    "s3a": _AWS,
    "gs": "Credentials: GOOGLE_SERVICE_ACCOUNT (a file), or `gcloud auth application-default login`.",
    "az": _AZURE,
    "azure": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "hf": "Credentials: HF_TOKEN, or `hf auth login`.",
}


def is_address(name: object) -> bool:
    """True for the address of a place that is no directory's path: `s3://bucket/path`, `file:///path`."""
    return isinstance(name, str) and "://" in name


def is_mirror(path: Path) -> bool:
    """True for a directory that is a mirror."""
    return (path / layout.IDENTITY).is_file() and (path / layout.COMMITS).is_dir()


def open_anywhere(name: str | os.PathLike[str]) -> Run:
    """The run in a directory, or the one that a mirror holds, read from there.

    Records that were read are kept in the user's cache directory. Raises RunNotFound, SettingsError, MirrorUnavailable,
    and what `open_run` raises.
    """
    if not is_address(name):
        path = expanded(name)
        try:
            return open_run(path)
        except RunNotFound:
            if not is_mirror(path):
                raise
            name = os.fspath(path)
    # what opens a run on the disk pays for no mirror
    from keepstep.mirror.cache import RecordCache
    from keepstep.mirror.mirror import open_mirror
    from keepstep.mirror.run import MirrorRun

    mirror = open_mirror(name)
    mirror.remember(RecordCache.of_user(mirror.url))
    try:
        return MirrorRun(mirror)
    except MirrorUnavailable as error:
        raise _unread(mirror.url, error) from error


def _unread(url: str, error: MirrorUnavailable) -> MirrorUnavailable:
    """The error with a way out for somebody who reads."""
    asked_machine = "169.254.169.254" in error.message or "metadata" in error.message
    what = "no credentials were given, and this machine has none of its own" if asked_machine else error.message
    message = what if what.startswith(url) else f"{url} can't be read: {what}"
    scheme = url.partition("://")[0] if "://" in url else ""
    return MirrorUnavailable(message, hint=_WAYS_IN.get(scheme, error.hint), errno=error.errno)
