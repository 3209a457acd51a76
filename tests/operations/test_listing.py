"""Tests of listing: the same plan as everywhere, marks, states, strict JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

from keepstep.checkpointer import Facts
from keepstep.operations.seeing.listing import list_checkpoints
from tests.operations.runs import SIZE, flip, make_run, training, write

FIELDS = [
    "step", "epoch", "generation", "timeline", "parent", "kind", "metrics", "action", "kept_because", "pinned", "tags",
    "size_bytes", "created", "state", "verified", "path",
]  # fmt: skip


def test_reasons_are_those_of_the_plan(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.3, 3: 0.4}, keep="best:1,latest:1")

    rows = list_checkpoints(run).rows

    plan = run.plan()
    assert [row.checkpoint.step for row in rows] == [2, 3]
    for row in rows:
        assert row.reasons == plan.reasons(row.checkpoint.generation)
        assert row.to_json()["kept_because"] == list(row.reasons)


def test_what_the_plan_drops_is_kept_because_of_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.3})
    _edit_policy(tmp_path / "run", "latest:1")

    first, second = list_checkpoints(run.open(run.path)).rows

    assert (first.keep, second.keep) == (False, True)
    assert first.reasons == ("not the newest",)
    assert first.to_json()["kept_because"] == []


def test_marks_of_best_newest_pinned_and_tagged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.3, 3: 0.4})
    run.pin_board.pin(1)
    run.pin_board.tag(3, "release")

    rows = list_checkpoints(run).rows

    assert [(row.best, row.newest, row.pinned, row.tags) for row in rows] == [
        (False, False, True, ()),
        (True, False, False, ()),
        (False, True, False, ("release",)),
    ]


def test_json_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.25})

    row = list_checkpoints(run).rows[1].to_json()

    assert list(row) == FIELDS
    created = row.pop("created")
    assert created.endswith("+00:00")
    assert row == {
        "step": 2,
        "epoch": 0.02,
        "generation": 2,
        "timeline": 1,
        "parent": 1,
        "kind": "full",
        "metrics": {"eval_loss": 0.25, "eval_runtime": 1.5},
        "action": "keep",
        "kept_because": ["everything is kept", "newest: the recovery point"],
        "pinned": False,
        "tags": [],
        "size_bytes": SIZE,
        "state": "committed",
        "verified": None,
        "path": str(tmp_path / "run" / "checkpoint-2"),
    }


def test_json_is_strict_about_numbers_that_json_lacks(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: math.nan, 2: math.inf, 3: -math.inf})

    rows = [row.to_json() for row in list_checkpoints(run).rows]

    assert [row["metrics"]["eval_loss"] for row in rows] == ["NaN", "Infinity", "-Infinity"]
    json.dumps(rows, allow_nan=False)


def test_damaged_after_a_failed_check_until_a_good_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.3})
    weights = tmp_path / "run" / "checkpoint-1" / "model.safetensors"

    flip(weights)
    run.note_verified(run.verify(run.find(1)))
    assert [row.state for row in list_checkpoints(run).rows] == ["damaged", "committed"]

    flip(weights)
    run.note_verified(run.verify(run.find(1)))
    assert [row.state for row in list_checkpoints(run).rows] == ["committed", "committed"]


def test_aside_lists_rewound_and_quarantined_ones(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = make_run(path, {1: 0.5, 2: 0.3, 3: 0.4})
    flip(path / "checkpoint-3" / "model.safetensors")
    with run.writing():
        run.quarantine(run.verify(run.find(3)))
        run.rewind(run.find(1))

    rows = list_checkpoints(run, aside=True).rows

    assert [row.checkpoint.step for row in list_checkpoints(run).rows] == [1]
    assert [(row.checkpoint.step, row.state) for row in rows] == [
        (1, "committed"),
        (2, "set aside"),
        (3, "quarantined"),
    ]
    assert "rewind" in rows[1].reasons[0]
    assert not any(row.best or row.newest for row in rows[1:])


def test_foreign_directories_are_named_and_not_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5})
    (tmp_path / "run" / "checkpoint-9").mkdir()

    listing = list_checkpoints(run)

    assert [foreign.path.name for foreign in listing.foreign] == ["checkpoint-9"]
    assert len(listing.rows) == 1


def test_late_metrics_are_listed(tmp_path: Path) -> None:
    with training(tmp_path / "run") as checkpointer:
        checkpointer.save(Facts(1), write)
        checkpointer.record(1, {"eval_loss": 0.7})
        assert dict(list_checkpoints(checkpointer.run).rows[0].checkpoint.metrics) == {"eval_loss": 0.7}


def _edit_policy(path: Path, keep: str) -> None:
    file = path / ".keepstep" / "run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "keep": keep}))
