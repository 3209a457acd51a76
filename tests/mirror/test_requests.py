"""How much is asked of a mirror: of a large one, of one that was read before, for a save and for a resume."""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from keepstep.layout import SMALL_FILE_LIMIT
from keepstep.mirror import Mirror, MirrorRun, Object, RecordCache, open_mirror
from keepstep.mirror import cache as caching
from keepstep.mirror.layout import CommitName
from keepstep.mirror.record import encode
from keepstep.operations.mirroring.bringing import bring, plan_pull
from tests.mirror import servers
from tests.mirror.costs import counts, written
from tests.mirror.counting import CountingObjects
from tests.mirror.test_reading import mirrored
from tests.operations.runs import make_run

MANY = 10_000


class _Memory:
    """Objects in a dictionary."""

    url = "memory"

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self._keys: list[str] = []

    def create(self, key: str, data: bytes) -> bool:
        return self.data.setdefault(key, data) == data

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        self.data[key] = b"".join(pieces)

    def read(self, key: str, *, limit: int) -> bytes:
        if key not in self.data:
            raise FileNotFoundError(key)
        return self.data[key]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self.read(key, limit=SMALL_FILE_LIMIT)[start : start + length]

    def list(self, directory: str) -> Iterator[Object]:
        if len(self._keys) != len(self.data):
            self._keys = sorted(self.data)
        prefix = f"{directory}/" if directory else ""
        for key in self._keys[bisect_left(self._keys, prefix) :]:
            if not key.startswith(prefix):
                return
            yield Object(key, len(self.data[key]), 0.0)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.data.pop(key, None)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> _Memory:
    """A mirror of very many commits."""
    home = tmp_path_factory.mktemp("many")
    run = make_run(home / "run", {10: 0.5})
    memory = _Memory()
    Mirror(memory).begin(run.id)
    [checkpoint] = run.checkpoints
    for generation in range(1, MANY + 1):
        one = replace(checkpoint, generation=generation, step=10 * generation, path=None)
        name = CommitName(generation, 1, f"{generation:012x}")
        memory.data[name.key] = encode(one, f"data/{generation:08d}-{name.token}")
    return memory


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _opened(objects: object) -> Mirror:
    """As another process would."""
    mirror = Mirror(objects)  # type: ignore[arg-type]
    mirror.remember(RecordCache.of_user(mirror.url))
    return mirror


