"""FSDP2 on two processes: all write, resumes are exact to the bit, what fails on one reaches all, nobody hangs.

accelerate has no FSDP for CPU: `cpu_fsdp` lets it have one. GPUs, nccl and several nodes are not tested here.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import keepstep
from tests.sharded.faults import Fault
from tests.sharded.legs import FULL, SHARDED, Leg, Outcome, outcome, ride
from tests.training.ranked import logs_of
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5"),
]

BEST = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "accuracy", "load_best_model_at_end": True,
        "save_total_limit": 1}  # fmt: skip
SCORES = {2: 0.5, 4: 0.9, 6: 0.6}
SHARD = "pytorch_model_fsdp_0/__1_0.distcp"
FLIPS = (
    (6, SHARD), (5, "optimizer_0/__0_0.distcp"), (4, "optimizer_0/.metadata"), (3, "rng_state_1.pth"),
    (2, "keepstep_state_1.json"),
)  # fmt: skip
"""A bit in a file of each kind."""
STOCK = {"engine": "stock"}
LEGS = (
    Leg("whole"),
    Leg("resumed", copy="whole", upto=2),
    Leg("every step", arguments={"save_steps": 1}),
    Leg("flipped", arguments={"save_steps": 1}, copy="every step", upto=6, flips=FLIPS),
    Leg("gathered", state=FULL),
    Leg("gathered resumed", state=FULL, copy="gathered", upto=4),
    Leg("lora", lora=True),
    Leg("lora resumed", lora=True, copy="lora", upto=4),
    Leg("best", scores=SCORES, arguments=BEST),
    Leg("preempted", preempt=(1, 3)),
    Leg("gone on", copy="preempted", upto=4),
    Leg("disks of their own", elsewhere=True),
    Leg("once, a directory", faults=((1, Fault("makedirs", errno.EIO)),)),
    Leg("for ever", keepstep=STOCK, faults=((1, Fault("shards", errno.EIO, forever=True)),)),
    Leg("no room", faults=((0, Fault("torch.save", errno.ENOSPC, forever=True)),)),
)
MORE = (
    Leg("shards of gathered", state=SHARDED, copy="gathered", upto=2),
    Leg("tied", tied=True),
    Leg("tied resumed", tied=True, copy="tied", upto=4),
    Leg("sft", kind="sft"),
    Leg("sft resumed", kind="sft", copy="sft", upto=4),
    Leg("best gathered", scores=SCORES, arguments=BEST, state=FULL),
    Leg("once", keepstep=STOCK, faults=((1, Fault("shards", errno.EIO)),)),
    Leg("once, in the background", faults=((1, Fault("sync", errno.EIO)),)),
    Leg("once, rank 0", faults=((0, Fault("torch.save", errno.EIO)),)),
    Leg("once, gathered weights", state=FULL, faults=((0, Fault("safetensors", errno.ENOSPC)),)),
)
"""Of the same laws in other variants."""
LATER = {leg.name for leg in MORE}


def legs(*cases: tuple[Any, ...]) -> list[Any]:
    """Cases that begin with a leg's name, those of `MORE` marked."""
    return [pytest.param(*case, marks=[pytest.mark.long] * (case[0] in LATER)) for case in cases]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all legs are carried out, by two processes that are started once."""
    path = tmp_path_factory.mktemp("fsdp")
    codes = ride(path, *LEGS)
    assert codes == [0, 0], logs_of(path)
    return path


@pytest.fixture(scope="module")
def more(home: Path) -> Path:
    """The same place, the legs of `MORE` in it too."""
    codes = ride(home, *MORE)
    assert codes == [0, 0], logs_of(home)
    return home


@pytest.fixture
def place(request: pytest.FixtureRequest, home: Path) -> Path:
    """Where the legs are that the test looks at."""
    return request.getfixturevalue("more") if request.node.get_closest_marker("long") else home


def same(home: Path, leg: str, reference: str) -> list[Outcome]:
    """What both ranks left of a leg, which came to the same as another one, bit for bit."""
    found = [outcome(home, leg, rank) for rank in range(2)]
    for rank, one in enumerate(found):
        whole = outcome(home, reference, rank)
        assert whole.weights and not one.error, one
        assert (one.weights, one.optimizer, one.history) == (whole.weights, whole.optimizer, whole.history), leg
    return found


@pytest.mark.parametrize(
    ("leg", "reference", "step"),
    legs(
        ("resumed", "whole", 2), ("gathered resumed", "gathered", 4), ("shards of gathered", "whole", 2),
        ("lora resumed", "lora", 4), ("tied resumed", "tied", 4), ("sft resumed", "sft", 4), ("gone on", "whole", 4),
    ),
)  # fmt: skip
def test_a_resume_is_exact_to_the_bit(place: Path, leg: str, reference: str, step: int) -> None:
    for one in same(place, leg, reference):
        assert one.receipt is not None
        assert (one.receipt["level"], one.receipt["step"]) == ("exact", step), one.receipt
        assert "equal what was saved, on 2 ranks" in one.receipt["compared"]


def test_both_kinds_of_files_are_of_one_training(home: Path) -> None:
    same(home, "gathered", "whole")


def test_damage_is_named_with_its_rank_and_all_fall_back(home: Path) -> None:
    for one in same(home, "flipped", "every step"):
        assert one.receipt is not None and one.receipt["step"] == 1
    said = log(home)
    for _, path in FLIPS:
        who = "" if path.endswith(".metadata") else f", written by rank {int('1' in path.rpartition('/')[2])}"
        assert f"{path} has other bytes than were written (digest differs){who}" in said, path


@pytest.mark.parametrize("leg", legs(("best",), ("best gathered",)))
def test_the_best_is_loaded_at_the_end_and_the_rest_goes_by_policy(place: Path, leg: str) -> None:
    one = outcome(place, leg)
    assert one.weights == outcome(place, "best").weights != outcome(place, "whole").weights
    assert one.best == "checkpoint-4", one
    assert sorted(path.name for path in (place / leg).glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_a_signal_to_one_rank_stops_all_with_a_save_of_all(home: Path) -> None:
    for rank in range(2):
        assert outcome(home, "preempted", rank).kind == "Preempted"
    assert (home / "preempted" / "checkpoint-4" / SHARD).is_file()


@pytest.mark.parametrize("leg", legs(*((leg.name,) for leg in LEGS + MORE if leg.name.startswith("once"))))
def test_what_fails_once_on_one_rank_is_written_anew_by_all(place: Path, leg: str) -> None:
    same(place, leg, "whole")
    run = keepstep.Run.open(place / leg)
    assert any(event["event"] == "failed" for event in run.events.read()), leg
    assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)


def test_what_fails_for_ever_ends_all_with_the_step_the_rank_and_the_error(home: Path) -> None:
    for rank in range(2):
        one = outcome(home, "for ever", rank)
        assert one.kind == "StorageError", one
        assert "step 2 could not be written by rank 1: Input/output error" in one.error


def test_without_room_the_training_goes_on_to_its_end(home: Path) -> None:
    for rank in range(2):
        one = outcome(home, "no room", rank)
        assert (one.kind, one.step) == ("DiskFull", 6), one
        assert "3 saves were refused" in one.error


def test_an_output_dir_that_not_all_share_is_refused_before_anything_is_trained(home: Path) -> None:
    for rank in range(2):
        one = outcome(home, "disks of their own", rank)
        assert (one.kind, one.step) == ("SettingsError", 0), one
        assert "rank 1, on " in one.error and "does not see" in one.error and "all nodes share" in one.error
    assert not list((home / "disks of their own" / ".keepstep").glob("seen-by-all-*"))


def test_a_checkpoint_of_shards_is_whole(home: Path) -> None:
    checkpoint = home / "whole" / "checkpoint-6"
    files = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= files
    assert {"trainer_state.json", "training_args.bin", "keepstep_state.json", "keepstep_state_1.json"} <= files
    assert {f"{room}/{name}" for room in ("optimizer_0", "pytorch_model_fsdp_0")
            for name in (".metadata", "__0_0.distcp", "__1_0.distcp")} <= files  # fmt: skip
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert (home / "lora" / "checkpoint-6" / "adapter_config.json").is_file()
    assert {file.path for file in keepstep.Run.open(home / "whole").checkpoints[-1].files} == files - {"keepstep.json"}


def test_the_commands_know_shards(home: Path) -> None:
    run = home / "whole"
    assert "checkpoint-6" in command("show", run, "6") + command("ls", run)
    assert "3" in command("verify", run)
    assert "whole" in command("du", run)
    command("thin", run, "2")
    thinned = run / "weights-2"
    assert (thinned / SHARD).is_file() and (thinned / "config.json").is_file()
    assert not (thinned / "optimizer_0").exists() and not (run / "checkpoint-2").exists()


def command(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "keepstep", name, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def log(home: Path) -> str:
    return (home / "log-0").read_text()
