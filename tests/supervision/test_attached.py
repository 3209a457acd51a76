"""Unchanged scripts under the hook, with the real libraries."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keepstep import open_run
from keepstep.supervision.hook import environment
from keepstep.supervision.marks import Marks

pytestmark = [pytest.mark.training, pytest.mark.timeout(1000)]
ROOT = Path(__file__).parents[2]
LONGEST = 900


def script(home: Path, break_at: int, *, go_on: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """What each trainer of the script went through, by name."""
    (home / "marks").mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join((os.environ.get("PYTHONPATH", ""), str(ROOT)))
    made = environment(
        {**os.environ, "PYTHONPATH": path}, marks=home / "marks", attach=True, options={"keep": "latest:2"},
        attempt=1, go_on=go_on,
    )  # fmt: skip
    command = [sys.executable, "-m", "tests.supervision.stock_script", str(home), str(break_at)]
    done = subprocess.run(command, env=made, capture_output=True, text=True, check=False, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    (home / "stderr").write_text(done.stderr)
    lines = (home / "seen.jsonl").read_text().splitlines()
    (home / "seen.jsonl").unlink()
    return {one["name"]: one for one in map(json.loads, lines)}


@pytest.mark.long
def test_every_way_to_reach_train_is_managed_once_and_goes_on_by_itself(tmp_path: Path) -> None:
    first = script(tmp_path, 5)
    ran = {name: one["ran"] for name, one in first.items()}
    assert ran == {
        "plain": [], "said": [], "sub": ["Sub"], "subsub": ["SubSub", "Sub"], "bare": ["Bare"],
        "patched": ["patch", "Sub"], "fresh": [], "again": [], "path": [], "back": [], "other": [],
        "own": [], "odd": [],
        "again_patched": ["patch", "Sub"] * 2,
    }  # fmt: skip
    broken = set(first) - {"again", "again_patched", "odd"}
    assert {first[name]["raised"] for name in broken} == {"Broken"}
    assert {one["callbacks"] for one in first.values()} == {0}, "what watches is gone between trainings"
    assert open_run(str(tmp_path / "plain")).policy.describe() == "the latest 2"
    assert open_run(str(tmp_path / "own")).policy.describe() == "the newest", "who attaches by himself is left alone"
    for again in (open_run(str(tmp_path / name)) for name in ("again", "again_patched")):
        assert [one.step for one in again.checkpoints] == [4, 6] and again.previous_runs.runs, "it trained twice"
    assert not (tmp_path / "odd/.keepstep").exists() and first["odd"]["step"] == 6
    assert "trains as before" in (tmp_path / "stderr").read_text()

    # A second process, as a restart. Only who names an older checkpoint, in no run that was saved to, goes back to it.
    second = script(tmp_path, 6, go_on=(tmp_path / "other", tmp_path / "fresh"))
    began = {name: second[name]["began"] for name in broken}
    assert began == dict.fromkeys(broken, 4) | {"back": 2}
    assert ran == {name: one["ran"] for name, one in second.items()}
    ends = Marks(tmp_path / "marks").ends()
    assert {(end.type, end.step) for end in ends} <= {("__main__.Broken", 5), ("__main__.Broken", 6)} and ends


SLOW = """
import os, sys, time
from transformers import TrainerCallback
from tests.supervision import small
class Sleeps(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if os.environ["KEEPSTEP_ATTEMPT"] == "1" and state.global_step == 3:
            time.sleep(1000)  # as a collective does whose other side is gone
small.trainer(sys.argv[1], callbacks=[Sleeps()]).train()
"""


def supervised(place: Path, command: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """`keepstep run --attach` over an unchanged command, in a directory."""
    path = os.pathsep.join((os.environ.get("PYTHONPATH", ""), str(ROOT)))
    words = [sys.executable, "-m", "keepstep", "run", "--attach", "--backoff", "10ms", *options, "--", *command]
    return subprocess.run(
        words, cwd=place, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        timeout=LONGEST,
    )  # fmt: skip


@pytest.mark.campaign
def test_a_hang_shows_its_stacks_is_ended_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    done = supervised(tmp_path, [sys.executable, "slow.py", "out"], "--hang", "8s", "--grace", "5s")
    assert done.returncode == 0, done.stderr
    told = [
        json.loads(line) for line in (tmp_path / "out/.keepstep/supervised/attempts.jsonl").read_text().splitlines()
    ]
    (hung,) = [event for event in told if event["event"] == "hung"]
    assert "at step 3, in a step" in hung["reason"] and "in on_step_begin" in hung["stacks"]
    assert [event["kind"] for event in told if "kind" in event] == ["hung", "done"]
    resumed = [event["step"] for event in open_run(str(tmp_path / "out")).events.read() if event["event"] == "resumed"]
    assert resumed == [2]
    assert "it hangs: " in (tmp_path / "out/.keepstep/supervised/console.log").read_text()


SFT = (
    f"{Path(sys.executable).with_name('trl')} sft --model_name_or_path model --dataset_name data --max_steps 12 "
    "--save_steps 2 --learning_rate 1e-2 "
    "--per_device_train_batch_size 2 --use_cpu --report_to none --logging_steps 1 --dtype float32 --bf16 false "
    "--gradient_checkpointing false --disable_tqdm true --output_dir"
)
KILLER = """
import json, os, signal, sys, time
from pathlib import Path
out, ways = Path(sys.argv[1]), sys.argv[2:]
seen = 0
while ways:
    time.sleep(0.02)
    try:
        committed = (out / ".keepstep/events.jsonl").read_text().count('"committed"')
        trainer = json.loads((out / ".keepstep/owner.json").read_text())["pid"]
    except (OSError, ValueError, KeyError):
        continue
    if committed > seen:
        try: os.kill(trainer, signal.Signals[ways.pop(0)])
        except ProcessLookupError: continue
        while Path(f"/proc/{trainer}").exists(): time.sleep(0.02)
        seen = (out / ".keepstep/events.jsonl").read_text().count('"committed"')
"""
"""Tells the process that holds the run to end, from another process, once after each new commit."""


def trl_sft(home: Path, ways: Sequence[str], steps: int) -> None:
    """The unmodified command line, ended in these ways, and undisturbed by itself: the same weights, bit for bit."""
    from tests.training import tiny

    tiny.model(tiny.Recipe()).save_pretrained(home / "model")
    tiny.tokenizer().save_pretrained(home / "model")
    (home / "data").mkdir()
    rows = "\n".join(json.dumps({"text": text}) for text in tiny.texts(24, seed=3))
    (home / "data/train.jsonl").write_text(rows)
    command = SFT.replace("--max_steps 12", f"--max_steps {steps}").split()
    stock = subprocess.Popen([*command, "stock"], cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killer = subprocess.Popen([sys.executable, "-c", KILLER, str(home / "out"), *ways])
    try:
        done = supervised(home, [*command, "out"], "--max-restarts", str(len(ways)))
    finally:
        killer.kill()
        killer.wait()
        assert stock.wait(LONGEST) == 0
    assert done.returncode == 0, done.stderr
    run = open_run(str(home / "out"))
    resumed = [event for event in run.events.read() if event["event"] == "resumed"]
    assert len(resumed) == len(ways) and {event["level"] for event in resumed} == {"exact"}
    digests = {hashlib.sha256((home / name / "model.safetensors").read_bytes()).digest() for name in ("stock", "out")}
    assert len(digests) == 1
