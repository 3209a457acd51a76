"""Real servers keep to the contract, and what ignores it fails just there. `make servers` installs them."""

from __future__ import annotations

import filecmp
import random
import uuid
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.mirror import BucketObjects, ObjectStore, check, open_mirror
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.testing.objects import ObjectStoreConformance
from tests.mirror import servers
from tests.operations.runs import LOSS, training

pytestmark = pytest.mark.servers


class _OnAServer(ObjectStoreConformance):
    kind: str
    scheme = "s3"

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        servers.use(request.getfixturevalue(self.kind), monkeypatch)

    def make_objects(self, empty: Path) -> ObjectStore:
        return BucketObjects(f"{self.scheme}://{servers.BUCKET}/{uuid.uuid4().hex}")


class TestSeaweed(_OnAServer):
    kind = "seaweed"


class TestAzurite(_OnAServer):
    kind, scheme = "azurite", "az"


class TestRclone(_OnAServer):
    kind, exclusive = "rclone", False


def test_what_ignores_conditions_fails_in_just_those_rows(
    rclone: servers.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The contract as it is asked of a place that promises exclusion; the same rows pass on SeaweedFS."""
    servers.use(rclone, monkeypatch)
    suite = TestSeaweed()
    assert suite.exclusive
    failed: set[str] = set()
    for name in _ROWS:
        try:
            getattr(suite, name)(suite.make_objects(tmp_path))
        except AssertionError:
            failed.add(name)
    assert failed == {"test_a_create_never_replaces", "test_of_many_that_create_at_once_one_wins"}


_ROWS = [
    name
    for name, row in vars(ObjectStoreConformance).items()
    if name.startswith("test_") and not hasattr(row, "pytestmark")
]


def test_a_run_goes_to_a_server_without_conditions_and_ranges_and_comes_back(
    rclone: servers.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    servers.use(rclone, monkeypatch)
    with training(tmp_path / "run") as checkpointer:
        for step in (10, 20):
            checkpointer.save(Facts(step), _write_large)
    run, mirror = Run.open(tmp_path / "run"), open_mirror(f"s3://{servers.BUCKET}/{tmp_path.name}")
    policy = Policy.from_spec("latest:1", LOSS)
    done = sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))
    assert not done.exclusive and [record.checkpoint.step for record in mirror.records()] == [20]
    assert check(mirror, mirror.records()[0]) == ()
    bring(open_mirror(mirror.url), plan_pull(mirror, tmp_path / "there", "latest"))
    for name in ("model.safetensors", "optimizer.pt"):
        there, here = (tmp_path / where / "checkpoint-20" / name for where in ("there", "run"))
        assert filecmp.cmp(there, here, shallow=False)


def _write_large(directory: Path) -> None:
    """A file of three parts, so that ranges are asked for side by side."""
    (directory / "model.safetensors").write_bytes(random.Random(5).randbytes(40 * 2**20))
    (directory / "optimizer.pt").write_bytes(b"o" * 1000)
