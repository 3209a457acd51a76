"""One mirror, and several who would send to it: a training, the one before it, another machine, somebody by hand."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keepstep.checkpointer import Checkpointer, Facts, courier, mirroring
from keepstep.checkpointer.courier import Courier
from keepstep.cli.main import main
from keepstep.errors import MirrorUnavailable
from keepstep.mirror import NotesSender, Progress, Writer, open_mirror, push, read_notes
from keepstep.operations.doctor import examine_run
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.operations.seeing.mirrored import Standing
from keepstep.run import MirrorNotes, Run, read_note
from tests.mirror.gate import Gate, seen, told, until
from tests.operations.runs import make_run, write


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="keepstep")


def steps(url: Path) -> list[int]:
    return [record.checkpoint.step for record in open_mirror(url).records()]


def sends(run: Run, url: Path) -> Courier:
    return Courier(run, open_mirror(url), None, None, lambda: None)


def note_of(run: Run) -> Path:
    return run.path / ".keepstep" / "mirrored.json"


def test_a_sync_leaves_the_mirror_to_the_training_that_sends(tmp_path: Path) -> None:
    path, url = tmp_path / "run", tmp_path / "mirror"
    with Checkpointer(path, "latest:1", mirror=url, mirror_keep="all") as training:
        training.begin("auto")
        for step in (1, 2):
            training.save(Facts(step), write)
            until(lambda step=step: steps(url)[:1] == [step])
        refused = call("mirror", "sync", path, url)
        assert refused.exit_code == 5 and "sends to" in refused.output and "keepstep stop" in refused.output
        assert call("mirror", "sync", path, url, "--dry-run").exit_code == 0
        training.save(Facts(3), write)
    assert steps(url) == [3, 2, 1] and told(path, "mirror_lost") == []
    done = call("mirror", "sync", path, url)
    assert done.exit_code == 0 and steps(url) == [3, 2, 1], "what mirror_keep keeps"
    with Checkpointer(path, "latest:1") as training:
        training.begin("auto")
        training.save(Facts(4), write)
        now = seen(path)
        assert now.standing is Standing.BEHIND and not now.serves, "this training sends nothing"
        way = f"keepstep mirror sync {path} {url} --keep all"
        finding = next(one for one in examine_run(Run.open(path)).findings if one.rule.id == "W709")
        assert "this training does not mirror" in finding.what and way in finding.what
        assert call("mirror", "sync", path, url).exit_code == 0 and steps(url) == [4, 3, 2, 1]


def test_what_a_deadline_leaves_is_sent_by_what_the_mirror_keeps(
    tmp_path: Path, gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "my run"
    training = Checkpointer(path, "all", mirror=tmp_path / "mirror", mirror_keep="best:3,latest:1", mirror_wait="1ms")
    training.begin("auto")
    training.save(Facts(1), write)
    training.close()
    assert f"keepstep mirror sync '{path}' {tmp_path / 'mirror'} --keep best:3,latest:1" in caplog.text
    gate.through.set()


def test_a_good_sync_ends_the_trouble(tmp_path: Path) -> None:
    run, url = make_run(tmp_path / "run", {1: 0.5}), tmp_path / "mirror"
    for _ in range(2):
        assert call("mirror", "sync", run.path, url).exit_code == 0
    notes = MirrorNotes(run.store, str(url), run.id)
    notes.begin()
    notes.down("no answer")
    assert call("mirror", "sync", run.path, url).exit_code == 0
    assert seen(run.path).up and seen(run.path).standing is Standing.WHOLE


def test_the_policy_of_the_session_is_there_before_the_mirror_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = make_run(tmp_path / "run", {1: 0.5}, keep="all").path, list[str]()

    class Looks(Courier):
        def __init__(self, run: Run, *terms: object) -> None:
            found.append(str(Run.open(run.path).policy))
            super().__init__(run, *terms)  # type: ignore[arg-type]

    monkeypatch.setattr(mirroring, "Courier", Looks)
    with Checkpointer(path, "latest:2", mirror=tmp_path / "mirror") as training:
        training.begin("auto")
        assert found == [str(training.policy)]


def test_a_run_that_is_about_to_go_aside_takes_no_mirror(tmp_path: Path) -> None:
    other, old = make_run(tmp_path / "other", {5: 0.5}), make_run(tmp_path / "run", {1: 0.5})
    url = tmp_path / "mirror"
    with Checkpointer(old.path, "all", fresh="new-run", mirror=url) as training:
        training.begin(str(other.find(5).path), settle=False)
        time.sleep(0.5)
        training.settle()
        training.save(Facts(6), write)
        now = training.run.id
    assert now != old.id and open_mirror(url).run_id() == now and steps(url) == [6]


def test_who_is_left_writes_no_note_any_more(tmp_path: Path, gate: type[Gate]) -> None:
    run = make_run(tmp_path / "run", {1: 0.5})
    earlier = sends(run, tmp_path / "mirror")
    assert gate.busy.wait(60)
    earlier.leave()
    before = note_of(run).read_bytes()
    gate.through.set()
    assert earlier.wait(60)
    assert note_of(run).read_bytes() == before
    first, second = (MirrorNotes(run.store, "s3://a/b", run.id) for _ in range(2))
    first.begin()
    second.begin()
    first.down("an old one")
    note = read_note(run.store)
    assert note is not None and note.trouble == "" and not list(note_of(run).parent.glob(".mirrored.json.*"))


def test_who_is_left_tells_no_outage_any_more(tmp_path: Path, gate: type[Gate]) -> None:
    run = make_run(tmp_path / "run", {1: 0.5})
    earlier = sends(run, tmp_path / "mirror")
    assert gate.busy.wait(60)
    earlier.leave()
    gate.up.clear()
    gate.through.set()
    assert earlier.wait(60) and told(run.path, "mirror_down") == []


@pytest.mark.parametrize("over", [True, False])
def test_who_is_taken_over_after_its_end_says_nothing_of_the_run(
    tmp_path: Path, gate: type[Gate], *, over: bool
) -> None:
    run, url = make_run(tmp_path / "run", {1: 0.5}), tmp_path / "mirror"
    training = sends(run, url)
    assert gate.busy.wait(60)
    if over:
        training.hurry()
        training.relax()
    Writer.claim(open_mirror(url), run.id)
    gate.through.set()
    until(lambda: (training.wait(1) and not training.behind) or training._over)
    note = read_note(run.store)
    assert note is not None and note.lost is not over and len(told(run.path, "mirror_lost")) == (not over)


def test_any_error_that_ends_the_mirroring_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a damaged thing")

    run = make_run(tmp_path / "run", {1: 0.5})
    monkeypatch.setattr(courier, "plan_mirror", fails)
    sends(run, tmp_path / "mirror")
    until(lambda: told(run.path, "mirror_lost"), 10)
    assert told(run.path, "mirror_lost")[0]["why"] == "a damaged thing"
    assert seen(run.path).standing is Standing.LOST


def _nobody_waits(training: Courier, run: Run) -> None:
    training.hurry()
    training.relax()


def _another_trains(training: Courier, run: Run) -> None:
    other = Run.open(run.path)
    other.lock.acquire()
    training.hurry()


def _another_is_there(training: Courier, run: Run) -> None:
    other = make_run(run.path.with_name("other"), {1: 0.5})
    os.rename(run.path, run.path.with_name("before"))
    os.rename(other.path, run.path)
    run.events.append("committed", generation=9, step=9)


@pytest.mark.parametrize("happens", [_nobody_waits, _another_trains, _another_is_there])
def test_who_comes_too_late_claims_nothing(
    tmp_path: Path, gate: type[Gate], happens: Callable[[Courier, Run], None]
) -> None:
    run, url = make_run(tmp_path / "run", {1: 0.5}), tmp_path / "mirror"
    gate.up.clear()
    gate.through.set()
    training = sends(run, url)
    until(lambda: seen(run.path).standing is Standing.DOWN)
    happens(training, run)
    if happens is not _another_is_there:
        gate.up.set()
    assert training.wait(20) and training.behind
    assert not list(url.glob("writers/*")) and told(run.path, "mirror_skipped") == []


class _NoNotes(Gate):
    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        if key.startswith("events/") and not self.busy.is_set():
            raise MirrorUnavailable("no notes for now")
        super().put(key, pieces, size)


def test_late_metrics_that_did_not_go_are_tried_again(
    tmp_path: Path, gate: type[Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", {1: 0.5})
    gate.through.set()
    assert call("mirror", "sync", run.path, tmp_path / "mirror").exit_code == 0
    run.record_metrics(1, {"judge": 7.0})
    gate.busy.clear()
    monkeypatch.setattr("keepstep.mirror.mirror.DirectoryObjects", _NoNotes)
    training = sends(run, tmp_path / "mirror")
    until(lambda: told(run.path, "mirror_down"), 10)
    gate.busy.set()
    assert training.wait(60) and told(run.path, "mirror_up")
    assert read_notes(open_mirror(tmp_path / "mirror")).late[1]["judge"] == 7.0


def test_a_disk_that_fails_for_a_while_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        @staticmethod
        def open(path: Path) -> Run:
            if not mended:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return Run.open(path)

    run, mended = make_run(tmp_path / "run", {1: 0.5}), list[bool]()
    monkeypatch.setattr(courier, "Run", Fails)
    training = sends(run, tmp_path / "mirror")
    until(lambda: told(run.path, "mirror_down"), 10)
    mended.append(True)
    assert training.wait(60) and not training.behind and seen(run.path).standing is Standing.WHOLE


@pytest.mark.parametrize("sent", [True, False])
def test_a_mirror_that_was_emptied_gets_its_notes_back(tmp_path: Path, *, sent: bool) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), open_mirror(tmp_path / "mirror")
    run.record_metrics(1, {"judge": 7.0})
    run.pin_board.pin(1)
    writer = Writer.claim(mirror, run.id)
    notes = NotesSender(writer, run.store)
    notes.send(run.pins)
    before = read_notes(mirror)
    mirror.objects.delete([item.key for item in list(mirror.objects.list(""))])
    if sent:
        push(writer, run.store, run.find(20), "checkpoint-20", Progress(run.store, mirror.url))
    else:
        run.pin_board.pin(2)
    notes.send(run.pins)
    assert read_notes(mirror).lines == before.lines and read_notes(mirror).pins == run.pins


def test_pins_of_what_is_not_here_stay_in_the_mirror(tmp_path: Path) -> None:
    there, url = make_run(tmp_path / "there", {10: 0.5}), tmp_path / "mirror"
    shutil.copytree(there.path, tmp_path / "here")
    with Checkpointer(there.path, there.policy) as training:
        training.begin("auto")
        for step in (20, 30):
            training.save(Facts(step), write)
    there = Run.open(there.path)
    for generation in (1, 2):
        there.pin_board.pin(generation)
    there.pin_board.tag(2, "good")
    mirror = open_mirror(url)
    sync(there, mirror, there.policy, plan_mirror(there, mirror, (), there.policy))
    bring(mirror, plan_pull(mirror, tmp_path / "here", "latest"))
    here = Run.open(tmp_path / "here")
    assert [c.generation for c in here.checkpoints] == [1, 3]
    sync(here, mirror, here.policy, plan_mirror(here, mirror, mirror.records(), here.policy))
    pins = read_notes(mirror).pins
    assert pins.names(2) == ("good",) and pins.pinned == {2}, "of what is here counts what is said here"


def test_a_part_that_is_sent_again_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    notes = MirrorNotes(run.store, "s3://a/b", run.id)
    notes.sends(run.find(10))
    notes.advance(900)
    notes.advance(900)
    assert notes.note.sending is not None and notes.note.sending.sent_bytes == 1000
