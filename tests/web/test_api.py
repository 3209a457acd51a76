"""What the API answers about real runs: finished, rewound, in training, damaged, vanished, replaced."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from keepstep import layout
from keepstep.checkpointer import Checkpointer
from keepstep.model import State
from keepstep.operations.doctor import examine_run
from keepstep.operations.usage import LEFTOVERS
from keepstep.operations.usage.of_run import ROOMS
from keepstep.retention import Policy
from keepstep.run import Limits, Run
from keepstep.stores import Stamp
from keepstep.web import places, view
from tests.operations.runs import LOSS, cut_manifest, make_run
from tests.web.conftest import Page, Start
from tests.web.runs import OPTIMIZER, WEIGHTS, Trained, cluttered, damaged, finished, large, rewound, training


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_the_summary_says_how_sure_the_best_is(start: Start, root: Path) -> None:
    run = make_run(root / "a", {step: 0.5 + 0.01 * (-1) ** step for step in range(1, 11)})
    few = make_run(root / "b", {1: 0.5})
    page = start(root)
    sure = page.get(f"/api/runs/{page.key('a')}")["certainty"]
    assert run.best is not None and sure["step"] == run.best.step == 1
    assert sure["ties"][:2] == [3, 5] and sure["text"].startswith("checkpoint-1 leads by 0; ")
    assert few.best is not None and page.get(f"/api/runs/{page.key('b')}")["certainty"] is None


def du_of(path: Path) -> dict[str, Any]:
    """What `keepstep du` says of a run."""
    command = [sys.executable, "-m", "keepstep", "du", str(path), "--format", "json"]
    [found] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["runs"]
    return found


def row(page: Page, name: str) -> dict[str, Any]:
    return {run["name"]: run for run in page.get("/api/runs")["runs"]}[name]


# -- the list ---------------------------------------------------------------------------------------------


def test_one_run_that_is_named_is_the_single_one(start: Start, root: Path) -> None:
    run = make_run(root / "a", {1: 0.5})
    page = start(run.path)
    about = page.about
    assert about["single"] == page.key("a") and about["writable"] is False
    assert start(root).about["single"] is None
    assert start(run.path, root).about["single"] is None


def test_runs_below_roots_are_listed_once(start: Start, root: Path) -> None:
    make_run(root / "a", {1: 0.5})
    make_run(root / "deep" / "er" / "b", {1: 0.5})
    page = start(root, root / "a", root / "deep")
    found = page.get("/api/runs")
    assert sorted(run["path"] for run in found["runs"]) == [str(root / "a"), str(root / "deep" / "er" / "b")]
    assert found["roots"] == [str(root), str(root / "deep")]


def test_a_row_says_how_far_what_is_best_and_what_it_takes(start: Start, root: Path) -> None:
    run = finished(root / "sft")
    found = row(start(root), "sft")
    best, latest = run.best, run.latest
    assert best is not None and latest is not None
    assert (found["state"], found["step"], found["max_steps"]) == ("finished", 2_000, 2_000)
    assert found["best"] == {"step": best.step, "value": best.metrics["eval_loss"], "generation": best.generation}
    assert found["latest"] == {"step": latest.step, "generation": latest.generation}
    assert found["checkpoints"] == len(run.checkpoints)
    assert found["size_bytes"] == sum(one.size_bytes for one in run.checkpoints)
    assert found["metric"] == {"name": "eval_loss", "mode": "min"} and found["problem"] is None


def test_states(start: Start, root: Path) -> None:
    Run.create(root / "new", Policy.from_spec("all"))
    rewound(root / "stopped")
    (root / "damaged" / ".keepstep").mkdir(parents=True)
    (root / "damaged" / ".keepstep" / "run.json").write_text("{")
    with training(root / "training") as trained:
        trained.go(200)
        page = start(root)
        states = {run["name"]: run["state"] for run in page.get("/api/runs")["runs"]}
        assert states == {"new": "new", "stopped": "failed", "damaged": "damaged", "training": "training"}
        key = page.key("training")
        assert page.get(f"/api/runs/{key}")["state"] == "training"
        # The page's look takes no lock: the training goes on, and a second one is refused because of the first alone.
        trained.go(300)
    assert row(page, "training")["state"] == "killed"
    assert page.get(f"/api/runs/{key}")["state"] == "killed"
    problem = row(page, "damaged")["problem"]
    assert "run.json" in problem and page.client.get(f"/api/runs/{page.key('damaged')}").status_code == 500


def test_looking_never_stands_in_the_way_of_a_training_that_begins(start: Start, root: Path) -> None:
    make_run(root / "a", {1: 0.5})
    page = start(root)
    key, stop = page.key("a"), threading.Event()

    def look() -> None:
        while not stop.is_set():
            page.get("/api/runs")
            page.get(f"/api/runs/{key}")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(40):
            checkpointer = Checkpointer(root / "a", Policy.from_spec("all", LOSS))
            checkpointer.begin("auto")
            checkpointer.close()
    finally:
        stop.set()
        looking.join()


# -- one run ----------------------------------------------------------------------------------------------


def test_a_summary_has_every_checkpoint_with_its_reasons_and_what_went(start: Start, root: Path) -> None:
    run = rewound(root / "a")
    page = start(root)
    found = page.get(f"/api/runs/{start(root).key('a')}")  # of another server: keys are those of paths
    assert [one["generation"] for one in found["checkpoints"]] == [one.generation for one in run.checkpoints]
    assert all(one["kept_because"] for one in found["checkpoints"])
    assert sum(one["best"] for one in found["checkpoints"]) == sum(one["newest"] for one in found["checkpoints"]) == 1
    kinds = {gone["kind"] for gone in found["removed"]}
    assert kinds == {"removed", "thinned", "set aside"}
    assert all(gone["reason"] and gone["metrics"]["eval_loss"] for gone in found["removed"])
    assert [(line["number"], line["from_generation"]) for line in found["timelines"]] == [(1, None), (2, 7)]
    assert found["timelines"][0]["steps"] == list(range(100, 1_000, 100))
    assert found["timelines"][1]["steps"] == list(range(800, 1_300, 100))
    receipt = found["receipt"]
    assert (receipt["step"], receipt["level"], receipt["evidence"]) == (700, "equivalent", "inferred")
    assert receipt["course"]["text"] == "nothing logged to compare the course with"
    assert [one["ended"] for one in found["attempts"]] == [None, "failed"]
    assert found["attempts"][1]["from_step"] == 700
    assert found["policy"]["keep"] == "best:3,latest:3" and "the best 3" in found["policy"]["text"]
    assert found["disk"]["aside_bytes"] == sum(one.size_bytes for one in run.aside) > 0
    assert found["stalls"]["count"] == 14 and found["durability_lag_s"] > 0
    assert found["next_save"] is None and found["in_flight"] is None


def test_the_next_save_and_the_one_in_flight(start: Start, root: Path) -> None:
    with training(root / "a", max_steps=1_000) as trained:
        trained.go(450)
        page = start(root)
        key = page.key("a")
        due = page.get(f"/api/runs/{key}")["next_save"]
        assert (due["step"], due["in_steps"]) == (500, 50)
        pace = trained.checkpointer.run.events  # the times of two commits in one second make a pace of any size
        assert due["eta_s"] >= 0 and pace
        staging = trained.run.repository.stage()
        draft = staging.path / "checkpoint-460"
        draft.mkdir()
        (draft / "model.safetensors").write_bytes(b"x" * 12_345)
        flying = page.get(f"/api/runs/{key}")["in_flight"]
        assert (flying["step"], flying["bytes_so_far"]) == (460, 12_345)
        (draft / "optimizer.pt").write_bytes(b"x" * 1_000)
        assert page.get(f"/api/runs/{key}")["in_flight"]["bytes_so_far"] == 13_345
        trained.go(990, save_every=495)
        assert page.get(f"/api/runs/{key}")["next_save"]["step"] == 1_000
    assert page.get(f"/api/runs/{key}")["in_flight"] is None


def test_a_killed_training_is_seen_although_no_file_changes(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "SETTLED_NS", 0)
    script = (
        "import sys, time; from pathlib import Path; from tests.web.runs import Trained\n"
        "Trained(Path(sys.argv[1]), 'all').go(200); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(root / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        page = start(root)
        key = page.key("a")
        assert page.get(f"/api/runs/{key}")["state"] == "training"
        process.kill()
        process.wait(20)
        assert (root / "a" / ".keepstep" / "owner.json").exists()
        assert page.get(f"/api/runs/{key}")["state"] == "killed"


def test_a_process_that_has_the_id_of_the_one_that_died_is_no_training(start: Start, root: Path) -> None:
    with training(root / "a") as trained:
        trained.go(200)
        page = start(root)
        key = page.key("a")
        assert page.get(f"/api/runs/{key}")["state"] == "training"
        owner = root / "a" / ".keepstep" / "owner.json"
        owner.write_text(json.dumps(json.loads(owner.read_text()) | {"since": "2001-01-01T00:00:00Z"}))
        assert page.get(f"/api/runs/{key}")["state"] == "killed"


def test_numbers_that_json_lacks(start: Start, root: Path) -> None:
    rewound(root / "b")
    make_run(root / "a", {1: math.nan, 2: math.inf, 3: 0.5, 4: -math.inf})
    page = start(root)
    text = page.client.get(f"/api/runs/{page.key('a')}").text

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(text, parse_constant=refuse)
    assert [one["metrics"]["eval_loss"] for one in found["checkpoints"]] == ["NaN", "Infinity", 0.5, "-Infinity"]
    assert found["best"]["value"] == "-Infinity"
    curves = json.loads(page.client.get(f"/api/runs/{page.key('b')}/curves").text, parse_constant=refuse)
    assert any(None in strand["values"] for strand in curves["curves"]["loss"])


def test_when_all_is_nan_nothing_is_the_best(start: Start, root: Path) -> None:
    make_run(root / "a", {1: math.nan})
    assert row(start(root), "a")["best"] is None


def test_curves_by_name_and_window(start: Start, root: Path) -> None:
    finished(root / "a")
    page = start(root)
    address = f"/api/runs/{page.key('a')}/curves"
    every = page.get(address)
    assert set(every["names"]) >= {"loss", "eval_loss", "learning_rate"} and every["max_steps"] == 2_000
    some = page.get(address, names="loss,eval_loss", start=500, stop=700)
    assert list(some["curves"]) == ["loss", "eval_loss"]
    assert some["curves"]["loss"][0]["steps"] == list(range(500, 701, 10))
    few = page.get(address, names="loss", points=20)["curves"]["loss"][0]
    assert len(few["steps"]) <= 20 < few["total"]
    for query in ({"start": "x"}, {"points": "1e3"}, {"stop": "9" * 30}):
        assert page.get(address, status=400, **query)["error"]["code"] == "query"


def test_one_checkpoint(start: Start, root: Path) -> None:
    run = finished(root / "it's a run")
    page = start(root)
    best = run.best
    assert best is not None
    run.note_verified(run.verify(best))
    address = f"/api/runs/{page.key(run.path.name)}/checkpoints"
    found = page.get(f"{address}/{best.generation}")
    assert found["best"] and found["rank"] == 1 and found["removed_by"] and len(found["files"]) == len(best.files)
    assert found["verification"] == {"ok": True, "time": found["verification"]["time"], "problems": []}
    assert found["commands"]["show"] == f"keepstep show '{root}/it'\"'\"'s a run' step:{best.step}"
    before = [one for one in run.checkpoints if one.generation < best.generation][-1]
    assert found["previous"]["name"] == before.name
    assert "metric: eval_loss" in [change["what"] for change in found["previous"]["differences"]]
    assert page.get(f"{address}/{run.checkpoints[0].generation}")["previous"] is None
    assert page.get(f"{address}/999", status=404)["error"]["code"] == "checkpoint-not-found"
    assert page.client.get(f"{address}/x").status_code == 404


def test_where_the_bytes_are(start: Start, root: Path) -> None:
    run = finished(root / "a", steps=2_000)
    page = start(root)
    found = page.get(f"/api/runs/{page.key('a')}/disk")
    count = len([one for one in run.checkpoints if one.resumable])
    assert found["kinds"]["weights"] == len(run.checkpoints) * WEIGHTS
    assert found["kinds"]["optimizer"] == count * (OPTIMIZER + 1_000)
    assert found["used_bytes"] == sum(one.size_bytes for one in run.checkpoints)
    assert found["over_time"][-1]["bytes"] == found["used_bytes"]
    assert found["forecast"]["saves_left"] == 0 and found["forecast"]["at_end_bytes"] == found["used_bytes"]
    assert found["budget_bytes"] is None
    with Run.open(run.path).writing() as writing:
        writing.set_policy(Policy.from_spec("latest:1", LOSS), Limits(budget=10**9))
    again = page.get(f"/api/runs/{page.key('a')}/disk")
    assert again["budget_bytes"] == 10**9
    assert again["frees"]["prune_bytes"] == found["used_bytes"] - run.checkpoints[-1].size_bytes


def test_nothing_is_ahead_of_a_training_that_ended_early(start: Start, root: Path) -> None:
    Trained(root / "early", "latest:2", max_steps=2_000).go(600).end()
    Trained(root / "killed", "latest:2", max_steps=2_000).go(600).end(None)
    page = start(root)
    early, killed = (page.get(f"/api/runs/{page.key(name)}/disk")["forecast"] for name in ("early", "killed"))
    assert (early["saves_left"], early["verdict"]) == (0, "No save is left.")
    assert killed["saves_left"] == 14 and killed["verdict"].startswith("It fits")


def test_the_bytes_are_those_of_du_part_by_part(start: Start, root: Path) -> None:
    run = cluttered(root / "a")
    page = start(root)
    found = page.get(f"/api/runs/{page.key('a')}/disk")
    du = du_of(run.path)
    assert found["kinds"] == du["kinds"] and found["all_bytes"] == du["size_bytes"]
    assert sum(part["size_bytes"] for part in found["parts"]) == du["kinds"]["litter"] > 0
    rooms = {room["name"]: room["size_bytes"] for room in du["litter"]}
    parts = {part["part"]: part for part in found["parts"]}
    assert parts["left_over"]["size_bytes"] == rooms["staging"] + rooms["trash"] == 18_000
    assert parts["set_aside"]["size_bytes"] == rooms["timelines"] and parts["set_aside"]["checkpoints"] == 2
    assert parts["quarantined"]["size_bytes"] == rooms["quarantine"] and parts["quarantined"]["checkpoints"] == 1
    assert parts["previous"]["size_bytes"] == rooms["previous"] == 40_000
    assert parts["previous"]["command"] is None and parts["left_over"]["command"] is None
    assert [(one["name"], one["bytes"]) for one in found["unmanaged"]] == [("checkpoint-50", 30_000)]
    for one, share in zip(found["by_checkpoint"], du["by_checkpoint"], strict=True):
        kinds = ("weights", "optimizer", "other")
        assert [one[kind] for kind in kinds] == [share[f"{kind}_bytes"] for kind in kinds]


def test_a_command_of_the_page_frees_the_part_it_stands_beside(start: Start, root: Path) -> None:
    cluttered(root / "a")
    page = start(root)

    def parts() -> dict[str, dict[str, Any]]:
        return {part["part"]: part for part in page.get(f"/api/runs/{page.key('a')}/disk")["parts"]}

    for part in ("set_aside", "quarantined"):
        words = shlex.split(parts()[part]["command"])
        assert words[0] == "keepstep"
        subprocess.run([sys.executable, "-m", *words, "--yes"], check=True, capture_output=True)
        assert part not in parts()
    # Whoever takes the run's lock to write clears what is left over; nobody clears an older run.
    assert set(parts()) == {"previous"}


def test_what_is_pinned_aside_or_can_not_be_read_has_no_command(start: Start, root: Path) -> None:
    run = cluttered(root / "a")
    aside = [one for one in run.aside if one.state is State.SET_ASIDE]
    [quarantined] = [one for one in run.aside if one.state is State.QUARANTINED]
    run.pin_board.pin(aside[0].generation)
    page = start(root)

    def parts() -> dict[str, dict[str, Any]]:
        return {part["part"]: part for part in page.get(f"/api/runs/{page.key('a')}/disk")["parts"]}

    assert parts()["set_aside"]["held"] == 1 and parts()["set_aside"]["command"].endswith("--aside")
    run.pin_board.pin(aside[1].generation)
    cut_manifest(quarantined.path)
    assert parts()["set_aside"]["held"] == 2 and parts()["set_aside"]["command"] is None
    assert parts()["quarantined"]["checkpoints"] == 0 and parts()["quarantined"]["command"] is None


def test_the_save_in_flight_is_no_leftover(start: Start, root: Path) -> None:
    with training(root / "a") as trained:
        trained.go(200)
        half = root / "a" / layout.STAGING / "x" / "checkpoint-300"
        half.mkdir(parents=True)
        (half / "optimizer.pt").write_bytes(bytes(5_000))
        page = start(root)
        [part] = page.get(f"/api/runs/{page.key('a')}/disk")["parts"]
        assert (part["part"], part["size_bytes"]) == ("writing", 5_000)


def test_every_room_of_keepstep_is_a_part_of_the_page() -> None:
    named = [room for part in places.PARTS for room in part.rooms]
    assert sorted(named) == sorted([*ROOMS, LEFTOVERS])


def test_health(start: Start, root: Path) -> None:
    run = damaged(root / "a")
    page = start(root)
    found = page.get(f"/api/runs/{page.key('a')}/health")
    assert found["events"][0]["event"] == "verified" and found["events"][0]["ok"] is False
    assert found["events"] == list(reversed(list(run.events.read())))[:500]
    report = examine_run(run)
    assert found["findings"] == [finding.to_json() for finding in report.findings] != []
    assert sum(row(page, "a")["findings"].values()) == len(report.findings)
    assert len(found["stalls"]) == 6 and found["attempts"][0]["ended"] == "finished"
    states = {one["step"]: one["state"] for one in page.get(f"/api/runs/{page.key('a')}")["checkpoints"]}
    assert states[400] == "damaged" and states[500] == "committed"


# -- what is odd ------------------------------------------------------------------------------------------


def test_a_run_that_vanishes_gives_an_error_and_comes_back(start: Start, root: Path) -> None:
    make_run(root / "a", {1: 0.5})
    named = make_run(root.parent / "named", {1: 0.5})
    page = start(root, named.path)
    keys = {name: page.key(name) for name in ("a", "named")}
    for path in (root / "a", named.path):
        path.rename(path.with_name("hidden-" + path.name))
    rows = page.get("/api/runs")["runs"]
    assert [run["state"] for run in rows if run["name"] == "named"] == ["damaged"]
    for key in keys.values():
        assert page.client.get(f"/api/runs/{key}").status_code == 404
    (root / "hidden-a").rename(root / "a")
    assert page.get(f"/api/runs/{keys['a']}")["step"] == 1


def test_a_run_that_is_replaced_is_read_anew(start: Start, root: Path) -> None:
    make_run(root / "a", {1: 0.5, 2: 0.4})
    page = start(root)
    address = f"/api/runs/{page.key('a')}"
    assert len(page.get(address)["checkpoints"]) == 2
    shutil.rmtree(root / "a")
    make_run(root / "a", {7: 0.1})
    found = page.get(address)
    assert [one["step"] for one in found["checkpoints"]] == [7]
    assert found["foreign"] == [] and found["removed"] == []


def test_damaged_parts_take_nothing_else_along(start: Start, root: Path) -> None:
    run = make_run(root / "a", {1: 0.5, 2: 0.4, 3: 0.3})
    make_run(root / "b", {1: 0.5})
    cut_manifest(run.path / "checkpoint-2")
    with (run.path / ".keepstep" / "events.jsonl").open("ab") as log:
        log.write(b'\xff\xfe{"event": 1}\n{"event":"removed"}\n{"event":"committed","step":"x"}\n[]\n{"event":"kept",')
    (run.path / ".keepstep" / "metrics.jsonl").write_bytes(b"\0" * 5_000 + b"\n{}\n")
    page = start(root)
    found = page.get(f"/api/runs/{page.key('a')}")
    assert [one["step"] for one in found["checkpoints"]] == [1, 3]
    assert [one["name"] for one in found["foreign"]] == ["checkpoint-2"] and found["foreign"][0]["reason"]
    assert page.get(f"/api/runs/{page.key('a')}/health")["events"][0]["event"] == "committed"
    for part in ("curves", "disk", "plan", "replay"):
        page.get(f"/api/runs/{page.key('a')}/{part}")
    (root / "b" / ".keepstep" / "pins.json").write_text("{")
    assert {run["name"]: bool(run["problem"]) for run in page.get("/api/runs")["runs"]} == {"a": False, "b": False}
    assert "pins.json" in page.get(f"/api/runs/{page.key('b')}", status=500)["error"]["message"]


def test_a_bug_at_one_run_is_told_in_the_terminal_and_not_to_the_browser(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(root / "a", {1: 0.5})

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    page = start(root)
    key = page.key("a")
    monkeypatch.setattr("keepstep.web.pages.overview", fail)
    assert row(page, "a")["problem"] == "keepstep failed at this run: ZeroDivisionError"
    answer = page.client.get(f"/api/runs/{key}")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.headers["content-security-policy"]
    assert "secret detail" in caplog.text


def test_names_that_are_no_utf8(start: Start, root: Path) -> None:
    root.mkdir()
    make_run(root / "a\udcff", {1: 0.5})
    found = start(root).get("/api/runs")["runs"]
    assert found[0]["name"] == "a\\udcff" and found[0]["checkpoints"] == 1


# -- thousands --------------------------------------------------------------------------------------------


def test_large_answers_are_packed_and_not_made_twice(start: Start, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = large(root / "a", 600)
    page = start(root)
    address = f"/api/runs/{page.key('a')}"
    monkeypatch.setattr(view, "SETTLED_NS", 0)
    first = page.client.get(address)
    assert first.headers["content-encoding"] == "gzip" and first.headers["vary"] == "Accept-Encoding"
    plain = page.client.get(address, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.json() == first.json()
    assert "content-encoding" not in page.client.get(address, headers={"Accept-Encoding": "gzip;q=0"}).headers
    assert len(gzip.compress(plain.content)) < len(plain.content) / 5
    calls: list[object] = []
    real = view.encode
    monkeypatch.setattr(view, "encode", lambda value: calls.append(value) or real(value))
    page.client.get(address)
    assert calls == []
    run.pin_board.pin(5)
    assert page.get(address)["checkpoints"][4]["pinned"] and len(calls) == 1


@pytest.mark.parametrize("young", [True, False])
def test_a_change_too_young_to_be_told_by_its_time_is_looked_at_again(tmp_path: Path, young: bool) -> None:
    run = make_run(tmp_path / "a", {1: 0.5})
    looked: list[object] = []
    one = view.RunView(run.path, "a")
    when = time.time_ns() - (0 if young else 2 * view.SETTLED_NS)
    same: view.Stamps = {"events": (Stamp("file", 1, 1, when, when),)}
    one.stamps = lambda: same  # type: ignore[method-assign]

    async def ask_twice() -> None:
        for _ in range(2):
            await one.packed("question", lambda opened: looked.append(opened) or [])

    # Not in this thread: a browser that other tests hold open has a loop in it.
    asking = threading.Thread(target=asyncio.run, args=(ask_twice(),))
    asking.start()
    asking.join()
    assert len(looked) == (2 if young else 1)
