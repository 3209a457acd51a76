"""DeepSpeed on two processes: all write, resumes are exact to the bit, what fails on one reaches all, nobody hangs.

accelerate gives DeepSpeed no backend on CPU: `cpu_deepspeed` does. GPUs, nccl, offloading and several nodes are not
tested here. Where DeepSpeed is not installed these tests are skipped; `make test-deepspeed` installs it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

if os.environ.get("KEEPSTEP_REQUIRE_DEEPSPEED"):
    import deepspeed  # noqa: F401 - where it is asked for, these tests fail without it
pytest.importorskip("deepspeed")

import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

import keepstep
from keepstep.cli.main import main
from keepstep.errors import CheckpointCorrupt
from keepstep.operations.removing.thinning import ThinRefused, thin
from tests.deepspeed.zero_legs import Leg, ride
from tests.sharded.faults import Fault
from tests.sharded.legs import Outcome, flip, outcome
from tests.training import processes
from tests.training.ranked import log_path, logs_of

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]
processes.PRELOADED.append("tests.deepspeed.zero_legs")

KINDS = ("two", "three", "lora")
EACH = {"save_steps": 1}
BEST = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "accuracy", "load_best_model_at_end": True,
        "save_total_limit": 1}  # fmt: skip
SCORES = {2: 0.5, 4: 0.9, 6: 0.6}
OPTIM, OF_RANK_1 = "zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"
WHOLE_MODEL, MODEL_OF_RANK_1 = "mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"


def flips(model: str, other: str, begin: str = "") -> tuple[tuple[int, str], ...]:
    """A bit in a file of each kind."""
    return (
        (6, f"global_step6/{begin}{OF_RANK_1}"), (5, f"global_step5/{begin}{OPTIM}"), (4, f"global_step4/{model}"),
        (3, other), (2, "latest"),
    )  # fmt: skip


FLIPS = {
    "two": flips(WHOLE_MODEL, "rng_state_1.pth"),
    "three": flips(MODEL_OF_RANK_1, "scheduler.pt", "bf16_"),
    "lora": flips(MODEL_OF_RANK_1, "keepstep_state_1.json"),
}
HOW = {"two": {"stage": 2}, "three": {"stage": 3, "bf16": True}, "lora": {"stage": 3, "lora": True}}
GATHERED = {"stage": 3, "bf16": True, "zero": {"stage3_gather_16bit_weights_on_model_save": True}}
SHORT = (0.3, 4.0, 3.0)
"""Seconds between signs of life, without one, and after a failure."""
SECONDS = 60.0
"""In which all ranks have ended: far less than the 30 minutes of `ddp_timeout`, on a busy machine too."""
LEGS = (
    *(Leg(kind, **HOW[kind], arguments=EACH) for kind in KINDS),
    *(Leg(f"{kind} flipped", **HOW[kind], arguments=EACH, copy=kind, upto=6, flips=FLIPS[kind]) for kind in KINDS),
    *(Leg(f"{kind} best", **HOW[kind], arguments=BEST, scores=SCORES) for kind in KINDS),
    *(
        Leg(f"{name} thinned", **how, arguments=BEST, scores=SCORES, keepstep={"keep": "best:1,latest:1"})
        for name, how in {**HOW, "gathered": GATHERED}.items()
    ),
    Leg("once", arguments=EACH, faults=((1, Fault("torch.save", errno.EIO)),)),
    Leg("once, the script", arguments=EACH, faults=((0, Fault("script", errno.EIO)),)),
    Leg("for ever", faults=((1, Fault("torch.save", errno.EIO, forever=True)),)),
    Leg("three of two", **HOW["three"], copy="two", upto=4),
)
FOUR = (Leg("four of two", copy="two", upto=4),)
ALONE = (
    Leg("plain", stage=None),
    Leg("plain of two", stage=None, copy="two", upto=4),
    Leg("one of three", **HOW["three"], copy="three", upto=4),
    Leg("two of plain", copy="plain", upto=4),
    Leg("alone"),
    Leg("alone resumed", copy="alone", upto=4),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all legs are carried out, by processes that are started once for each number of ranks."""
    path = tmp_path_factory.mktemp("zero")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.training.processes._TIMEOUT", 500)  # for all legs of a number of ranks together
        for legs, world in ((LEGS, 2), (ALONE, 1), (FOUR, 4)):
            codes = ride(path, *legs, world=world)
            assert codes == [0] * world, logs_of(path)
    return path


