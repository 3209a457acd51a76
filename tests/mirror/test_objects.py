"""Every place where a mirror may lie keeps to one contract."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import pytest

from keepstep.errors import MirrorUnavailable, SettingsError
from keepstep.mirror import BucketObjects, DirectoryObjects, ObjectStore, Patience, open_mirror
from keepstep.testing.integration_disk import small_disk
from keepstep.testing.objects import ObjectStoreConformance
from tests.mirror import servers


class TestDirectory(ObjectStoreConformance):
    def make_objects(self, empty: Path) -> ObjectStore:
        return DirectoryObjects(empty)


class TestS3(ObjectStoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self, s3: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
        servers.use(s3, monkeypatch)

    def make_objects(self, empty: Path) -> ObjectStore:
        return BucketObjects(f"s3://{servers.BUCKET}/{uuid.uuid4().hex}")


class _Replacing(DirectoryObjects):
    """A place that ignores the condition, as some servers do."""

    def create(self, key: str, data: bytes) -> bool:
        self.put(key, [data], len(data))
        return True


class TestAPlaceThatReplaces(ObjectStoreConformance):
    exclusive = False

    def make_objects(self, empty: Path) -> ObjectStore:
        return _Replacing(empty)


def test_a_directory_is_not_made_where_a_disk_is_not_mounted(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "not-mounted" / "mirror")
    with pytest.raises(MirrorUnavailable, match="is not there"):
        objects.create("commits/a", b"")
    with pytest.raises(MirrorUnavailable, match="is not there"):
        list(objects.list("commits"))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_put_leaves_nothing_that_is_listed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        DirectoryObjects(tmp_path).put("data/x", (os._exit(9) if number else b"ab" for number in range(2)), 4)
    os.waitpid(child, 0)
    assert len(list((tmp_path / "data").iterdir())) == 1
    assert list(DirectoryObjects(tmp_path).list("data")) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 200_000) as disk:
        objects = DirectoryObjects(disk / "mirror")
        assert objects.create("commits/a", b"a")
        for ask in (
            lambda: objects.put("data/x", [bytes(100_000)] * 3, 300_000),
            lambda: objects.create("commits/b", bytes(300_000)),
        ):
            with pytest.raises(MirrorUnavailable, match="No space left on device") as caught:
                ask()
            assert caught.value.errno == errno.ENOSPC
        assert [item.key for item in objects.list("")] == ["commits/a"]
        objects.put("data/x", [bytes(50_000)], 50_000)


def test_addresses(tmp_path: Path) -> None:
    assert open_mirror(tmp_path).url == str(tmp_path) == open_mirror(f"file://{tmp_path}").url
    with pytest.raises(SettingsError, match="can't be at ftp://"):
        open_mirror("ftp://host/path")


def test_no_secret_is_in_an_address_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers.free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-hidden")
    objects = BucketObjects("s3://user:very-hidden@bucket/path?token=very-hidden", Patience(tries=0))
    with pytest.raises(MirrorUnavailable) as caught:
        objects.read("mirror.json", limit=10)
    assert objects.url == "s3://bucket/path"
    assert "hidden" not in f"{caught.value}{objects!r}" and len(caught.value.message) < 500
