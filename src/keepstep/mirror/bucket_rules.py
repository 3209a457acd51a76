"""What a bucket of S3 does with what is removed in it, which the client of the mirror can't see: through boto3."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from keepstep.errors import MirrorUnavailable, SettingsError
from keepstep.mirror.bucket_objects import plain


@dataclass(frozen=True, slots=True)
class BucketState:
    """Whether it keeps versions, whether objects are locked for a time, and the ids of its rules that are in force."""

    versioned: bool
    locked: bool
    rules: tuple[str, ...]


def bucket_state(url: str) -> BucketState:
    """Ask a bucket of S3. Raises SettingsError without boto3 and for other stores, MirrorUnavailable."""
    url = plain(url)
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "s3a"):
        raise SettingsError(f"{url} can't be asked what it keeps", hint="Only buckets of S3 can; see the commands.")
    if find_spec("boto3") is None:
        raise SettingsError("a bucket is asked what it keeps through boto3", hint="Install it: pip install boto3")
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client: Any = boto3.client("s3")  # pyright: ignore[reportUnknownMemberType]
    bucket = parts.netloc
    try:
        versions = client.get_bucket_versioning(Bucket=bucket)
        lock = _found(client.get_object_lock_configuration, bucket, "ObjectLockConfigurationNotFoundError")
        rules = _found(client.get_bucket_lifecycle_configuration, bucket, "NoSuchLifecycleConfiguration")
    except (BotoCoreError, ClientError) as error:
        raise MirrorUnavailable(f"{url} can't be asked what it keeps: {error}") from error
    configuration = lock.get("ObjectLockConfiguration", {})
    enabled = [rule for rule in rules.get("Rules", []) if rule.get("Status") == "Enabled"]
    return BucketState(
        versions.get("Status") == "Enabled",
        configuration.get("ObjectLockEnabled") == "Enabled",
        tuple(str(rule.get("ID", "")) for rule in enabled),
    )


def _found(ask: Any, bucket: str, missing: str) -> dict[str, Any]:
    from botocore.exceptions import ClientError

    try:
        return ask(Bucket=bucket)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in (missing, "NotImplemented", "MethodNotAllowed"):
            return {}
        raise
