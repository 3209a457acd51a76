"""What killed writers leave, and what counts as left: nothing that a record names, or might, ever goes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.errors import MirrorUnavailable
from keepstep.mirror import DirectoryObjects, Mirror, Progress, Record, Writer, check, drop, open_mirror, orphans, push
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import Synced, sync
from keepstep.retention import Policy
from keepstep.run import Run
from tests.operations.runs import LOSS, make_run


def _sync(run: Run, mirror: Mirror, keep: str) -> Synced:
    policy = Policy.from_spec(keep, LOSS)
    return sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))


class _Dying(DirectoryObjects):
    """A place whose writer is killed before its `left`th change."""

    left = 10**6

    def _change(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def create(self, key: str, data: bytes) -> bool:
        self._change()
        return super().create(key, data)

    def put(self, key: str, *arguments: object) -> None:
        self._change()
        super().put(key, *arguments)  # type: ignore[arg-type]

    def delete(self, keys: object) -> None:
        for key in list(keys):  # type: ignore[call-overload]
            self._change()
            super().delete([key])


def _named(mirror: Mirror) -> set[str]:
    def of(record: Record) -> set[str]:
        return {f"{record.home}/{path}" for path in ("keepstep.json", *(f.path for f in record.checkpoint.files))}

    return set().union(*map(of, mirror.records()))


def _data(mirror: Mirror) -> set[str]:
    return {item.key for item in mirror.objects.list("data")}


def test_a_thinning_that_was_cut_anywhere_is_finished_later(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.1, 20: 0.5})
    _sync(run, open_mirror(tmp_path / "whole"), "all")
    for cut in range(1, 9):
        place = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "whole", place)
        objects = _Dying(place)
        objects.left = cut + 1  # its claim, and the probe of it, come first
        try:
            _sync(run, Mirror(objects), "best:1,latest:1")
            ended = True
        except KeyboardInterrupt:
            ended = False
        mirror = open_mirror(place)
        assert all(check(mirror, record) == () for record in mirror.records()) and len(mirror.records()) == 2
        _age(place)
        _sync(run, mirror, "best:1,latest:1")
        after = open_mirror(place)
        assert [record.checkpoint.kind for record in after.records()] == ["full", "weights"], cut
        assert len(list(after.names())) == 2 and _data(after) == _named(after), cut
        manifest = after.objects.read(f"{after.records()[1].home}/keepstep.json", limit=10**6)
        assert b"optimizer.pt" not in manifest
        if ended:
            assert cut > 4
            return
    raise AssertionError("it never got to its end")


def test_what_was_written_twice_goes_with_all_its_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.1, 20: 0.5})
    mirror = open_mirror(tmp_path / "mirror")
    for _ in range(2):
        writer = Writer.claim(mirror, run.id)
        push(writer, run.store, run.find(10), "checkpoint-10", Progress(run.store, mirror.url))
    assert len(list(mirror.names())) == 2 and len(mirror.records()) == 1
    heard: list[int] = []
    drop(writer, mirror.records(), lambda record: heard.append(record.checkpoint.step))
    assert heard == [10] and list(mirror.names()) == [] and _data(mirror) == set()


def _age(place: Path, days: float = 2) -> None:
    then = time.time() - days * 86400
    for path in place.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_a_record_that_is_damaged_keeps_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_NO_CACHE", "1")  # nobody else knows it
    run = make_run(tmp_path / "run", {10: 0.1, 20: 0.5})
    mirror = open_mirror(tmp_path / "mirror")
    _sync(run, mirror, "all")
    (tmp_path / "mirror" / mirror.records()[1].key).write_bytes(b"{")
    _age(tmp_path / "mirror")
    before = _data(mirror)
    again = open_mirror(tmp_path / "mirror")
    assert len(again.records()) == 1
    assert orphans(Writer.claim(again, run.id), again.records()) == ()
    assert _sync(run, again, "latest:1").swept_bytes == 0
    assert _data(again) == before


def test_a_record_that_came_damaged_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", {10: 0.1})
    _sync(run, open_mirror(tmp_path / "mirror"), "all")
    mirror = open_mirror(tmp_path / "mirror")
    read, asked = mirror.objects.read, []

    def damaged(key: str, *, limit: int) -> bytes:
        asked.append(key)
        data = read(key, limit=limit)
        return data if len(asked) > 2 else data.replace(b"0.1", b"0.2")

    monkeypatch.setattr(mirror.objects, "read", damaged)
    assert [record.checkpoint.metrics["eval_loss"] for record in mirror.records()] == [0.1] and len(asked) == 3


def test_what_no_record_names_beside_what_one_does_goes_after_a_day(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.1})
    mirror = open_mirror(tmp_path / "mirror")
    _sync(run, mirror, "all")
    [record] = mirror.records()
    left = f"{record.home}/optimizer-of-a-thinned-one.pt"
    mirror.objects.put(left, [b"12345"], 5)
    writer = Writer.claim(mirror, run.id)
    assert orphans(writer, mirror.records()) == ()
    _age(tmp_path / "mirror")
    assert [(o.keys, o.size_bytes) for o in orphans(writer, mirror.records())] == [((left,), 5)]


def test_a_file_that_was_sent_and_swept_meanwhile_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", {10: 0.1})
    objects = _Dying(tmp_path / "mirror")
    objects.left = 4  # the identity, the claim and its probe, one file
    with pytest.raises(KeyboardInterrupt):
        _sync(run, Mirror(objects), "all")
    mirror = open_mirror(tmp_path / "mirror")
    assert len(_data(mirror)) == 1
    _age(tmp_path / "mirror")
    for orphan in orphans(Writer.claim(mirror, run.id), ()):
        mirror.objects.delete(orphan.keys)
    assert _data(mirror) == set()
    _sync(run, mirror, "all")
    assert check(mirror, mirror.records()[0]) == ()


class _Forgetful(DirectoryObjects):
    """A place that says yes and has nothing, once."""

    forgets = 1

    def put(self, key: str, *arguments: object) -> None:
        super().put(key, *arguments)  # type: ignore[arg-type]
        if self.forgets and key.endswith("model.safetensors"):
            self.forgets -= 1
            self.delete([key])


def test_a_place_that_does_not_keep_what_it_took_gets_no_record(tmp_path: Path, fresh: Callable[[str], Path]) -> None:
    run = make_run(tmp_path / "run", {10: 0.1})
    mirror = Mirror(_Forgetful(tmp_path / "mirror"))
    with pytest.raises(MirrorUnavailable, match=r"has not kept what it took: model\.safetensors"):
        _sync(run, mirror, "all")
    assert mirror.records() == ()
    _sync(run, mirror, "all")
    assert check(mirror, mirror.records()[0]) == ()
