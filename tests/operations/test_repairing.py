"""Repairing a run's records: what is found, what is rebuilt of it, what is kept, and that no checkpoint is touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.errors import KeepstepError, LayoutTooNew, RunLocked, RunNotFound
from keepstep.operations import pinning
from keepstep.operations.repairing import Repair, RepairChanged, plan_repair, repair
from keepstep.operations.seeing.chronicle import Chronicle
from keepstep.run import Run
from keepstep.stores import LocalStore
from tests.small_run import assert_sound, litter, make_checkpointer, make_run, save, steps

DAMAGED = [b"", b"{", b"\xff\xfe", b"\0" * 300]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """2 and 6 of the course, 4 is pinned and tagged, 8 lies aside."""
    path = tmp_path / "run"
    made = make_run(path, 2, 4, 8)
    pinning.tag(made, 4, "good")
    pinning.pin(made, 4)
    checkpointer = make_checkpointer(path, keep="best:3:full,latest:2")
    checkpointer.begin(4)
    save(checkpointer, 6, 0.1)
    checkpointer.log(5, {"loss": 1.0})
    checkpointer.log(6, {"loss": 0.5})
    checkpointer.close()
    return Run.open(path)


def found(run: Run) -> dict[str, str]:
    return {record.key.removeprefix(".keepstep/"): record.what for record in plan_repair(run.path).damaged}


def mended(run: Run) -> Repair:
    done = repair(plan_repair(run.path))
    assert plan_repair(run.path).damaged == ()
    now = Run.open(run.path)
    assert (now.id, steps(now), [c.step for c in now.aside]) == (run.id, [2, 4, 6], [8])
    assert_sound(now)
    assert litter(run.path) == []
    return done


def events(run: Run) -> list[str]:
    return [event["event"] for event in run.events.read()]


def test_a_sound_run_has_nothing_to_repair(run: Run) -> None:
    assert plan_repair(run.path).damaged == ()


def test_looking_writes_nothing(run: Run) -> None:
    (run.path / layout.RUN).unlink()
    (run.path / layout.PINS).write_bytes(b"{")
    before = sorted(str(path) for path in run.path.rglob("*"))
    plan_repair(run.path)
    assert sorted(str(path) for path in run.path.rglob("*")) == before


@pytest.mark.parametrize("data", DAMAGED)
def test_a_run_file(run: Run, data: bytes) -> None:
    file = run.path / layout.RUN
    file.write_bytes(data)
    assert "is damaged" in found(run)["run.json"]
    done = mended(run)
    (kept,) = done.kept
    assert kept.startswith(f"{layout.RUN}.damaged-") and (run.path / kept).read_bytes() == data
    assert Run.open(run.path).policy == run.policy


def test_a_run_file_that_was_edited_into_nonsense_is_kept_and_rebuilt(run: Run) -> None:
    file = run.path / layout.RUN
    fields = json.loads(file.read_bytes())
    file.write_text(json.dumps({**fields, "keep": 7}))
    with pytest.raises(KeepstepError, match="is damaged") as caught:
        Run.open(run.path)
    assert f"keepstep repair {run.path}" in caught.value.hint
    mended(run)


def test_a_run_file_of_a_newer_keepstep_is_no_damage(run: Run) -> None:
    (run.path / layout.RUN).write_bytes(b'{"format": 2, "run_id": "0"}')
    with pytest.raises(LayoutTooNew):
        plan_repair(run.path)


def test_without_any_manifest_there_is_nothing_to_repair_from(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        plan_repair(tmp_path)


def test_torn_lines_of_the_log_go_and_the_others_stay(run: Run) -> None:
    log = run.path / layout.EVENTS
    whole = log.read_bytes()
    before = events(run)
    log.write_bytes(b"\xff\xff\n" + whole + b'{"event": "met')
    assert found(run)["events.jsonl"].startswith("2 of ")
    done = mended(run)
    assert events(Run.open(run.path)) == [*before, "repaired"]
    assert (run.path / done.kept[0]).read_bytes().startswith(b"\xff\xff\n" + whole)


@pytest.mark.parametrize("how", ["gone", "empty", "garbage", "a directory", "a link"])
def test_a_lost_log_is_rebuilt_as_far_as_manifests_know(run: Run, how: str, tmp_path: Path) -> None:
    log = run.path / layout.EVENTS
    log.unlink()
    if how == "empty":
        log.touch()
    elif how == "garbage":
        log.write_bytes(os.urandom(999).replace(b"\n", b"."))
    elif how == "a directory":
        log.mkdir()
    elif how == "a link":
        log.symlink_to(tmp_path)
    done = mended(run)
    now = Run.open(run.path)
    *commits, last = now.events.read()
    assert [(e["event"], e["generation"], e["rebuilt"]) for e in commits] == [
        ("committed", g, True) for g in (1, 2, 3, 4)
    ]
    assert [e["parent"] for e in commits] == [None, 1, 2, 2]
    assert last["event"] == "repaired"
    assert len(done.kept) == (how != "gone")
    assert now.next_generation() == 5
    assert set(Chronicle(now).read().commits) == {1, 2, 3, 4}


def test_commits_that_the_log_lost_are_put_in_at_their_time(run: Run) -> None:
    log = run.path / layout.EVENTS
    lines = [line for line in log.read_bytes().splitlines() if line]
    kept = [line for line in lines if b'"committed"' not in line or b'"generation":2,' not in line]
    assert len(kept) == len(lines) - 1
    log.write_bytes(b"\n".join(kept) + b"\n")
    assert found(run)["events.jsonl"] == "1 commit that manifests know is not in it"
    mended(run)
    commits = [e["generation"] for e in Run.open(run.path).events.read() if e["event"] == "committed"]
    assert commits == [1, 2, 3, 4]


@pytest.mark.parametrize("data", [None, *DAMAGED])
def test_pins_come_from_the_events(run: Run, data: bytes | None) -> None:
    file = run.path / layout.PINS
    file.unlink() if data is None else file.write_bytes(data)
    mended(run)
    pins = Run.open(run.path).pins
    assert (pins.pinned, pins.tags) == ({2}, {"good": 2})


def test_pins_without_events_are_said_to_be_lost(run: Run) -> None:
    (run.path / layout.PINS).write_bytes(b"{")
    (run.path / layout.EVENTS).unlink()
    (record,) = [one for one in plan_repair(run.path).damaged if one.key == layout.PINS]
    assert record.lost == "pins and tags: no event names any"
    mended(run)
    assert Run.open(run.path).pins.held == frozenset()


def test_pins_are_handed_over_to_what_was_saved_again(run: Run) -> None:
    checkpointer = make_checkpointer(run.path)
    checkpointer.begin(4)
    save(checkpointer, 4, 0.2)
    checkpointer.close()
    pins = Run.open(run.path).pins
    (run.path / layout.PINS).write_bytes(b"{")
    repair(plan_repair(run.path))
    assert Run.open(run.path).pins == pins


def test_curves(run: Run) -> None:
    curves = run.path / layout.METRICS
    whole = curves.read_bytes()
    curves.write_bytes(whole + b'{"kind": "poi')
    assert found(run)["metrics.jsonl"].startswith("1 of ")
    mended(run)
    assert curves.read_bytes().split() == whole.split()


def test_links(run: Run) -> None:
    with run.writing():
        run.switch_links(True)
    names = (run.path / layout.LINKS).read_bytes()
    (run.path / layout.LINKS).write_bytes(b"{")
    mended(run)
    assert json.loads((run.path / layout.LINKS).read_bytes()) == json.loads(names)
    assert os.readlink(run.path / "latest") == "checkpoint-6"


@pytest.mark.parametrize("key", [layout.REWIND, layout.RETURN, layout.SWAP])
def test_an_intent_that_can_not_be_read(run: Run, key: str) -> None:
    (run.path / key).write_bytes(b"x")
    with pytest.raises(KeepstepError, match="damaged"), run.writing():
        pass
    done = mended(run)
    assert [name.startswith(f"{key}.damaged-") for name in done.kept] == [True]


def test_an_intent_that_can_be_read_is_carried_out(run: Run) -> None:
    (run.path / layout.REWIND).write_bytes(b"2 2\n")
    (record,) = plan_repair(run.path).damaged
    assert record.what == "a rewind was under way"
    repair(plan_repair(run.path))
    assert steps(Run.open(run.path)) == [2, 4]


def test_what_killed_processes_left(run: Run) -> None:
    (run.path / layout.STAGING / "abc").mkdir(parents=True)
    (run.path / layout.TRASH / "abc").mkdir(parents=True)
    (run.path / layout.OWNER).write_bytes(b'{"pid": 1')
    assert set(found(run)) == {"staging", "trash", "owner.json"}
    mended(run)


def test_all_of_it_is_gone(run: Run) -> None:
    shutil.rmtree(run.path / layout.META)
    done = repair(plan_repair(run.path))
    now = Run.open(run.path)
    assert (now.id, steps(now), done.kept) == (run.id, [2, 4, 6], ())
    assert now.policy == run.policy
    assert plan_repair(run.path).damaged == ()


def test_what_is_no_directory_is_for_a_person(run: Run) -> None:
    shutil.rmtree(run.path / layout.META)
    (run.path / layout.META).write_bytes(b"mine")
    (record,) = plan_repair(run.path).damaged
    assert (record.key, record.mendable, record.what) == (layout.META, False, "is a file, and no directory")


def test_it_is_refused_while_a_training_runs(run: Run) -> None:
    (run.path / layout.PINS).write_bytes(b"{")
    shown = plan_repair(run.path)
    with Run.open(run.path).writing(), pytest.raises(RunLocked):
        repair(shown)


def test_what_changed_after_it_was_shown_is_not_done(run: Run) -> None:
    (run.path / layout.PINS).write_bytes(b"{")
    shown = plan_repair(run.path)
    (run.path / layout.METRICS).write_bytes(b"{")
    with pytest.raises(RepairChanged):
        repair(shown)
    assert (run.path / layout.PINS).read_bytes() == b"{"


def test_where_there_are_no_hard_links_a_copy_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.stores.local.LocalStore.link", lambda *_: False)
    (run.path / layout.PINS).write_bytes(b"{half")
    done = mended(run)
    assert (run.path / done.kept[0]).read_bytes() == b"{half"


def test_what_others_log_meanwhile_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pin needs no lock: its event may come between the reading of the log and its replacement."""
    log = run.path / layout.EVENTS
    log.write_bytes(log.read_bytes() + b"torn\n")
    replace = LocalStore.replace

    def late(self: LocalStore, path: str, data: bytes, **more: str | None) -> None:
        if path == layout.EVENTS:
            with log.open("ab") as file:
                file.write(b'\n{"event":"pinned","step":8,"generation":3}\n')
        replace(self, path, data, **more)

    monkeypatch.setattr("keepstep.stores.local.LocalStore.replace", late)
    repair(plan_repair(run.path))
    assert [e["generation"] for e in run.events.read() if e["event"] == "pinned"] == [2, 3]
    assert plan_repair(run.path).damaged == ()
