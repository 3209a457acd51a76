"""A directory of stock checkpoints becomes a managed run: in order, with its log, and whatever kills it on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keepstep.errors import SettingsError
from keepstep.operations.adopting import NothingToAdopt, adopt, is_half_adopted, plan_adoption
from keepstep.repository import MANIFEST_NAME
from keepstep.run import History, Run, StockRun
from keepstep.stores import LocalStore
from tests.cli.conftest import Call, call  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.stock.written import LAYOUTS, checkpoint, everything_below, log_to, run_of

START = 1_700_000_000


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.stores.local.os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_adopted_and_holds(tmp_path: Path, layout: str) -> None:
    run_of(tmp_path, (2, 4, 6), layout)
    before = everything_below(tmp_path)
    run = adopt(plan_adoption(tmp_path))
    assert run.managed and [c.step for c in run.checkpoints] == [2, 4, 6]
    assert all(run.verify(c).ok for c in run.checkpoints)
    assert [c.generation for c in run.checkpoints] == [1, 2, 3]
    assert run.checkpoints[-1].parent == 2
    assert run.best is not None and run.best.step == 6
    assert len(run.plan().keep) == 3
    if layout != "weights":
        assert run.resume_point().checkpoint.step == 6
    after = everything_below(tmp_path)
    assert {name: after[name][2] for name in before} == {name: bytes_ for name, (_, _, bytes_) in before.items()}


def test_the_log_becomes_the_first_attempt(tmp_path: Path) -> None:
    run_of(tmp_path, (2, 4))
    run = adopt(plan_adoption(tmp_path))
    history = History(run.store)
    points = history.points
    assert [(point.step, sorted(point.values)) for point in points] == [
        (2, ["loss"]), (2, ["eval_loss", "eval_runtime"]), (4, ["loss"]), (4, ["eval_loss", "eval_runtime"])
    ]  # fmt: skip
    history.read()
    assert [attempt.max_steps for attempt in history.attempts] == [40]


def test_what_is_torn_is_named_and_stays(tmp_path: Path) -> None:
    run_of(tmp_path, (2, 4))
    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    before = everything_below(tmp_path / "checkpoint-4")
    adoption = plan_adoption(tmp_path)
    assert [torn.checkpoint.step for torn in adoption.torn] == [4]
    run = adopt(adoption)
    assert [c.step for c in run.checkpoints] == [2]
    assert everything_below(tmp_path / "checkpoint-4") == before


def test_an_old_course_comes_before_the_present_one(tmp_path: Path) -> None:
    for step in (6, 8):
        checkpoint(tmp_path, step, at=START + step)
    for step in (2, 4):
        checkpoint(tmp_path, step, log=log_to(step, offset=0.5), at=START + 100 + step)
    run = adopt(plan_adoption(tmp_path))
    assert [(c.step, c.timeline) for c in run.checkpoints] == [(6, 1), (8, 1), (2, 2), (4, 2)]
    assert run.resume_point().checkpoint.step == 4


def test_nothing_whole_is_nothing_to_adopt(tmp_path: Path) -> None:
    home = checkpoint(tmp_path, 2)
    (home / "model.safetensors").unlink()
    with pytest.raises(NothingToAdopt, match="has no weights"):
        plan_adoption(tmp_path)
    assert not (tmp_path / ".keepstep").exists()


def test_a_managed_run_is_not_adopted_again(tmp_path: Path) -> None:
    run_of(tmp_path, (2,))
    adopt(plan_adoption(tmp_path))
    with pytest.raises(SettingsError, match="managed run already"):
        plan_adoption(tmp_path)


class Killed(BaseException):
    """A kill, as far as files go."""


CHANGING = ("make_directory", "write", "append", "replace", "sync_file", "sync_directory", "rename", "delete")


def killed_after(monkeypatch: pytest.MonkeyPatch, operations: int, act: Callable[[], object]) -> bool:
    """Run something that is killed before its nth change of the disk; False where it came to its end before."""
    left = iter(range(operations))

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return real(*args, **kwargs)

        return operation

    with monkeypatch.context() as patch:
        for name in CHANGING:
            patch.setattr(LocalStore, name, counted(getattr(LocalStore, name)))
        try:
            act()
        except Killed:
            return True
    return False


def points_of_a_kill() -> Iterator[int]:
    yield from range(200)


def test_an_adoption_that_is_killed_anywhere_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = 0
    for number in points_of_a_kill():
        home = run_of(tmp_path / str(number), (2, 4, 6))
        files = {p for p in home.rglob("*") if p.is_file()}
        if not killed_after(monkeypatch, number, lambda home=home: adopt(plan_adoption(home))):
            break
        kills += 1
        # Whatever there is of it can be looked at, and every manifest that is there is true.
        seen = Run.open(home) if (home / ".keepstep" / "run.json").exists() else StockRun.open(home)
        assert all(seen.verify(c).ok for c in seen.checkpoints), number
        assert all(path.exists() for path in files)
        run = Run.open(home) if not is_half_adopted(home) and seen.managed else adopt(plan_adoption(home))
        assert [(c.step, c.generation) for c in run.checkpoints] == [(2, 1), (4, 2), (6, 3)], number
        assert all(run.verify(c).ok for c in run.checkpoints)
        assert not is_half_adopted(home)
        commits = [event["generation"] for event in run.events.read() if event["event"] == "committed"]
        assert commits == [1, 2, 3]
        assert len(History(run.store).points) == 6
    assert kills > 30


def test_a_training_between_a_kill_and_the_rest_takes_none_of_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = run_of(tmp_path, (2, 4, 6))

    def stop(checkpoint: object) -> None:
        if (home / "checkpoint-2" / MANIFEST_NAME).exists():
            raise Killed

    with pytest.raises(Killed):
        adopt(plan_adoption(home), on_start=stop)
    run = Run.open(home)
    assert [c.step for c in run.checkpoints] == [2]
    with run.writing():
        assert run.next_generation() == 4


def test_the_command_shows_asks_and_adopts(call: Call, tmp_path: Path) -> None:  # noqa: F811
    run_of(tmp_path, (2, 4))
    shown = call("adopt", tmp_path)
    assert "dry run" in shown.output and not (tmp_path / ".keepstep").exists()
    found = json.loads(call("adopt", tmp_path, "--yes", "--nice", "--format", "json").stdout)
    assert found["applied"] and found["run_id"] == Run.open(tmp_path).id
    assert "managed run already" in call("adopt", tmp_path).output
    assert call("verify", tmp_path).exit_code == 0
