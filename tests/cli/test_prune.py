"""Tests of `keepstep prune`: shown, asked, and only then removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.cli.commands.prune import prune
from keepstep.run import Limits, Run
from keepstep.units import SIZES
from tests.cli.conftest import Call
from tests.operations.runs import flip, make_run, training, write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def _steps(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints]


def test_without_yes_and_without_a_terminal_it_is_a_dry_run(run: Run, call: Call) -> None:
    result = call("prune", run.path, "--keep", "latest:1")

    assert result.exit_code == 0
    assert "Removes 2 of 3 checkpoints and frees 2.0 kB; 1 stay (1.0 kB)." in result.stdout
    assert "not the newest" in result.stdout
    assert "dry run: nothing was removed" in result.stderr
    assert _steps(run) == [1, 2, 3]


def test_yes_removes(run: Run, call: Call) -> None:
    result = call("prune", run.path, "--keep", "best:1", "-y")

    assert "Removed 1 checkpoint, thinned 1, freed 1.1 kB." in result.stdout
    assert _steps(run) == [1, 3]
    assert sorted(path.name for path in run.path.iterdir() if path.name[0] != ".") == ["checkpoint-3", "weights-1"]
    assert Run.open(run.path).policy == run.policy


def test_dry_run_wins_over_yes(run: Run, call: Call) -> None:
    call("prune", run.path, "--keep", "latest:1", "--dry-run", "--yes")
    assert _steps(run) == [1, 2, 3]


@pytest.mark.parametrize(("answer", "left"), [("y\n", [3]), ("n\n", [1, 2, 3]), ("\n", [1, 2, 3])])
def test_on_a_terminal_it_asks(
    run: Run, call: Call, monkeypatch: pytest.MonkeyPatch, answer: str, left: list[int]
) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
    result = call("prune", run.path, "--keep", "latest:1", input=answer)
    assert result.exit_code == 0
    assert "Remove 2 checkpoints?" in result.stderr
    assert _steps(run) == left


def test_no_answer_is_an_interruption(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
    result = call("prune", run.path, "--keep", "latest:1", input="")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert _steps(run) == [1, 2, 3]


def test_the_runs_own_policy_without_keep(run: Run, call: Call) -> None:
    assert "Nothing to remove" in call("prune", run.path, "-y").stdout
    file = run.path / ".keepstep" / "run.json"
    file.write_text(file.read_text().replace('"all"', '"best:1,latest:1"'))
    call("prune", run.path, "-y")
    assert _steps(run) == [1, 3]


def test_another_metric_and_its_direction(run: Run, call: Call) -> None:
    call("prune", run.path, "--keep", "best:1", "--metric", "eval_loss", "--mode", "max", "-y")
    assert _steps(run) == [3]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--keep", "bets:1"], "Did you mean 'best'?"),
        (["--keep", "best:0"], "no whole number of 1 or more"),
        (["--keep", ""], "policy is empty"),
        (["--metric", "oddity"], "mode='min' or mode='max'"),
        (["--mode", "max"], "--mode needs --metric"),
        (["--keep", "best:1", "--metric", "eval_accuracy"], "has a value of eval_accuracy"),
        (["--budget", "200"], "'200' has no unit: a bare number is not a size"),
        (["--budget", "much"], "'much'"),
        (["--mode", "up"], "'min', 'max'"),
    ],
)
def test_wrong_usage_is_2_and_removes_nothing(run: Run, call: Call, arguments: list[str], part: str) -> None:
    result = call("prune", run.path, *arguments, "-y")
    assert result.exit_code == 2
    assert part in result.stderr
    assert _steps(run) == [1, 2, 3]


def test_pinned_and_tagged_stay(run: Run, call: Call) -> None:
    call("pin", run.path, "1")
    call("tag", run.path, "2", "keep-me")
    result = call("prune", run.path, "--keep", "latest:1", "-y")
    assert "Nothing to remove" in result.stdout
    assert _steps(run) == [1, 2, 3]


def test_a_locked_run_is_left_alone(run: Run, call: Call) -> None:
    with training(run.path):
        result = call("prune", run.path, "--keep", "latest:1", "-y")
    assert result.exit_code == 5
    assert _steps(run) == [1, 2, 3]


def test_a_damaged_recovery_point_stops_it(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-3" / "model.safetensors")
    result = call("prune", run.path, "--keep", "latest:1", "-y")
    assert result.exit_code == 4
    assert "--quarantine" in result.stderr
    assert _steps(run) == [1, 2, 3]


def test_json(run: Run, call: Call) -> None:
    shown = json.loads(call("prune", run.path, "--keep", "latest:1", "--format", "json").stdout)
    assert (shown["applied"], shown["frees_bytes"], shown["freed_bytes"]) == (False, 2000, 0)
    assert [(d["step"], d["keep"]) for d in shown["decisions"]] == [(1, False), (2, False), (3, True)]

    done = json.loads(call("prune", run.path, "--keep", "latest:1", "--format", "json", "-y").stdout)
    assert (done["applied"], done["removed"], done["freed_bytes"]) == (True, [1, 2], 2000)


def test_json_says_what_is_thinned(run: Run, call: Call) -> None:
    shown = json.loads(call("prune", run.path, "--keep", "best:1", "--format", "json", "-y").stdout)
    assert [(d["step"], d["action"], d["keep"]) for d in shown["decisions"]] == [
        (1, "thin", True), (2, "remove", False), (3, "keep", True),
    ]  # fmt: skip
    assert (shown["frees_bytes"], shown["freed_bytes"], shown["removed"], shown["thinned"]) == (1100, 1100, [2], [1])


def test_a_dry_run_shows_what_would_be_thinned(run: Run, call: Call) -> None:
    text = call("prune", run.path, "--keep", "best:1", "--dry-run").stdout
    assert "Removes 1, thins 1 of 3 checkpoints and frees 1.1 kB; 2 stay (1.9 kB)." in text
    assert _steps(run) == [1, 2, 3]


def test_a_budget_gives_up_in_order(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "kB", 1000)  # these checkpoints are small
    shown = json.loads(
        call("prune", run.path, "--keep", "best:3:full,latest:1", "--budget", "2.8kB", "--format", "json").stdout
    )
    assert [d["action"] for d in shown["decisions"]] == ["thin", "thin", "keep"]
    assert (shown["budget_bytes"], shown["kept_bytes"], shown["fits"]) == (2800, 2800, True)
    assert shown["decisions"][0]["reasons"][0] == "over the budget of 2.8 kB: thinned, kept for quality only"

    result = call("prune", run.path, "--keep", "best:3:full,latest:1", "--budget", "2kB", "-y")

    assert "Removed 1 checkpoint, thinned 1, freed 1.1 kB." in result.stdout
    assert _steps(run) == [1, 3]
    reasons = [event["reason"] for event in run.events.read() if event["event"] in ("removed", "thinned")]
    assert reasons[0] == "over the budget of 2.0 kB: the lowest-ranked of the best"


def test_a_budget_that_can_not_be_reached_is_said(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "kB", 1000)
    result = call("prune", run.path, "--budget", "1kB", "-y")
    assert "1.0 kB can't be reached: 1.9 kB stay under any budget" in result.stderr
    assert _steps(run) == [1, 3]


def test_what_lies_aside(run: Run, call: Call) -> None:
    with run.writing():
        run.rewind(run.find(2))
        run.quarantine(run.verify(run.find(1)))

    assert "Nothing to remove" in (plain := call("prune", run.path, "-y").stdout)
    assert "2 checkpoints (2.0 kB) lie aside and stay." in plain
    shown = call("prune", run.path, "--aside", "--dry-run").stdout
    assert "asked for: set aside" in shown
    assert "Removes 1 that lay aside and frees 1.0 kB; 1 stay (1.0 kB)." in shown
    assert len(run.aside) == 2

    done = json.loads(call("prune", run.path, "--aside", "--quarantined", "-y", "--format", "json").stdout)

    assert [(d["step"], d["state"], d["action"]) for d in done["aside"]] == [
        (3, "set aside", "remove"), (1, "quarantined", "remove"),
    ]  # fmt: skip
    assert (len(done["removed_aside"]), done["freed_bytes"], done["removed"]) == (2, 2000, [])
    assert run.aside == ()
    assert _steps(run) == [2]


def test_the_runs_own_budget(run: Run, call: Call) -> None:
    with run.writing():
        run.set_policy(run.policy, Limits(2900))

    listed = " ".join(call("ls", run.path, "--format", "human").stdout.split())
    assert "Budget 2.9 kB, 3.0 kB used. The next prune removes 1 and frees 1.0 kB." in listed
    assert "over the budget of 2.9 kB: the oldest that no other rule keeps" in call("ls", run.path).stdout
    assert "Budget 2.9 kB, 3.0 kB used." in call("du", run.path).stdout
    shown = call("prune", run.path, "--dry-run").stdout
    assert "within 2.9 kB" in shown
    assert "over the budget of 2.9 kB" in shown
    assert "Nothing to remove" in call("prune", run.path, "--budget", "1GB").stdout
    call("prune", run.path, "-y")
    assert _steps(run) == [1, 3]


def test_help_lists_every_rule(call: Call) -> None:
    from keepstep.retention import rule_table

    shown = call("prune", "--help").stdout
    assert all(example in shown for example, _ in rule_table())
    assert prune.help is not None


def test_previous_runs(run: Run, call: Call) -> None:
    with training(run.path) as checkpointer:
        checkpointer.close()
        checkpointer.begin(None)
        checkpointer.save(Facts(1), write)

    assert "3 checkpoints (3.0 kB) lie aside and stay." in call("prune", run.path, "-y").stdout
    shown = call("prune", run.path, "--previous", "--dry-run").stdout
    assert f"asked for: of a previous run, {run.id}" in shown.replace("\n", " ")
    assert "Removes 3 that lay aside and frees 3.0 kB; 1 stay (1.0 kB)." in shown
    listed = json.loads(call("ls", run.path, "--all", "--format", "json").stdout)
    assert [(row["step"], row["state"]) for row in listed] == [
        *((step, "of a previous run") for step in (1, 2, 3)), (1, "committed"),
    ]  # fmt: skip
    where = f"previous/{run.id}"
    du = call("du", run.path).stdout
    assert f"keepstep prune {run.path} --previous" in " ".join(du.split())
    assert (run.path / ".keepstep" / where).exists()

    done = json.loads(call("prune", run.path, "--previous", "-y", "--format", "json").stdout)

    assert [(d["step"], d["run_id"], d["action"]) for d in done["aside"]] == [(s, run.id, "remove") for s in (1, 2, 3)]
    assert all(where in path for path in done["removed_aside"])
    assert not (run.path / ".keepstep" / where).exists()
    told = call("events", run.path).stdout
    assert f"{run.id} moved to .keepstep/{where}: this process trained it; steps 1, 2, 3, 3.0 kB" in told
    assert f"of the previous run {run.id}, 1.0 kB freed: asked for" in told
    assert f"nothing is left of the previous run {run.id}" in told
