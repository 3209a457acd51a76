"""A training with a mirror, without a Trainer: it is behind by nothing at the end, and holds nothing up meanwhile."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import MirrorUnavailable, SettingsError
from keepstep.mirror import DirectoryObjects, Writer, open_mirror
from keepstep.run import Run
from tests.mirror import servers
from tests.operations.runs import write


def _train(path: Path, *steps: int, keep: str = "all", **options: object) -> Checkpointer:
    checkpointer = Checkpointer(path, keep, **options)  # type: ignore[arg-type]
    checkpointer.begin("auto")
    for step in steps:
        checkpointer.save(Facts(step, metrics={"eval_loss": 1 / step}), write)
    checkpointer.close()
    return checkpointer


def _steps(address: object) -> list[int]:
    return [record.checkpoint.step for record in open_mirror(str(address)).records()]


def test_what_is_committed_is_there_at_the_end_and_comes_to_an_empty_machine(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    _train(tmp_path / "run", 10, 20, mirror=address)
    assert _steps(address) == [20, 10]
    first = Run.open(tmp_path / "run")
    assert [e["step"] for e in first.events.read() if e["event"] == "mirrored"].count(20) == 1
    shutil.rmtree(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        _train(tmp_path / "run", 30, mirror=address, mirror_keep="latest:2")
    run = Run.open(tmp_path / "run")
    assert run.id == first.id and [(c.step, c.generation, c.parent) for c in run.checkpoints] == [
        (20, 2, 1),
        (30, 3, 2),
    ]
    assert _steps(address) == [30, 20]
    assert f"Step 20 comes from the mirror {open_mirror(address).url} (1.0 kB)" in caplog.text
    assert run.checkpoints[0].metrics == {"eval_loss": 0.05}
    # What is newer here wins.
    _train(tmp_path / "run", 40, mirror=address)
    assert [c.step for c in Run.open(tmp_path / "run").checkpoints] == [20, 30, 40]


class _Held(DirectoryObjects):
    """A place where nothing arrives until it is let through."""

    busy, through = threading.Event(), threading.Event()

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        self.busy.set()
        assert self.through.wait(120)
        super().put(key, pieces, size)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> type[_Held]:
    _Held.busy.clear()
    _Held.through.clear()
    monkeypatch.setattr("keepstep.mirror.mirror.DirectoryObjects", _Held)
    return _Held


def test_a_mirror_holds_no_save_up_and_what_is_replaced_meanwhile_is_never_sent(
    tmp_path: Path, held: type[_Held]
) -> None:
    checkpointer = Checkpointer(tmp_path / "run", "latest:1", mirror=tmp_path / "mirror")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    assert held.busy.wait(120)
    for step in range(2, 13):
        checkpointer.save(Facts(step), write)
    # The one that is being sent stays until it is.
    assert "being mirrored" in checkpointer.run.plan().reasons(1)
    assert [c.step for c in checkpointer.run.checkpoints] == [1, 12]
    held.through.set()
    checkpointer.close()
    assert [e["step"] for e in Run.open(tmp_path / "run").events.read() if e["event"] == "mirrored"] == [1, 12]
    assert _steps(tmp_path / "mirror") == [12]


class _Down(DirectoryObjects):
    """A place that does not answer until it is said to be up."""

    up, asked = threading.Event(), threading.Event()

    def create(self, key: str, data: bytes) -> bool:
        if not self.up.is_set():
            self.asked.set()
            raise MirrorUnavailable("no answer from the place")
        return super().create(key, data)


def test_an_outage_is_said_once_and_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _Down.up.clear()
    _Down.asked.clear()
    monkeypatch.setattr("keepstep.mirror.mirror.DirectoryObjects", _Down)
    checkpointer = Checkpointer(tmp_path / "run", "all", mirror=tmp_path / "mirror")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    assert _Down.asked.wait(120)
    end = time.monotonic() + 120
    while "mirror_down" not in [e["event"] for e in checkpointer.run.events.read()]:
        assert time.monotonic() < end
        time.sleep(0.01)
    checkpointer.save(Facts(2), write)
    _Down.up.set()
    checkpointer.close()
    assert _steps(tmp_path / "mirror") == [2, 1]
    assert caplog.text.count("The mirror is behind") == caplog.text.count("The mirror answers again") == 1
    names = [e["event"] for e in Run.open(tmp_path / "run").events.read()]
    assert names.count("mirror_down") == names.count("mirror_up") == 1


def test_the_end_waits_no_longer_than_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _Down.up.clear()
    monkeypatch.setattr("keepstep.mirror.mirror.DirectoryObjects", _Down)
    _train(tmp_path / "run", 1, mirror=tmp_path / "mirror", mirror_wait="1s")
    assert "The mirror lacks step 1 (1.0 kB): no answer from the place." in caplog.text
    assert f"keepstep mirror sync {tmp_path / 'run'} {tmp_path / 'mirror'}" in caplog.text
    assert [c.step for c in Run.open(tmp_path / "run").checkpoints] == [1]
    _Down.up.set()


def test_a_mirror_that_is_down_at_the_start_is_said_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = tmp_path / "not-mounted" / "mirror"
    _train(tmp_path / "run", 1, mirror=address, mirror_wait="1ms")
    assert caplog.text.count("The mirror can't be asked, and it begins without") == 1
    with pytest.raises(MirrorUnavailable, match="is not there"):
        Checkpointer(tmp_path / "other", "all", mirror=address, mirror_required=True).begin("auto")
    assert not (tmp_path / "other").exists()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers.free_port()}")
    for wrong in ("ftp://x/y", "nonsense://"):
        with pytest.raises(SettingsError):
            Checkpointer(tmp_path / "run", "all", mirror=wrong)


def test_a_later_writer_ends_the_mirroring_and_not_the_training(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = Checkpointer(tmp_path / "run", "all", mirror=address)
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    mirror = open_mirror(address)
    end = time.monotonic() + 60
    while _steps(address) != [1]:
        assert time.monotonic() < end
        time.sleep(0.05)
    Writer.claim(mirror, checkpointer.run.id)
    checkpointer.save(Facts(2), write)
    checkpointer.close()
    assert _steps(address) == [1]
    assert "Nothing is mirrored any more" in caplog.text and "taken over by a later writer" in caplog.text
    assert [c.step for c in Run.open(tmp_path / "run").checkpoints] == [1, 2]


def test_a_mirror_of_another_run_is_left_alone(tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture) -> None:
    _train(tmp_path / "one", 1, mirror=address)
    _train(tmp_path / "two", 2)
    _train(tmp_path / "two", 3, mirror=address)
    assert _steps(address) == [1]
    assert "holds another run" in caplog.text and "is the mirror of run" in caplog.text
    assert [c.step for c in Run.open(tmp_path / "two").checkpoints] == [2, 3]


def test_what_was_there_before_goes_too_and_the_newest_first(tmp_path: Path) -> None:
    _train(tmp_path / "run", 1, 2, 3)
    _train(tmp_path / "run", mirror=tmp_path / "mirror")
    sent = [e["step"] for e in Run.open(tmp_path / "run").events.read() if e["event"] == "mirrored"]
    assert sent == [3, 2, 1]
