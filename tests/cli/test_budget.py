"""Tests of `keepstep budget`, and of `keepstep prune --root` below a directory that has one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from keepstep import layout
from keepstep.operations.tree.ledger import Ledger
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import SIZE, make_run, training
from tests.racing import bytes_of
from tests.stock.written import everything_below, run_of


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two managed runs, the first of which saved last longest ago, and a stock one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "runs"
    make_run(root / "b", {step: 1 / step for step in range(1, 6)})
    make_run(root / "a", {step: 1 / step for step in range(1, 4)})
    run_of(root / "stock", [2, 4])
    return root


def taken(root: Path) -> int:
    """Bytes that the budget counts."""
    return bytes_of(root)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _steps(path: Path) -> list[int]:
    return [checkpoint.step for checkpoint in Run.open(path).checkpoints]


def set_over(root: Path, call: Call, bytes_: int) -> None:
    """A budget that is that many bytes below what is there, with the megabyte above it in reserve."""
    reserve = 2 * 10**6
    budget = taken(root) - bytes_ + reserve
    done = call("budget", "set", root, f"{budget / 10**6:.6f}MB", "--reserve", "2MB", "--format", "json")
    assert (done.exit_code, json.loads(done.stdout)["over_bytes"]) == (0, bytes_)


def test_set_show_and_clear(root: Path, call: Call) -> None:
    shown = call("budget", "set", root, "2TB", "--reserve", "100GB")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"{root} has a budget of 2.0 TB, 100 GB in reserve\n")
    found = json.loads(call("budget", "show", root, "--format", "json").stdout)
    assert (found["budget_bytes"], found["reserve_bytes"], found["over_bytes"]) == (2 * 10**12, 10**11, 0)
    assert [(row["run"], row["state"], row["shared"]) for row in found["runs"]] == [
        (str(root / "stock"), "not managed", False),
        (str(root / "b"), "at rest", False),
        (str(root / "a"), "at rest", False),
    ]
    assert found["taken_bytes"] == taken(root) == sum(row["takes_bytes"] for row in found["runs"])
    rows = call("budget", "show", root, "--format", "agent").stdout.splitlines()
    assert rows[0].split("\t")[:2] == ["run", "state"] and len(rows) == 4
    assert call("budget", "clear", root, "--dry-run").stdout.startswith("Would clear the budget of 2.0 TB")
    assert call("budget", "clear", root).stdout == f"Cleared the budget of 2.0 TB of {root}.\n"
    assert call("budget", "show", root).exit_code == 3
    assert not (root / layout.TREE).exists()


def test_a_dry_run_shows_what_it_would_mean_and_sets_nothing(root: Path, call: Call) -> None:
    before = everything_below(root)
    shown = call("budget", "set", root, "0.002MB", "--dry-run")
    assert "are over the budget: keepstep prune --root" in shown.stdout
    assert "can't be given up by anybody" in shown.stdout
    assert everything_below(root) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [(["2XB"], 2), (["2TB", "--reserve", "2TB"], 2), (["2TB", "--reserve", "3TB", "--dry-run"], 2)],
)
def test_what_is_no_budget_is_refused(root: Path, call: Call, words: list[str], code: int) -> None:
    assert call("budget", "set", root, *words).exit_code == code
    assert not (root / layout.TREE).exists()


def test_a_directory_that_is_not_there(tmp_path: Path, call: Call) -> None:
    for words in (["2TB"], ["2TB", "--dry-run"]):
        assert call("budget", "set", tmp_path / "none", *words).exit_code == 3
    assert call("budget", "clear", tmp_path).exit_code == 3


def test_on_nfs_it_is_refused_with_the_way_out(root: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = root.parent / "mounts"
    mounts.write_text(f"22 1 0:20 / {os.path.realpath(root)} rw - nfs4 server:/export rw\n")
    monkeypatch.setattr("keepstep.operations.tree.showing.set_budget.__kwdefaults__", {"mounts": mounts})
    shown = call("budget", "set", root, "2TB")
    assert shown.exit_code == 8
    assert "lies on nfs4" in shown.stderr and "keepstep prune --root" in shown.stderr


def test_prune_gives_up_in_order_with_reasons_and_leaves_the_reserve(root: Path, call: Call) -> None:
    set_over(root, call, 4 * SIZE + SIZE // 2)
    before = everything_below(root)
    lines = _lines(call("prune", "--root", root, "--format", "json").stdout)
    a, b, stock = sorted(lines, key=lambda line: line["run"])
    reasons = [d["reasons"] for d in b["result"]["decisions"] if not d["keep"]]
    assert len(reasons) == 4 and all(reason[0].startswith("over the budget of ") for reason in reasons)
    assert "of " + str(root) in reasons[0][0] and "2.0 MB in reserve" in reasons[0][0]
    assert [d["step"] for d in a["result"]["decisions"] if not d["keep"]] == [1]
    assert (b["result"]["tree"]["root"], stock["result"]["tree"]) == (str(root), None)
    assert everything_below(root) == before

    assert call("prune", "--root", root, "--yes").exit_code == 0
    assert (_steps(root / "b"), _steps(root / "a")) == ([5], [2, 3])
    assert json.loads(call("budget", "show", root, "--format", "json").stdout)["over_bytes"] == 0
    again = call("prune", "--root", root, "--yes")
    assert again.stdout.count("Nothing to remove") == 3


def test_without_root_each_run_is_pruned_by_itself(root: Path, call: Call) -> None:
    set_over(root, call, 4 * SIZE)
    assert "Nothing to remove" in call("prune", root / "b", "--yes").stdout


def test_a_run_of_the_tree_that_is_not_below_root_counts_and_gives_nothing(root: Path, call: Call) -> None:
    set_over(root, call, SIZE)
    assert call("prune", "--root", root / "a", "--yes").exit_code == 0
    assert (_steps(root / "b"), _steps(root / "a")) == ([1, 2, 3, 4, 5], [2, 3])


def test_one_that_trains_is_asked_and_not_touched(root: Path, call: Call) -> None:
    with training(root / "b") as checkpointer:
        set_over(root, call, 5 * SIZE)
        done = call("prune", "--root", root, "--yes")
        assert (done.exit_code, _steps(root / "a"), _steps(root / "b")) == (0, [3], [1, 2, 3, 4, 5])
        assert f"{root / 'b'} trains: it is asked, and gives up what is over at its next save" in done.stderr
        assert Ledger(root).is_asked(root / "b")
        checkpointer.make_room(6)
        assert len(_steps(root / "b")) < 5
        assert not Ledger(root).is_asked(root / "b")


def test_other_rules_for_all_come_before_the_budget(root: Path, call: Call) -> None:
    set_over(root, call, 3 * SIZE)
    done = call("prune", "--root", root, "--keep", "latest:2", "--yes")
    assert (done.exit_code, _steps(root / "b"), _steps(root / "a")) == (0, [4, 5], [2, 3])