def same(home: Path, leg: str, reference: str, *, world: int = 2) -> list[Outcome]:
    """What the ranks left of a leg, which came to the same as another one, bit for bit."""
    found = [outcome(home, leg, rank) for rank in range(world)]
    for rank, one in enumerate(found):
        whole = outcome(home, reference, rank)
        assert whole.weights and not one.error, one
        assert (one.weights, one.optimizer, one.history) == (whole.weights, whole.optimizer, whole.history), leg
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_with_its_rank_all_fall_back_and_the_resume_is_exact(home: Path, kind: str) -> None:
    for one in same(home, f"{kind} flipped", kind):
        assert one.receipt is not None
        assert (one.receipt["level"], one.receipt["step"]) == ("exact", 1), one.receipt
        assert "equal what was saved, on 2 ranks" in one.receipt["compared"]
        assert "parts of the model and" in one.receipt["compared"]
    said = log_path(home, 0).read_text()
    for _, path in FLIPS[kind]:
        assert f"{path} has other bytes than were written (digest differs)" in said, path
    assert f"{OF_RANK_1} has other bytes than were written (digest differs), written by rank 1" in said


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_is_loaded_at_the_end_and_the_rest_goes_by_policy(home: Path, kind: str) -> None:
    for rank in range(2):
        one = outcome(home, f"{kind} best", rank)
        assert (one.best, one.error) == ("checkpoint-4", ""), one
    assert sorted(path.name for path in (home / f"{kind} best").glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    best, then = torch.load(home / f"{kind} best.pt"), torch.load(home / f"{kind}.pt")
    assert any(not torch.equal(best[name], then[name]) for name in best)
    if kind == "two":
        saved = load_file(home / "two best" / "checkpoint-4" / "model.safetensors")
        assert all(torch.equal(best[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize("kind", [*KINDS, "gathered"])
def test_a_best_that_is_thinned_by_policy_is_loaded_at_the_end_all_the_same(home: Path, kind: str) -> None:
    """ZeRO-3's weights lie among what only a resume needs, unless they are gathered: such a one stays whole."""
    thinned, whole = (
        torch.load(home / f"{kind} thinned.pt"),
        torch.load(home / f"{'three' if kind == 'gathered' else kind} best.pt"),
    )
    assert all(torch.equal(whole[name], tensor) for name, tensor in thinned.items())
    best = "checkpoint-4" if kind == "three" else "weights-4"
    assert [outcome(home, f"{kind} thinned", rank).best for rank in range(2)] == [best, best]
    assert sorted(path.name for path in (home / f"{kind} thinned").glob("*-[0-9]")) == sorted(["checkpoint-6", best])
    if kind == "three":
        assert "whole: its weights lie in DeepSpeed's files alone" in command("show", home / "three thinned", 4)


def test_each_file_is_written_once_a_save(home: Path) -> None:
    """Stock writes all of ZeRO-3's twice, as `save_model` falls back to DeepSpeed's own save."""
    text = log_path(home, 1).read_text().split("LEG three\n")[1].split("LEG lora\n")[0]
    assert text.count(f"WRITES bf16_{OF_RANK_1}") == text.count(f"WRITES {MODEL_OF_RANK_1}") == 6
    assert (home / "three" / "checkpoint-6" / "latest").read_text() == "global_step6"


def test_what_fails_once_on_one_rank_is_written_anew_by_all(home: Path) -> None:
    for leg in ("once", "once, the script"):
        same(home, leg, "two")
        run = keepstep.Run.open(home / leg)
        assert any(event["event"] == "failed" for event in run.events.read()), leg
        assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)


def test_what_fails_for_ever_ends_all_with_the_step_the_rank_and_the_error(home: Path) -> None:
    for rank in range(2):
        one = outcome(home, "for ever", rank)
        assert one.kind == "StorageError", one
        assert "step 2 could not be written by rank 1: Input/output error" in one.error


def refused(home: Path, leg: str, world: int) -> str:
    found = [outcome(home, leg, rank) for rank in range(world)]
    assert {(one.kind, one.error, one.step) for one in found} == {("ResumeRefused", found[0].error, 0)}, found
    return found[0].error


@pytest.mark.parametrize(("leg", "world", "said"), [
    ("four of two", 4, ("saved by 2 processes", "runs on 4 processes", "ds_to_universal", "keepstep export")),
    ("one of three", 1, ("saved by 2 processes", "runs on 1 process", "ds_to_universal", "keepstep export")),
    ("three of two", 2, ("was saved with ZeRO-1 or 2", "uses ZeRO-3", "keepstep export")),
    ("plain of two", 1, ("was saved by DeepSpeed", "does not use DeepSpeed", "Resume with DeepSpeed, on 2 processes")),
    ("two of plain", 1, ("reads nothing but what DeepSpeed has saved", "Resume without DeepSpeed")),
])  # fmt: skip
def test_another_division_is_refused_before_anything_is_loaded(
    home: Path, leg: str, world: int, said: tuple[str, ...]
) -> None:
    error = refused(home, leg, world)
    assert all(words in error for words in said), error


def test_one_process_with_deepspeed_resumes_exactly(home: Path) -> None:
    (one,) = same(home, "alone resumed", "alone", world=1)
    assert one.receipt is not None and one.receipt["level"] == "exact", one.receipt
    assert "equal what was saved, on 1 rank" in one.receipt["compared"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_the_weights_that_deepspeed_gathers(home: Path, kind: str, tmp_path: Path) -> None:
    exported = keepstep.export(home / kind, tmp_path / "out", reference=6)
    gathered = torch.load(home / f"{kind}.pt")
    if kind == "lora":
        found = load_file(exported.path / "adapter_model.safetensors")
        expected = {name.replace(".default.", "."): tensor for name, tensor in gathered.items() if "lora_" in name}
        assert (exported.path / "adapter_config.json").is_file()
    else:
        found, expected = load_file(exported.path / "model.safetensors"), gathered
        assert exported.dtype == ("bfloat16" if kind == "three" else "float32")
        assert LlamaForCausalLM.from_pretrained(exported.path).config.vocab_size == 64
    assert found.keys() == expected.keys()
    assert all(found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in expected.items())
    assert (exported.path / "tokenizer.json").is_file()
    assert any("in a process of its own" in note for note in exported.notes) == (kind == "three")
    assert not list(exported.path.rglob("*.pt")) and not list(exported.path.rglob("zero_to*"))


def test_an_export_of_damaged_ranks_unpickles_nothing(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "three", tmp_path / "run")
    flip(tmp_path / "run" / "checkpoint-6" / FLIPS["three"][0][1])
    with pytest.raises(CheckpointCorrupt, match=OF_RANK_1):
        keepstep.export(tmp_path / "run", tmp_path / "out", reference=6)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_know_what_deepspeed_wrote(home: Path, kind: str) -> None:
    run = keepstep.Run.open(home / kind)
    assert "checkpoint-6" in command("show", run.path, "6") and "6" in command("ls", run.path)
    command("verify", run.path)
    assert kind in command("du", run.path)
    if kind == "three":
        with pytest.raises(ThinRefused, match="it stays whole"):
            thin(run, 3)
        return
    command("thin", run.path, "3")
    left = {path.relative_to(home / kind / "weights-3").as_posix() for path in (home / kind / "weights-3").rglob("*")}
    assert {"lora": "adapter_model.safetensors", "two": "model.safetensors"}[kind] in left
    assert not {name for name in left if name.startswith(("global_step", "latest", "zero_to", "rng_state"))}


def test_a_rank_that_is_killed_in_a_save_ends_the_others_and_the_newest_commit_goes_on(
    home: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    struck = Leg("struck", arguments=EACH, limits=SHORT, faults=((1, Fault("torch.save", "kill", nth=6)),))
    codes = ride(tmp_path, struck)
    assert time.monotonic() - began < SECONDS and codes[1] == -signal.SIGKILL, codes
    assert codes[0] != 0 or outcome(tmp_path, "struck").kind == "RankLost", logs_of(tmp_path)
    committed = [int(path.name.rpartition("-")[2]) for path in (tmp_path / "struck").glob("checkpoint-*")]
    assert committed and max(committed) < 6
    assert ride(tmp_path, Leg("again", arguments=EACH, copy="struck", upto=99)) == [0, 0], logs_of(tmp_path)
    for rank in range(2):
        one, whole = outcome(tmp_path, "again", rank), outcome(home, "two", rank)
        assert (one.weights, one.optimizer, one.history) == (whole.weights, whole.optimizer, whole.history)
        assert one.receipt is not None and one.receipt["step"] == max(committed)


def command(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="keepstep")
    assert done.exit_code == 0, done.output
    return done.output
