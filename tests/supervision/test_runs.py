"""A run under supervision: progress by its commits, the way one checkpoint back, records and notifications."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.supervision.ends import Kind
from tests.supervision.commands import python
from tests.supervision.conftest import Run

LOOP = """
from keepstep import Checkpointer, Facts, Policy
from keepstep.errors import KeepstepError
checkpointer = Checkpointer('{run}', Policy.from_spec('all'))
point = checkpointer.begin('auto')
step = point.checkpoint.step if point else 0
print('from', step, flush=True)
while step < 6:
    step += 1
    {happens}
    if step % 2 == 0:
        checkpointer.save(Facts(step=step), lambda place: (place / 'state').write_text(str(step)))
checkpointer.close(finished=True)
"""


def loop(run: Path, happens: str) -> list[str]:
    """A training loop of somebody's own that saves every two steps."""
    return python(LOOP.format(run=run, happens=happens))


def test_a_crash_loop_goes_back_one_checkpoint_once_and_may_come_through(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "run"
    # What is poisoned is the state of step 4: who comes by from step 2 gets through.
    happens = "if step == 5 and (attempt == 1 or point and point.checkpoint.step == 4): os.kill(os.getpid(), 9)"
    ended = run(loop(place, happens), "--run", place, "--crash-loop", 2)
    assert ended.code == 0
    assert ended.stdout.split("\n")[:-1] == ["from 0", "from 4", "from 4", "from 2"]
    (back,) = ended.named("went-back")
    assert (back["left"], back["step"]) == (4, 2)
    assert "goes back from step 4 to step 2, once" in ended.stderr
    from keepstep import open_run

    seen = open_run(str(place))
    assert [checkpoint.step for checkpoint in seen.checkpoints] == [2, 4, 6]
    assert [checkpoint.step for checkpoint in seen.aside] == [4]


def test_a_crash_loop_that_goes_on_after_that_stops_with_what_is_safe(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "run"
    ended = run(loop(place, "if step == 5: os.kill(os.getpid(), 9)"), "--run", place, "--crash-loop", 1)
    assert ended.code == 137
    assert len(ended.named("went-back")) == 1
    (report,) = ended.named("gave-up")
    assert "crash loop" in report["why"]
    assert f"{place}: 2 checkpoints, the newest is step 4" in report["report"]
    assert report["report"].count("SIGKILL") == len(ended.kinds)


def test_crashes_with_commits_between_are_no_loop(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "run"
    ended = run(loop(place, "if attempt < 3 and step == (3, 5)[attempt - 1]: os.kill(os.getpid(), 9)"),
                "--run", place, "--crash-loop", 1)  # fmt: skip
    assert (ended.code, ended.kinds) == (0, [Kind.SIGNAL, Kind.SIGNAL, Kind.DONE])
    assert not ended.named("went-back")


def test_events_reach_a_command_as_json_and_its_failure_harms_nothing(run: Run, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    notify = f"cat >> {heard}; echo >> {heard}; echo it broke >&2; exit 7"
    ended = run(python("sys.exit(0 if attempt > 1 else 75)"), "--notify", notify)
    told = [json.loads(line) for line in heard.read_text().splitlines()]
    assert [event["event"] for event in told] == ["started", "restarting", "started", "ended"]
    assert told == ended.events
    assert ended.code == 0 and "--notify: exit code 7 it broke" in ended.stderr


@pytest.mark.parametrize("name", ["--keep", "--budget"])
def test_what_attach_would_not_take_is_refused_before_anything_starts(run: Run, tmp_path: Path, name: str) -> None:
    ended = run(python(f"open({str(tmp_path / 'ran')!r}, 'w')"), "--attach", name, "nonsense")
    assert ended.code == 2 and not (tmp_path / "ran").exists()
    assert run(python("pass"), name, "best:3").code == 2


def test_the_log_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    from keepstep.supervision.console import Log

    log = Log(tmp_path / "early", limit=10, kept=2)
    log.write(b"12345678")
    log.move_to(tmp_path / "later/console.log")
    for word in (b"abcdef", b"ghijkl", b"mnopqr"):
        log.write(word)
    log.close()
    texts = [(tmp_path / "later" / f"console.log{end}").read_bytes() for end in ("", ".1", ".2")]
    assert texts == [b"mnopqr", b"ghijkl", b"abcdef"]
    assert not (tmp_path / "early").exists() and not (tmp_path / "later/console.log.3").exists()
