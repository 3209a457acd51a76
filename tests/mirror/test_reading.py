"""Commands and the library straight on a mirror: they say what they say of the run, and little travels."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import keepstep
from keepstep.cli.main import main
from keepstep.errors import CheckpointCorrupt, NotAtHome
from keepstep.mirror import Mirror, MirrorRun, RecordCache, open_mirror
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.retention import Policy
from keepstep.run import Run
from tests.cli.conftest import Call, call
from tests.mirror.counting import CountingObjects
from tests.operations.runs import LOSS, flip, make_run

__all__ = ["call"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def mirrored(run: Run, address: str | Path) -> Mirror:
    mirror = open_mirror(address)
    policy = Policy.from_spec("all", LOSS)
    sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))
    return mirror


def test_what_is_said_of_a_mirror_is_what_is_said_of_its_run(tmp_path: Path, address: str, call: Call) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.3, 30: 0.4})
    run = make_run(tmp_path / "run", {40: 0.6})
    run.record_metrics(run.find(40).generation, {"eval_loss": 0.1})
    run.pin_board.pin(run.find(20).generation)
    run.pin_board.tag(run.find(20).generation, "good")
    mirrored(run, address)

    def rows(name: object) -> list[dict[str, object]]:
        said = call("ls", name, "--format", "json")
        assert said.exit_code == 0, said.stderr
        return [{k: v for k, v in row.items() if k != "path"} for row in json.loads(said.stdout)]

    assert rows(address) == rows(run.path)
    said = call("ls", address, "--sort", "metric", "--limit", "1")
    assert "a mirror, of run" in said.stderr and said.stdout.splitlines()[1].split()[:3] == ["40", "0.40", "0.1"]
    shown = json.loads(call("show", address, "good", "--format", "json").stdout)
    assert (shown["step"], shown["tags"], [f["path"] for f in shown["files"]]) == (
        20, ["good"], ["model.safetensors", "optimizer.pt"],
    )  # fmt: skip
    home = open_mirror(address).find("20").home
    assert shown["path"] == f"{open_mirror(address).url}/{home}"
    said = call("best", address)
    assert said.exit_code == 0 and said.stdout.strip().endswith(open_mirror(address).find("40").home)
    assert f"bring it here: keepstep mirror pull {open_mirror(address).url} DIR gen:4" in said.stderr
    said = json.loads(call("resume", address, "--format", "json").stdout)
    assert (said["step"], said["pull"]) == (40, f"keepstep mirror pull {open_mirror(address).url} DIR gen:4")
    assert "every byte of 4.0 kB is as written" in call("verify", address).stdout
    used = json.loads(call("du", address, "--format", "json").stdout)["runs"][0]
    assert used["path"] == open_mirror(address).url and used["disk"] is None and used["litter"] == []
    assert [share["optimizer_bytes"] for share in used["by_checkpoint"]] == [100] * 4
    found = keepstep.open_run(address)
    assert isinstance(found, MirrorRun) and found.best is not None and found.best.step == 40


def test_what_would_write_names_what_does(tmp_path: Path, call: Call) -> None:
    mirror = mirrored(make_run(tmp_path / "run", {10: 0.5}), tmp_path / "mirror")
    for words in (["prune", "@"], ["thin", "@", "10"], ["pin", "@", "10"], ["tag", "@", "10", "x"], ["reseal", "@"],
                  ["restore", "@"], ["save-now", "@"], ["verify", "@", "--quarantine"],
                  ["mirror", "sync", "@", tmp_path / "other"]):  # fmt: skip
        said = call(*(mirror.url if word == "@" else word for word in words))
        assert said.exit_code == 2 and f"keepstep mirror prune {mirror.url}" in said.stderr, (words, said.stderr)
    for words in (["ls", f"file://{mirror.url}", tmp_path / "run"], ["du", mirror.url, tmp_path / "run"]):
        assert "is a mirror: name it alone" in call(*words).stderr
    run = keepstep.open_run(mirror.url)
    for act in (lambda: run.pin_board.pin(1), lambda: run.store.make_directory("x"), run.settle, run.begin_writing):
        with pytest.raises(NotAtHome):
            act()


def test_each_failure_has_a_way_out(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    said = call("ls", f"file://{tmp_path}/nothing")
    assert said.exit_code == 3 and f"keepstep mirror sync RUN {tmp_path}/nothing" in said.stderr
    said = call("ls", "ftp://there/x")
    assert said.exit_code == 2 and "Known are s3://" in said.stderr
    said = call("metrics", "s3://there/x")
    assert said.exit_code == 2 and "read a mirror: keepstep ls s3://there/x" in said.stderr
    monkeypatch.setattr("keepstep.mirror.bucket_objects.find_spec", lambda name: None)
    said = call("show", "s3://there/x", "best")
    assert said.exit_code == 2 and 'pip install "keepstep[s3]"' in said.stderr


def test_damage_there_is_told_and_passed_over(tmp_path: Path, call: Call) -> None:
    mirror = mirrored(make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), tmp_path / "mirror")
    flip(next((tmp_path / "mirror" / "data").glob("00000002-*/model.safetensors")))
    said = call("verify", mirror.url)
    assert said.exit_code == 1 and "model.safetensors has other bytes than were committed" in said.stdout
    assert f"keepstep mirror verify {mirror.url} --drop" in said.stdout
    next((tmp_path / "mirror" / "data").glob("00000002-*/optimizer.pt")).write_bytes(b"o")
    said = call("resume", mirror.url)
    assert said.exit_code == 0 and "step 10" in said.stderr and "has 1 of 100 bytes in the mirror" in said.stderr
    run = keepstep.open_run(mirror.url)
    assert run.find("best").step == 20
    with run.at_hand(lambda: _at(tmp_path / "here")), pytest.raises(CheckpointCorrupt):
        run.bring(run.find("best"), run.find("best").files)
    assert run.find("best").step == 10, "what is known to be damaged ranks no more"


def _at(path: Path):
    from contextlib import nullcontext

    path.mkdir()
    return nullcontext(path)


def test_late_metrics_pins_and_tags_travel(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    run.record_metrics(1, {"eval_loss": 0.1, "judge": 7.0})
    run.pin_board.pin(1)
    run.pin_board.tag(2, "good")
    run.events.append("verified", generation=1, ok=True)
    mirrored(run, address)
    there = tmp_path / "there"
    mirror = open_mirror(address)
    bring(mirror, plan_pull(mirror, there, "best"))
    came = Run.open(there)
    assert [c.step for c in came.checkpoints] == [10] and came.checkpoints[0].metrics["judge"] == 7.0
    assert came.pins == run.pins and came.id == run.id and not came.events.verified()
    assert sum(e["event"] == "run" for e in came.events.read()) == 1
    # A second one comes into the run; what is said here counts.
    came.record_metrics(2, {"eval_loss": 0.2})
    came.pin_board.unpin(2)
    bring(mirror, plan_pull(mirror, there, "20"))
    came = Run.open(there)
    assert came.find(20).metrics["eval_loss"] == 0.2 and came.pins.names(2) == ("good",)
    text = b"".join(mirror.objects.read(item.key, limit=10**6) for item in mirror.objects.list("events"))
    assert b'"verified"' not in text and b'"mirrored"' not in text


def test_notes_are_sent_when_they_changed_and_late_metrics_are_never_lost(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    objects = CountingObjects(open_mirror(tmp_path / "mirror").objects)
    policy = Policy.from_spec("all", LOSS)

    def go() -> int:
        mirror = Mirror(objects)
        plan = plan_mirror(run, mirror, mirror.records(), policy)
        objects.reset()
        sync(run, mirror, policy, plan)
        return objects.requests["PUT"]

    go()
    idle = go()
    assert go() == idle, "nothing changed"
    run.pin_board.pin(1)
    assert go() == idle + 1
    run.record_metrics(1, {"eval_loss": 0.1})
    assert go() == idle + 1
    (run.path / ".keepstep" / "events.jsonl").unlink()
    assert go() == idle + 1, "the log is another one"
    found = MirrorRun(Mirror(objects))
    assert found.best is not None and found.best.metrics["eval_loss"] == 0.1, "what is known there alone stays"
    assert go() == idle


def test_a_long_log_is_sent_in_parts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    for number in range(3000):
        run.events.append("committed", generation=1, step=10, note="x" * 150, number=number)
    objects = CountingObjects(open_mirror(tmp_path / "mirror").objects)
    policy = Policy.from_spec("all", LOSS)
    for change in (lambda: None, lambda: run.record_metrics(1, {"late": 1.0})):
        change()
        mirror = Mirror(objects)
        plan = plan_mirror(run, mirror, mirror.records(), policy)
        objects.reset()
        sync(run, mirror, policy, plan)
    assert len(list(objects.list("events"))) == 3
    assert objects.up < 300_000, "only the last part"
    assert MirrorRun(Mirror(objects)).find(10).metrics["late"] == 1.0


@pytest.mark.training
def test_an_export_is_bit_equal_and_the_optimizer_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("keepstep.stores.local.os.fsync", os.fstat)
    from tests.training.exported import files_in, llama
    from tests.training.exported import make_run as run_of_models

    run = run_of_models(tmp_path / "run", {10: llama(1), 20: llama(2)})
    mirror = mirrored(run, tmp_path / "mirror")
    local, there = tmp_path / "local", tmp_path / "there"
    keepstep.export(run, local)
    counting = CountingObjects(mirror.objects)
    keepstep.export(MirrorRun(Mirror(counting)), there)
    assert files_in(there) == files_in(local)
    assert [n for n in files_in(local) if (local / n).read_bytes() != (there / n).read_bytes()] == []
    names = {key.rpartition("/")[2] for key in counting.read_keys if key.startswith("data/")}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not names & {"optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin", "keepstep.json"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["local", "mirror", "run", "there"]
    soups = [tmp_path / "soup-local", tmp_path / "soup-there"]
    keepstep.export(run, soups[0], average="best:2", dtype="bf16")
    said = call("export", mirror.url, soups[1], "--average", "best:2", "--dtype", "bf16")
    assert said.exit_code == 0, said.output
    assert [n for n in files_in(soups[0]) if (soups[0] / n).read_bytes() != (soups[1] / n).read_bytes()] == []
    # A best that is damaged there gives way to the next, and that is said.
    flip(next((tmp_path / "mirror" / "data").glob(f"{run.find('best').generation:08d}-*/model.safetensors")))
    exported = keepstep.export(mirror.url, tmp_path / "next")
    assert exported.members[0].step == 20 and any("found damaged" in note for note in exported.notes)
    objects = CountingObjects(mirror.objects)
    assert call("export", mirror.url, "20", tmp_path / "dry", "--dry-run").exit_code == 0
    assert objects.down == 0 and not (tmp_path / "dry").exists()


_ = (main, RecordCache)
