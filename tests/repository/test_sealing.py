"""What others add, rewrite or take out becomes the checkpoint's own, and what was there before stays known."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.errors import CheckpointNotFound, KeepstepError, StorageError
from keepstep.model import CHUNK_BYTES, Checkpoint, Kind
from keepstep.repository import Look, manifest
from keepstep.repository.sealing import ATTEMPTS
from keepstep.run import Run
from keepstep.stores import LocalStore, Stamp
from keepstep.testing.faults import Fault, FaultyStore, Injector
from tests.operations.runs import flip, make_run
from tests.small_run import manifest_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path / "run", {2: 0.5, 4: 0.25})
    run.begin_writing()
    return run


def newest(run: Run) -> Checkpoint:
    return run.checkpoints[-1]


def directory(run: Run) -> Path:
    path = newest(run).path
    assert path is not None
    return path


def sealed_events(run: Run) -> list[dict[str, object]]:
    return [event for event in run.events.read() if event["event"] == "sealed"]


def settle(path: Path) -> None:
    """Give files an age at which a change is told by their stamps."""
    for file in path.rglob("*"):
        os.utime(file, ns=(1_000_000_001, 1_000_000_001))


def test_nothing_changed_is_the_same_object_without_an_event(run: Run) -> None:
    checkpoint, data = newest(run), manifest_of(newest(run)).read_bytes()
    assert run.seal(checkpoint, run.look(checkpoint), by=("Nobody",)) is checkpoint
    assert run.seal(checkpoint) is checkpoint
    assert sealed_events(run) == [] and manifest_of(checkpoint).read_bytes() == data


def test_added_files_become_part_of_it(run: Run) -> None:
    checkpoint, before = newest(run), run.look(newest(run))
    (directory(run) / "ema.pt").write_bytes(b"average")
    (directory(run) / "merged").mkdir()
    (directory(run) / "merged" / "model.safetensors").write_bytes(b"merged")
    (directory(run) / "tokenizer.json").write_text("{}")
    was = manifest_of(checkpoint).read_bytes()
    sealed = run.seal(checkpoint, before, by=("EmaCallback", "Other"))
    assert {file.path: file.by for file in sealed.files} == {
        "model.safetensors": "",
        "optimizer.pt": "",
        "tokenizer.json": "",  # a loader reads it: the model's own from now on
        "ema.pt": "others",
        "merged/model.safetensors": "others",
    }
    assert (sealed.generation, sealed.created, sealed.parent, sealed.metrics, sealed.kind) == (
        checkpoint.generation,
        checkpoint.created,
        checkpoint.parent,
        checkpoint.metrics,
        Kind.FULL,
    )
    assert newest(run) == sealed == Run.open(run.path).checkpoints[-1]
    found = run.verify(sealed)
    assert (found.problems, found.added, found.resumable) == ((), (), True)
    (event,) = sealed_events(run)
    assert (event["step"], event["generation"], event["by"]) == (4, 2, ["EmaCallback", "Other"])
    assert event["added"] == ["ema.pt", "merged/model.safetensors", "tokenizer.json"]
    assert (event["rewritten"], event["removed"]) == ([], [])
    assert (event["manifest_before"], event["size_bytes"]) == (manifest.digest_in(was), sealed.size_bytes)


def test_rewritten_files_are_taken_over_and_their_former_digests_stay_known(run: Run) -> None:
    checkpoint, before = newest(run), run.look(newest(run))
    (directory(run) / "model.safetensors").write_bytes(b"v" * 900)
    sealed = run.seal(checkpoint, before)
    old, new = (next(f for f in c.files if f.path == "model.safetensors") for c in (checkpoint, sealed))
    assert run.verify(sealed).ok and old.digest != new.digest
    assert sealed_events(run)[0]["rewritten"] == [
        {"path": "model.safetensors", "before": old.digest, "after": new.digest}
    ]


def test_the_same_bytes_written_again_are_no_change(run: Run) -> None:
    checkpoint, before = newest(run), run.look(newest(run))
    path = directory(run) / "model.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert run.seal(checkpoint, before) is checkpoint


def test_a_rewrite_within_a_tick_of_the_clock_is_seen(run: Run) -> None:
    """The stamp is the same: such a young file is read all the same."""
    checkpoint, path = newest(run), directory(run) / "model.safetensors"
    path.write_bytes(b"w" * 900)
    look = run.look(checkpoint)
    young = look.stamps["model.safetensors"]
    flip(path)
    found = os.lstat(path)
    now = Stamp("file", 900, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    same = Look(look.generation, {**look.stamps, "model.safetensors": now}, young.changed_ns + 1_000_000)
    assert not run.verify(run.seal(checkpoint, same)).problems
    assert sealed_events(run)


def test_files_of_an_older_stamp_are_not_read(run: Run) -> None:
    settle(directory(run))
    checkpoint, look = newest(run), run.look(newest(run))
    later = Look(look.generation, look.stamps, look.taken_ns + 10**9)
    flip(directory(run) / "optimizer.pt")
    (directory(run) / "ema.pt").write_bytes(b"x")
    changes = run.repository.changes(checkpoint, later)
    assert changes.touched == ("ema.pt", "optimizer.pt")


def test_damage_from_before_the_look_is_not_sealed(run: Run) -> None:
    settle(directory(run))
    flip(directory(run) / "model.safetensors")
    settle(directory(run))
    checkpoint, look = newest(run), run.look(newest(run))
    later = Look(look.generation, look.stamps, look.taken_ns + 10**9)
    (directory(run) / "ema.pt").write_bytes(b"x")
    sealed = run.seal(checkpoint, later)
    assert [problem.path for problem in run.verify(sealed).problems] == ["model.safetensors"]


def test_without_an_optimizer_it_holds_weights(run: Run) -> None:
    checkpoint, before = newest(run), run.look(newest(run))
    (directory(run) / "optimizer.pt").unlink()
    sealed = run.seal(checkpoint, before)
    assert (sealed.kind, sealed.lost, sealed.name) == (Kind.WEIGHTS, ("optimizer.pt",), "checkpoint-4")
    assert sealed_events(run)[0]["removed"] == ["optimizer.pt"]
    assert [c.resumable for c in run.checkpoints] == [True, False]
    assert run.resume_point().checkpoint.step == 2


def test_with_its_optimizer_back_it_is_whole_again(run: Run) -> None:
    optimizer = directory(run) / "optimizer.pt"
    data = optimizer.read_bytes()
    optimizer.unlink()
    stripped = run.seal(newest(run))
    optimizer.write_bytes(data)
    whole = run.seal(stripped)
    assert (whole.kind, whole.lost) == (Kind.FULL, ())
    assert run.resume_point().checkpoint == whole


def test_the_last_weights_do_not_leave_the_manifest(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint, before = newest(run), run.look(newest(run))
    (directory(run) / "model.safetensors").unlink()
    assert run.seal(checkpoint, before) is checkpoint
    assert "no other weights are left" in caplog.text
    (directory(run) / "pytorch_model.bin").write_bytes(b"converted")
    assert [file.path for file in run.seal(checkpoint, before).files] == ["optimizer.pt", "pytorch_model.bin"]


def test_what_had_gone_before_the_look_stays_missing(run: Run) -> None:
    (directory(run) / "optimizer.pt").unlink()
    checkpoint, before = run.repository.listing().checkpoints[-1], run.look(newest(run))
    (directory(run) / "ema.pt").write_bytes(b"x")
    sealed = run.seal(checkpoint, before)
    assert (sealed.kind, run.verify(sealed).lost) == (Kind.FULL, ("optimizer.pt",))


def test_links_are_left_and_said(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint, before = newest(run), run.look(newest(run))
    (tmp_path / "elsewhere").write_bytes(b"secret")
    (directory(run) / "mine").symlink_to(tmp_path / "elsewhere")
    (directory(run) / "pytorch_model.bin").symlink_to(tmp_path / "elsewhere")
    assert run.seal(checkpoint, before) is checkpoint
    assert "mine is a link, and is not followed; it is not sealed" in caplog.text
    found = run.verify(checkpoint)
    assert [entry.path for entry in found.added] == ["mine"]
    assert [problem.path for problem in found.problems] == ["pytorch_model.bin"]


def test_an_adapter_s_directory_is_the_model_s_own(run: Run) -> None:
    checkpoint = newest(run)
    for name in ("adapter_model.safetensors", "best/adapter_model.safetensors", "best/adapter_config.json"):
        (directory(run) / name).parent.mkdir(exist_ok=True)
        (directory(run) / name).write_bytes(b"{}")
    first = run.seal(checkpoint)
    assert {file.path: file.by for file in first.files if "adapter" in file.path} == {
        "adapter_model.safetensors": "",
        "best/adapter_model.safetensors": "",
        "best/adapter_config.json": "",
    }


def test_large_files_are_sealed_by_their_chunks(run: Run) -> None:
    (directory(run) / "ema.pt").write_bytes(bytes(2 * CHUNK_BYTES + 5))
    sealed = run.seal(newest(run))
    assert [len(file.chunk_digests or ()) for file in sealed.files if file.path == "ema.pt"] == [3]
    assert run.verify(sealed).ok


def test_operating_systems_litter_is_not_sealed(run: Run) -> None:
    (directory(run) / ".DS_Store").write_bytes(b"x")
    (directory(run) / ".nfs01").write_bytes(b"x")
    (directory(run) / ".keepstep.json.abc.tmp").write_bytes(b"x")
    checkpoint = newest(run)
    assert run.seal(checkpoint) is checkpoint


def test_the_manifest_keeps_its_mode(run: Run) -> None:
    manifest_of(newest(run)).chmod(0o640)
    (directory(run) / "ema.pt").write_bytes(b"x")
    assert stat.S_IMODE(manifest_of(run.seal(newest(run))).stat().st_mode) == 0o640


def test_late_metrics_do_not_get_into_the_manifest(run: Run) -> None:
    run.record_metrics(2, {"late": 1.0})
    (directory(run) / "ema.pt").write_bytes(b"x")
    assert run.seal(newest(run)).metrics["late"] == 1.0
    assert "late" not in run.repository.read_manifest("checkpoint-4").metrics


def test_a_damaged_one_is_not_sound_for_a_seal_of_something_else(run: Run) -> None:
    flip(directory(run) / "model.safetensors")
    run.note_verified(run.verify(newest(run)))
    settle(directory(run))
    look = run.look(newest(run))
    later = Look(look.generation, look.stamps, look.taken_ns + 10**9)
    (directory(run) / "ema.pt").write_bytes(b"x")
    run.seal(newest(run), later)
    assert run.events.damaged() == {2}


def go(run: Run) -> None:
    shutil.rmtree(directory(run))


def be_saved_anew(run: Run) -> None:
    path = manifest_of(newest(run))
    other = run.repository.read_manifest("checkpoint-4")
    path.write_bytes(manifest.encode(type(other)(**{**_fields(other), "generation": 9})))


def _fields(checkpoint: Checkpoint) -> dict[str, object]:
    return {name: getattr(checkpoint, name) for name in checkpoint.__struct_fields__}


@pytest.mark.parametrize("become", [go, be_saved_anew])
def test_what_is_another_checkpoint_by_now_is_not_sealed(run: Run, become: Callable[[Run], None]) -> None:
    checkpoint = newest(run)
    become(run)
    with pytest.raises(CheckpointNotFound):
        run.seal(checkpoint)


def test_a_seal_needs_the_lock(run: Run) -> None:
    run.lock.release()
    (directory(run) / "ema.pt").write_bytes(b"x")
    with pytest.raises(KeepstepError, match="without its lock"):
        run.seal(newest(run))


class Growing(LocalStore):
    """A store in which somebody goes on writing to a file while it is read."""

    times = 1000

    def chunks(self, path: str, *, size: int, start: int = 0):  # type: ignore[no-untyped-def]
        if path.endswith("ema.pt") and self.times:
            self.times -= 1
            with open(self.local_path(path), "ab") as file:
                file.write(b"more")
        return super().chunks(path, size=size, start=start)


@pytest.mark.parametrize("times", [ATTEMPTS - 1, 1000])
def test_what_is_still_written_to_is_sealed_whole_or_not_at_all(run: Run, times: int) -> None:
    checkpoint = newest(run)
    (directory(run) / "ema.pt").write_bytes(b"x")
    store = Growing(run.path)
    store.times = times
    run.repository.store = store
    sealed = run.seal(checkpoint)
    stable = times < ATTEMPTS
    assert [file.path for file in sealed.files if file.by] == (["ema.pt"] if stable else [])
    found = run.verify(sealed)
    assert found.ok and [entry.path for entry in found.added] == ([] if stable else ["ema.pt"])


def change_everything(run: Run) -> None:
    (directory(run) / "ema.pt").write_bytes(b"average")
    (directory(run) / "merged").mkdir(exist_ok=True)
    (directory(run) / "merged" / "model.safetensors").write_bytes(b"merged")
    (directory(run) / "model.safetensors").write_bytes(b"v" * 900)


@pytest.mark.parametrize("moment", ["before", "half", "after"])
def test_a_disk_that_fails_leaves_one_of_the_two_manifests(tmp_path: Path, moment: str) -> None:
    run = make_run(tmp_path / "dry", {2: 0.5})
    run.begin_writing()
    change_everything(run)
    dry = Injector()
    run.repository.store = FaultyStore(run.path, dry)
    run.seal(newest(run))
    assert [operation for operation, _ in dry.changes].count("sync_file") == 4
    for at in range(1, len(dry.changes) + 1):
        run = make_run(tmp_path / str(at), {2: 0.5})
        run.begin_writing()
        change_everything(run)
        old = manifest_of(newest(run)).read_bytes()
        run.repository.store = FaultyStore(run.path, Injector(Fault(at, moment=moment)))  # type: ignore[arg-type]
        with pytest.raises(StorageError, match="could not be sealed"):
            run.seal(newest(run))
        run.repository.store = LocalStore(run.path)
        found = run.verify(newest(run))
        if manifest_of(newest(run)).read_bytes() == old:
            assert [problem.path for problem in found.problems] == ["model.safetensors"]
        else:
            assert (found.problems, found.added) == ((), ())
        assert run.verify(run.seal(newest(run))).problems == ()
        run.lock.release()
        run.begin_writing()
        assert list((run.path / ".keepstep" / "staging").iterdir()) == []


class FullDisk(LocalStore):
    def replace(self, path: str, data: bytes, *, workplace: str | None = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def test_without_room_for_the_manifest_the_old_one_stays(run: Run) -> None:
    checkpoint, data = newest(run), manifest_of(newest(run)).read_bytes()
    (directory(run) / "ema.pt").write_bytes(b"x")
    run.repository.store = FullDisk(run.path)
    with pytest.raises(StorageError) as raised:
        run.seal(checkpoint)
    assert raised.value.is_full and manifest_of(checkpoint).read_bytes() == data
    assert run.verify(checkpoint).ok and sealed_events(run) == []