def test_of_very_many_the_newest_takes_two_requests_and_the_list_what_changed(many: _Memory, tmp_path: Path) -> None:
    objects = CountingObjects(many)
    newest = _opened(objects).newest(resumable=True)
    assert newest is not None and newest.checkpoint.step == 10 * MANY
    assert dict(objects.requests) == {"LIST": 1, "GET": 1}
    objects.reset()
    assert len(_opened(objects).records()) == MANY
    assert dict(objects.requests) == {"LIST": MANY // 1000, "GET": MANY - 1}, "the newest was read already"
    objects.reset()
    records = _opened(objects).records()
    assert dict(objects.requests) == {"LIST": MANY // 1000} and objects.down == 0
    assert records[0] == newest and len(records) == MANY
    # Three are new, and one is gone.
    for generation in range(MANY + 1, MANY + 4):
        one = replace(newest.checkpoint, generation=generation)
        name = CommitName(generation, 2, f"{generation:012x}")
        many.data[name.key] = encode(one, f"data/{generation:08d}-{name.token}")
    many.data.pop(records[5].key)
    objects.reset()
    assert len(_opened(objects).records()) == MANY + 2
    assert objects.requests["GET"] == 3 and objects.requests["LIST"] == 11
    # And so does a list on the command line: the identity, and the notes, of which there are none.
    objects.reset()
    assert len(MirrorRun(_opened(objects)).checkpoints) == MANY + 2
    assert dict(objects.requests) == {"LIST": 12, "GET": 2}
    [file] = (tmp_path / "cache" / "keepstep" / "mirrors").iterdir()
    assert file.stat().st_size < caching.LARGEST


def test_the_cache_may_be_damaged_deleted_or_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = mirrored(make_run(tmp_path / "run", {10: 0.5, 20: 0.4, 30: 0.3}), tmp_path / "mirror")
    objects = CountingObjects(mirror.objects)
    steps = [record.checkpoint.step for record in _opened(objects).records()]
    [file] = (tmp_path / "cache" / "keepstep" / "mirrors").iterdir()

    def asked() -> int:
        objects.reset()
        assert [record.checkpoint.step for record in _opened(objects).records()] == steps
        return objects.requests["GET"]

    assert asked() == 0
    data = file.read_bytes()
    file.write_bytes(data[:-40])
    assert asked() == 1 and asked() == 0, "its end was torn off"
    file.write_bytes(data.replace(b"eval_loss", b"eval_lost", 1))
    assert asked() == 1, "one byte was changed"
    file.write_bytes(os.urandom(5000))
    assert asked() == 3 and asked() == 0
    file.unlink()
    assert asked() == 3
    file.unlink()
    file.mkdir()
    assert asked() == 3
    file.rmdir()
    monkeypatch.setenv("KEEPSTEP_NO_CACHE", "1")
    assert asked() == 3 and not file.exists()


def test_the_cache_is_bounded_and_as_open_as_the_umask_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = mirrored(make_run(tmp_path / "run", dict.fromkeys(range(10, 60, 10), 0.5)), tmp_path / "mirror")
    monkeypatch.setattr(caching, "LARGEST", 3000)
    before = os.umask(0o077)
    try:
        assert len(_opened(mirror.objects).records()) == 5
    finally:
        os.umask(before)
    [file] = (tmp_path / "cache" / "keepstep" / "mirrors").iterdir()
    assert 0 < file.stat().st_size <= 3000 and stat.S_IMODE(file.stat().st_mode) == 0o600
    objects = CountingObjects(mirror.objects)
    assert len(_opened(objects).records()) == 5
    assert 0 < objects.requests["GET"] < 5 and f"commits/{99999999 - 5:08d}" not in "".join(objects.read_keys)
    monkeypatch.setattr(caching, "LARGEST_OF_ALL", 100)
    (file.parent / "old.jsonl").write_bytes(b"x" * 200)
    os.utime(file.parent / "old.jsonl", (0, 0))
    other = mirrored(make_run(tmp_path / "other", {10: 0.5}), tmp_path / "second")
    _opened(other.objects).records()
    assert not (file.parent / "old.jsonl").exists()


def test_a_run_keeps_it_beside_its_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    mirror = mirrored(run, tmp_path / "mirror")
    for expected in (0, 2, 0):  # a sync keeps what it has read
        if expected:
            next((run.path / ".keepstep").glob("mirror-index-*.jsonl")).unlink()
        objects = CountingObjects(mirror.objects)
        other = Mirror(objects)
        other.remember(RecordCache.of_run(run.store, other.url))
        assert len(other.records()) == 2
        assert objects.requests["GET"] == expected
    assert len(list((run.path / ".keepstep").glob("mirror-index-*.jsonl"))) == 1


def test_the_page_is_what_the_counts_come_to(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "mirror-costs.md").read_text()
    assert page == written(counts(tmp_path)), "write it anew: python -m tests.mirror.costs > docs/mirror-costs.md"


def test_the_count_is_that_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the counting place counts is what a server of S3 is asked, request by request."""
    pytest.importorskip("obstore")
    with servers.running(servers.Moto) as server:
        servers.use(server, monkeypatch)
        run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
        address = f"s3://{servers.BUCKET}/counted"
        mirrored(run, address)
        objects = CountingObjects(open_mirror(address).objects)
        before = len(server.log.read_bytes())
        found = MirrorRun(Mirror(objects))
        assert len(found.checkpoints) == 2
        mirror = Mirror(objects)
        bring(mirror, plan_pull(mirror, tmp_path / "there", "latest"))
        sent = server.log.read_bytes()[before:].decode()
    lines = re.findall(r"(GET|PUT|HEAD|POST|DELETE) (/\S+) HTTP", sent)
    lists = [path for method, path in lines if method == "GET" and "list-type=2" in path]
    assert len(lists) == objects.requests["LIST"]
    assert len(lines) - len(lists) == objects.requests["GET"]
    assert set(objects.requests) == {"LIST", "GET"}
