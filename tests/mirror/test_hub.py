"""A bucket of the Hub as a mirror, over a stand-in for the Hub; Xet itself is the real one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepstep.errors import MirrorOfAnother, MirrorUnavailable, SettingsError
from keepstep.mirror import HubObjects, ObjectStore, check, open_mirror
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.testing.objects import ObjectStoreConformance
from tests.mirror import hub as hubs
from tests.operations.runs import LOSS, make_run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    with hubs.running(tmp_path / "xet") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


class TestHub(ObjectStoreConformance):
    exclusive = False

    @pytest.fixture(autouse=True)
    def _hub(self, hub: hubs.Hub) -> None:
        """It is there."""

    def make_objects(self, empty: Path) -> ObjectStore:
        return HubObjects(f"hf://buckets/{hubs.BUCKET}/{uuid.uuid4().hex}")


def test_a_run_goes_there_and_comes_back(tmp_path: Path, hub: hubs.Hub) -> None:
    run = make_run(tmp_path / "run", {10: 0.1, 20: 0.5, 30: 0.4})
    mirror, policy = open_mirror(f"hf://buckets/{hubs.BUCKET}/team/run-a"), Policy.from_spec("best:1,latest:1", LOSS)
    done = sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))
    assert not done.exclusive and [record.checkpoint.step for record in done.sent] == [30, 10]
    assert all(check(mirror, record) == () for record in mirror.records())
    bring(mirror, plan_pull(mirror, tmp_path / "there", "latest"))
    there = Run.open(tmp_path / "there")
    assert [c.step for c in there.checkpoints] == [30] and not there.repository.verify(there.checkpoints[0]).problems
    assert all(path.startswith("team/run-a/") for path in hub.files)
    # The record is given its key after everything that it names.
    order = [path.split("/")[2] for path in hub.files if "/data/" in path or "/commits/" in path]
    assert order[-1] == "commits" and order[0] == "data"
    other = make_run(tmp_path / "other", {10: 0.1})
    with pytest.raises(MirrorOfAnother, match="is the mirror of run"):
        sync(other, mirror, policy, plan_mirror(other, mirror, (), policy))


def test_what_the_hub_refuses_is_said_without_the_token(
    tmp_path: Path, hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = HubObjects(f"hf://buckets/{hubs.BUCKET}/x")
    objects.put("data/a", [b"abc"], 3)
    failed = {"failed": [{"path": "x/data/b", "error": "storage limit reached"}]}
    for status, body, words in (
        (200, failed, "storage limit reached"),
        (422, failed, "storage limit reached"),
        (403, {"error": f"no write for {hubs.TOKEN}"}, "refuses"),
        (400, {"error": "malformed"}, "malformed"),
    ):
        hub.refuses = (status, body)
        with pytest.raises(MirrorUnavailable, match=words) as caught:
            objects.put("data/b", [b"abc"], 3)
        assert hubs.TOKEN not in str(caught.value) and len(caught.value.message) < 500
    hub.refuses = None
    assert [item.key for item in objects.list("")] == ["data/a"]
    with pytest.raises(MirrorUnavailable, match=r"there is no bucket 'team/other'.*\n.*hf buckets create team/other"):
        list(HubObjects("hf://buckets/team/other").list(""))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong-and-hidden")
    for ask in (lambda o: o.read("data/a", limit=9), lambda o: o.put("data/c", [b"c"], 1)):
        with pytest.raises(MirrorUnavailable, match="refuses") as caught:
            ask(HubObjects(f"hf://buckets/{hubs.BUCKET}/x"))
        assert "hidden" not in str(caught.value)


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: hubs.Hub) -> None:
    objects = HubObjects(f"hf://buckets/{hubs.BUCKET}/x")
    hub.busy = 1
    objects.put("data/a", [b"abc"], 3)
    hub.busy = 1
    assert objects.read("data/a", limit=3) == b"abc"


def test_offline_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MirrorUnavailable, match="HF_HUB_OFFLINE is set"):
        HubObjects("hf://buckets/a/b/c").read("x", limit=1)
    assert open_mirror("hf://buckets/a/b/c/").url == "hf://buckets/a/b/c"
    for wrong in ("hf://buckets/a", "hf://buckets/", "hf://a/b"):
        with pytest.raises(SettingsError):
            open_mirror(wrong)
