"""`keepstep mirror policy`: rules that a real store takes, and what a bucket says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.operations.mirroring.policy import bucket_policy
from tests.cli.conftest import Call, call
from tests.mirror import servers

__all__ = ["call"]


def test_the_rules_are_taken_and_seen(
    s3: servers.Server, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boto3 = pytest.importorskip("boto3")
    servers.use(s3, monkeypatch)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    url = f"s3://{servers.BUCKET}-rules/a/run"
    client = boto3.client("s3")
    client.create_bucket(Bucket=f"{servers.BUCKET}-rules")

    def asked() -> dict[str, object]:
        said = call("mirror", "policy", url, "--ask", "--format", "json")
        assert said.exit_code == 0, said.stderr
        return json.loads(said.stdout)

    found = asked()
    assert found["state"] == {"versioned": False, "locked": False, "rules": []}
    client.put_bucket_versioning(Bucket=f"{servers.BUCKET}-rules", VersioningConfiguration={"Status": "Enabled"})
    client.put_bucket_lifecycle_configuration(Bucket=f"{servers.BUCKET}-rules", LifecycleConfiguration=found["file"])
    assert asked()["state"] == {
        "versioned": True, "locked": False, "rules": ["keepstep-mirror-uploads", "keepstep-mirror-versions"],
    }  # fmt: skip
    client.create_bucket(Bucket=f"{servers.BUCKET}-locked", ObjectLockEnabledForBucket=True)
    said = call("mirror", "policy", f"s3://{servers.BUCKET}-locked/x", "--ask")
    assert "it keeps versions" in said.stderr and "it locks objects" in said.stderr
    assert "no rule is in force" in said.stderr
    assert (
        f"--bucket {servers.BUCKET}-locked --endpoint-url http://127.0.0.1:{s3.port} --lifecycle-configuration file://"
        in said.stdout
    )
    assert call("mirror", "policy", "s3://no-such-bucket-there/x", "--ask").exit_code == 8


def test_each_store_has_its_own(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "ours")
    for url, text in {
        "s3://b/team/a": '"Prefix": "team/a/"',
        "s3://b": '"Prefix": ""',
        "gs://b/team/a": "gcloud storage buckets update gs://b --lifecycle-file=keepstep-lifecycle.json",
        "az://box/team/a": '"box/team/a/"',
        "abfss://box@account.dfs.core.windows.net/a": "--account-name account",
    }.items():
        said = call("mirror", "policy", url)
        assert said.exit_code == 0 and text in said.stdout, said.stdout
    assert "nothing is to be set" in call("mirror", "policy", "/mnt/backup").stderr
    said = call("mirror", "policy", "ftp://b/x")
    assert said.exit_code == 2 and "Known are s3://" in said.stderr
    assert call("mirror", "policy", "gs://b/x", "--ask").exit_code == 2
    condition = bucket_policy("gs://b", 3).file["rule"][1]["condition"]  # type: ignore[index]
    assert condition == {"isLive": False, "daysSinceNoncurrentTime": 3}


def test_no_secret_of_an_address_is_printed(call: Call) -> None:
    for address, bucket in (("s3://key:secret@bucket/run?x=secret", "bucket"), ("abfss://box:secret@a.b/run", "box")):
        said = call("mirror", "policy", address, "--format", "json")
        assert said.exit_code == 0 and "secret" not in said.stdout + said.stderr and bucket in said.stdout
