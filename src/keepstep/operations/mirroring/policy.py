"""The rules that a bucket needs beside what keepstep removes: for what its store keeps of itself, and bills."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from keepstep.errors import SettingsError
from keepstep.mirror import plain

DAYS = 1
"""Days that what nobody can reach any more stays: a mistake by hand can be undone that long."""
FILE = "keepstep-lifecycle.json"
_NAME = "keepstep-mirror"


@dataclass(frozen=True, slots=True)
class BucketPolicy:
    """What to set for a mirror's store: the text of a `file` (None where none is needed), the commands that show what
    is set, set it, and what to know before.
    """

    url: str
    file: dict[str, Any] | None
    commands: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {"url": self.url, "file": self.file, "commands": list(self.commands), "notes": list(self.notes)}


def bucket_policy(url: str, days: int = DAYS) -> BucketPolicy:
    """The rules for an address. Nothing is asked of it. Raises SettingsError for one of no kind that is known."""
    if "://" not in url or url.startswith("file://"):
        return BucketPolicy(url, None, (), ("a directory keeps nothing that is removed: nothing is to be set",))
    url = plain(url)
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    prefix = f"{prefix}/" if prefix else ""
    match parts.scheme:
        case "s3" | "s3a":
            return _s3(url, bucket, prefix, days)
        case "gs":
            return _gcs(url, bucket, prefix, days)
        case "az" | "azure" | "abfs" | "abfss":
            return _azure(url, parts.username or bucket, parts.hostname or "", prefix, days)
        case "hf":
            return BucketPolicy(url, None, (), ("nothing is to be set: what is removed there is gone",))
        case scheme:
            raise SettingsError(f"no rules are known for {scheme}://", hint="Known are s3://, gs://, az:// and hf://.")


def _s3(url: str, bucket: str, prefix: str, days: int) -> BucketPolicy:
    rules = [
        {
            "ID": f"{_NAME}-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        },
        {
            "ID": f"{_NAME}-versions",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "NoncurrentVersionExpiration": {"NoncurrentDays": days},
            "Expiration": {"ExpiredObjectDeleteMarker": True},
        },
    ]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    at = f" --endpoint-url {shlex.quote(endpoint)}" if endpoint else ""
    name = shlex.quote(bucket)
    return BucketPolicy(
        url,
        {"Rules": rules},
        (
            f"aws s3api get-bucket-lifecycle-configuration --bucket {name}{at}",
            f"aws s3api put-bucket-lifecycle-configuration --bucket {name}{at} --lifecycle-configuration file://{FILE}",
        ),
        (
            "the second command replaces all rules of the bucket: add those that the first one shows to the file",
            "parts of an upload that was killed are billed and in no list: the first rule removes them",
            "in a bucket that keeps versions, what is removed stays and is billed: the second rule removes it",
            "with an object lock nothing goes before its time, whatever a rule says",
        ),
    )


def _gcs(url: str, bucket: str, prefix: str, days: int) -> BucketPolicy:
    within = {"matchesPrefix": [prefix]} if prefix else {}
    rules = [
        {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": days, **within}},
        {"action": {"type": "Delete"}, "condition": {"isLive": False, "daysSinceNoncurrentTime": days, **within}},
    ]
    name = shlex.quote(f"gs://{bucket}")
    return BucketPolicy(
        url,
        {"rule": rules},
        (
            f"gcloud storage buckets describe {name} --format=json",
            f"gcloud storage buckets update {name} --lifecycle-file={FILE}",
            f"gcloud storage buckets update {name} --clear-soft-delete",
        ),
        (
            "the second command replaces all rules of the bucket: add those that the first one shows to the file",
            "a bucket keeps what is deleted for 7 days by default, and bills it: the third command ends that",
        ),
    )


def _azure(url: str, container: str, host: str, prefix: str, days: int) -> BucketPolicy:
    account = host.partition(".")[0] if "." in host else os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or "ACCOUNT"
    rule = {
        "enabled": True,
        "name": _NAME,
        "type": "Lifecycle",
        "definition": {
            "filters": {"blobTypes": ["blockBlob"], "prefixMatch": [f"{container}/{prefix}"]},
            "actions": {"version": {"delete": {"daysAfterCreationGreaterThan": days}}},
        },
    }
    name = shlex.quote(account)
    properties = f"az storage account blob-service-properties {{}} --account-name {name}"
    return BucketPolicy(
        url,
        {"rules": [rule]},
        (
            properties.format("show"),
            f"az storage account management-policy create --account-name {name} -g GROUP --policy @{FILE}",
            f"{properties.format('update')} --enable-delete-retention true --delete-retention-days {days}",
        ),
        (
            "the second command replaces all rules of the account: add those that are there to the file",
            "soft delete, which the first command shows and the third shortens, holds for the whole account",
            "blocks of an upload that was killed go by themselves after a week",
        ),
    )
