"""Exports of whole models: what is in them, how they are checked, and what is refused."""

from __future__ import annotations

import getpass
import json
import os
import pickle
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

import keepstep
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.cli.main import main as cli
from keepstep.engine import Imprint
from keepstep.errors import CheckpointCorrupt, CheckpointNotFound
from keepstep.integrations.transformers.exporting import building, checking, exporter
from keepstep.operations.export.errors import ExportRefused, ExportUnequal
from keepstep.operations.resealing.reseal import plan_reseal, reseal
from keepstep.repository import file_digest
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.stores import LocalStore
from tests.operations.runs import flip
from tests.training.commands import Shell
from tests.training.exported import files_in, gpt2, llama, make_run, same, tensors_of
from tests.training.tiny import NEWEST, Recipe, build

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
OURS = {"README.md", "keepstep_export.json"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {10: llama(1), 20: llama(2)})


def _only(directory: Path, *names: str) -> bool:
    return sorted(path.name for path in directory.iterdir()) == sorted(names)


def test_the_best_model_leaves_the_run_without_its_training(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported = keepstep.export(run, out)
    source = run.path / "checkpoint-10"
    found = files_in(out)
    assert found >= {"config.json", "model.safetensors", "tokenizer.json"} | OURS
    assert not found & {"optimizer.pt", "training_args.bin", "trainer_state.json", "keepstep.json", "rng_state.pth"}
    assert found == {entry.path for entry in exported.files}
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert (out / "README.md").read_text() != "the trainer's card"
    assert os.stat(out / "model.safetensors").st_nlink == 1
    assert same(AutoModelForCausalLM.from_pretrained(out).state_dict(), llama(1).state_dict())
    assert AutoTokenizer.from_pretrained(out)("w1 w2")["input_ids"] == [5, 6]
    check = exported.check
    assert check is not None and check.forward is not None
    assert (check.loaded_by, check.tensors, check.forward.difference) == ("LlamaForCausalLM", 21, 0.0)
    assert run.verify(run.find(10)).ok
    assert _only(tmp_path, "run", "out")


def test_the_marker_has_the_digest_of_every_other_file(run: Run, tmp_path: Path) -> None:
    keepstep.export(run, tmp_path / "out", reference=20)
    marker = json.loads((tmp_path / "out" / "keepstep_export.json").read_text())
    assert {entry["path"] for entry in marker["files"]} == files_in(tmp_path / "out") - {"keepstep_export.json"}
    for entry in marker["files"]:
        assert entry["digest"] == file_digest(LocalStore(tmp_path / "out"), entry["path"])
    assert [checkpoint["step"] for checkpoint in marker["checkpoints"]] == [20]
    assert marker["run"]["id"] == run.id


def test_the_card_is_one_that_the_hub_reads_and_tells_nothing_of_the_machine(run: Run, tmp_path: Path) -> None:
    keepstep.export(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    data = ModelCard(text).data.to_dict()
    assert data == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["keepstep"]}
    for fact in (run.id, "step 10", "eval\\_loss 10", "bit for bit", "keepstep export RUN best DIR"):
        assert fact in text
    for told in (text, (tmp_path / "out" / "keepstep_export.json").read_text()):
        assert str(tmp_path) not in told and socket.gethostname() not in told
        assert getpass.getuser() not in told.replace("keepstep", "")


def test_a_thinned_checkpoint_and_one_set_aside_are_exported(run: Run, tmp_path: Path) -> None:
    with run.writing():
        run.thin(run.find(10), "asked for")
        run.rewind(run.find(10))
    aside = run.aside[0].path
    assert aside is not None
    with pytest.raises(CheckpointNotFound):
        keepstep.export(run, tmp_path / "out", reference=20)
    keepstep.export(run, tmp_path / "old", reference=aside)
    keepstep.export(run, tmp_path / "thin", reference=10)
    assert same(tensors_of(tmp_path / "old"), tensors_of(aside))
    assert same(tensors_of(tmp_path / "thin"), tensors_of(run.path / "weights-10"))


def test_a_damaged_checkpoint_is_not_exported(run: Run, tmp_path: Path) -> None:
    flip(run.path / "checkpoint-10" / "model.safetensors")
    with pytest.raises(CheckpointCorrupt, match=r"model.safetensors .*Nothing was exported"):
        keepstep.export(run, tmp_path / "out", reference=10)
    assert _only(tmp_path, "run")


def _flip_a_value(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "spoil"), [("model.safetensors", flip), ("model.safetensors", _flip_a_value),
                                             ("config.json", flip)])  # fmt: skip
def test_a_best_that_is_found_damaged_gives_way_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, spoil: Callable[[Path], None]
) -> None:
    """Found by its bytes, or by a header that can't be read."""
    run = make_run(tmp_path / "run", {s: llama(s) for s in (10, 20, 30)}, {10: 0.1, 20: 0.2, 30: 0.3})
    spoil(run.path / "checkpoint-10" / name)
    exported = keepstep.export(run, tmp_path / "out")
    assert same(tensors_of(tmp_path / "out"), tensors_of(run.path / "checkpoint-20"))
    said = "the best of those that hold: step 10 (0.1) ranks before by eval_loss, but was found damaged"
    assert said in exported.notes
    assert "checkpoint-10" in caplog.text and "The next best is exported in its place" in caplog.text
    assert said.replace("_", chr(92) + "_") in (tmp_path / "out" / "README.md").read_text()
    flip(run.path / "checkpoint-20" / "model.safetensors")
    with pytest.raises(CheckpointCorrupt, match="checkpoint-20"):  # an average needs two that hold
        keepstep.export(run, tmp_path / "mean", average="best:2")
    with pytest.raises(CheckpointCorrupt, match=r"checkpoint-20.*Nothing was exported"):
        keepstep.export(run, tmp_path / "named", reference=20)


def test_the_command_line_takes_the_next_best_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {s: llama(s) for s in (10, 20)}, {10: 0.1, 20: 0.2})
    flip(run.path / "checkpoint-10" / "model.safetensors")
    result = CliRunner().invoke(cli, ["export", str(run.path), "best", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "step 10 (0.1) ranks before by eval_loss, but was found damaged" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("short", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_a_cast_is_that_of_torch_and_the_config_says_it(run: Run, tmp_path: Path, short: Any, dtype: Any) -> None:
    exported = keepstep.export(run, tmp_path / "out", dtype=short)
    before, after = tensors_of(run.path / "checkpoint-10"), tensors_of(tmp_path / "out")
    assert same({name: tensor.to(dtype) for name, tensor in before.items()}, after)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype is dtype
    assert exported.dtype == str(dtype).removeprefix("torch.")
    assert exported.check is not None and exported.check.forward is not None
    assert (exported.check.forward.difference == 0) == (short == "fp32")


def test_a_value_beyond_fp16_is_named(tmp_path: Path) -> None:
    large = llama()
    with torch.no_grad():
        large.model.layers[1].mlp.up_proj.weight[3, 2] = 70_000
    run = make_run(tmp_path / "run", {10: large})
    with pytest.raises(ExportRefused, match=r"model\.layers\.1\.mlp\.up_proj\.weight does not fit into float16.*70000"):
        keepstep.export(run, tmp_path / "out", dtype="fp16")
    assert _only(tmp_path, "run")
    keepstep.export(run, tmp_path / "out", dtype="bf16")


def test_shards_with_tied_tensors_load_and_their_index_is_right(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: gpt2()})
    exported = keepstep.export(run, tmp_path / "out", max_shard_size="0.01MB")
    shards = sorted(tmp_path.joinpath("out").glob("model-*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(shards) > 2
    assert {path.name for path in shards} == set(index["weight_map"].values())
    assert all(path.stat().st_size < 12_000 for path in shards)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_of(tmp_path / "out").values())
    assert same(tensors_of(tmp_path / "out"), tensors_of(run.path / "checkpoint-10"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert exported.check is not None and exported.check.forward is not None and exported.check.forward.difference == 0
    keepstep.export(run, tmp_path / "again", dtype="fp32")
    assert files_in(tmp_path / "again") >= {"model.safetensors"}


# -- the check ------------------------------------------------------------------------------------------------


def test_files_written_anew_are_as_open_as_copies(run: Run, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        keepstep.export(run, tmp_path / "cast", dtype="bf16")
        keepstep.export(run, tmp_path / "copy")
    finally:
        os.umask(before)
    for out in ("cast", "copy"):
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / out).iterdir()}
        assert set(modes.values()) == {0o640}, modes


def test_a_tensor_larger_than_a_shard_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "HEADER_BYTES", 2000)
    assert keepstep.export(run, tmp_path / "small", max_shard_size="0.01MB").notes == ()
    (note,) = keepstep.export(run, tmp_path / "out", max_shard_size="0.0005MB").notes
    assert "more than was asked for: a tensor is never split" in note


def _small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("options", [[], ["--dtype", "fp32"], ["--average", "10,20"]])
@pytest.mark.quick(1)
def test_a_disk_that_takes_no_more_is_said_by_every_writer(
    run: Run, tmp_path: Path, shell: Shell, options: list[str]
) -> None:
    done = shell.run("export", run.path, 10, tmp_path / "out", *options, before=_small_files_only)
    assert done.returncode == 8, done.stderr
    assert "out could not be written: File too large\n  Nothing is left of the attempt" in done.stderr
    assert _only(tmp_path, "run")


def test_a_tensor_that_was_written_wrong_is_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(tensors: Any, *args: Any) -> None:
        right = tensors.get
        tensors.get = lambda name: right(name) + (name == "model.norm.weight")
        stock(tensors, *args)

    stock = building.write_shards
    monkeypatch.setattr(building, "write_shards", careless)
    with pytest.raises(ExportUnequal, match=r"model\.norm\.weight has other values"):
        keepstep.export(run, tmp_path / "out", dtype="bf16")
    assert _only(tmp_path, "run")
    assert keepstep.export(run, tmp_path / "out", dtype="bf16", check=False).check is None
    assert "The export itself was not checked" in (tmp_path / "out" / "README.md").read_text()


def test_equal_tensors_in_another_model_are_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meddle(staging: Path, **options: Any) -> list[str]:
        path = staging / "config.json"
        path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'))
        return []

    monkeypatch.setattr(exporter, "adjust", meddle)
    with pytest.raises(ExportUnequal, match="gives other output than its source"):
        keepstep.export(run, tmp_path / "out")
    assert _only(tmp_path, "run")


def test_a_tensor_that_nothing_loads_is_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meddle(staging: Path, **options: Any) -> list[str]:
        path = staging / "config.json"
        path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
        return []

    monkeypatch.setattr(exporter, "adjust", meddle)
    with pytest.raises(ExportUnequal, match="does not load the weights as they are: missing keys"):
        keepstep.export(run, tmp_path / "out")


def test_an_interruption_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "check_export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        keepstep.export(run, tmp_path / "out")
    assert _only(tmp_path, "run")
    assert checking.check_export is not interrupted


def test_a_class_that_transformers_lacks_is_compared_and_not_run(run: Run, tmp_path: Path) -> None:
    def strange(directory: Path) -> None:
        config = directory / "config.json"
        config.write_text(config.read_text().replace("LlamaForCausalLM", "MyOwnModel"))

    own = llama()
    saved, own.save_pretrained = own.save_pretrained, lambda d, **o: (saved(d, **o), strange(d))
    run = make_run(tmp_path / "own", {10: own})
    check = keepstep.export(run, tmp_path / "out").check
    assert check is not None
    assert (check.loaded_by, check.tensors, check.forward) == ("", 21, None)
    assert "has no MyOwnModel" in check.untried
    assert "not tried: " in (tmp_path / "out" / "README.md").read_text()


# -- weights in files of torch.save ---------------------------------------------------------------------------


def _pickled(directory: Path, tmp_path: Path, content: Any) -> Run:
    class Old:
        def save_pretrained(self, home: Path) -> None:
            llama().config.save_pretrained(home)
            config = json.loads((home / "config.json").read_text())
            (home / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
            torch.save(content, home / "pytorch_model.bin")

    return make_run(tmp_path / "old", {10: Old()})


def test_weights_of_torch_save_become_safetensors(tmp_path: Path) -> None:
    run = _pickled(tmp_path, tmp_path, llama().state_dict())
    exported = keepstep.export(run, tmp_path / "out")
    assert "model.safetensors" in files_in(tmp_path / "out")
    assert "pytorch_model.bin" not in files_in(tmp_path / "out")
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict(), llama().state_dict())
    assert exported.check is not None and exported.check.tensors == 21


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    assert pickle.dumps(Bomb(trap))
    run = _pickled(tmp_path, tmp_path, {"model.norm.weight": Bomb(trap)})
    refused = "(Weights only load failed|Unable to load weights from pytorch checkpoint)"  # as transformers 5, 4 say it
    with pytest.raises(ExportRefused, match=f"LlamaForCausalLM can't load it: {refused}"):
        keepstep.export(run, tmp_path / "out")
    assert _only(tmp_path, "old")


def _yes() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"y\n" * 9)
    os.close(writing)
    os.dup2(reading, 0)
    sys.stdin = open(0)  # noqa: SIM115 - it lasts as long as the process


def test_code_in_a_checkpoint_is_not_run_whatever_stdin_says(tmp_path: Path, shell: Shell) -> None:
    """transformers asks, and takes "y", where nobody has said that it must not."""
    trap = tmp_path / "trap"
    run = make_run(tmp_path / "run", {10: llama()})
    directory = run.path / "checkpoint-10"
    code = f"""
import os
os.makedirs({str(trap)!r}, exist_ok=True)
from transformers import PretrainedConfig, PreTrainedModel
class Config(PretrainedConfig):
    model_type = "zzz"
class Model(PreTrainedModel):
    config_class = Config
"""
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "keepstep.json"}
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    files["config.json"] = json.dumps({"model_type": "zzz", "auto_map": auto_map}).encode()
    files["evil.py"] = code.encode()
    checkpointer = Checkpointer(tmp_path / "evil", Policy.from_spec("all"))
    checkpointer.begin("auto")
    checkpointer.save(Facts(10), lambda home: [(home / name).write_bytes(data) for name, data in files.items()])
    checkpointer.close()
    done = shell.run("export", tmp_path / "evil", 10, tmp_path / "out", before=_yes)
    assert done.returncode and "Traceback" not in done.stderr, done.stderr
    assert not trap.exists()


# -- from a training --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not NEWEST, reason="one version of a training is enough")
def test_a_checkpointer_exports_the_best_of_its_run(tmp_path: Path) -> None:
    arguments = {"eval_strategy": "steps", "eval_steps": 4, "metric_for_best_model": "eval_loss"}
    trainer = build(Recipe(rows=8, arguments=arguments), tmp_path / "run")
    ckpt = keepstep.attach(trainer)
    trainer.train()
    exported = ckpt.export(tmp_path / "out")
    best = ckpt.run.best
    assert best is not None and best.path is not None
    assert [member.step for member in exported.members] == [best.step]
    assert same(tensors_of(tmp_path / "out"), tensors_of(best.path))
    assert [e["event"] for e in ckpt.run.events.read()][-1] == "exported"


def test_the_check_says_how_much_of_it_was_in_memory_when_it_was_saved(tmp_path: Path) -> None:
    trainer = build(Recipe(arguments={"max_steps": 2, "save_steps": 2}), tmp_path / "run")
    checkpointer = keepstep.attach(trainer)
    trainer.train()
    check = keepstep.export(checkpointer.run, tmp_path / "out", reference="latest").check
    tensors = len(list(trainer.model.parameters()))
    assert check is not None
    assert check.memory == f"{tensors} of {tensors} tensors as they were in memory when it was saved"
    # The same files as the source's, and what was in memory: there is nothing to compare it with.
    assert (check.loaded_by, check.forward, check.tensors) == ("LlamaForCausalLM", None, 21)
    assert (
        check.lines()[-2:] == [f"loaded: {check.memory}", check.computed] and "not loaded beside it" in check.computed
    )
    point = checkpointer.run.find(2)
    assert point.path is not None
    imprint = Imprint.read(point.path)
    assert imprint is not None
    name, mark = next(iter(imprint.model.items()))
    Imprint({**imprint.model, name: mark._replace(digest=bytes(16))}, {}).write(point.path)
    reseal(checkpointer.run, plan_reseal(checkpointer.run, 2))
    other = keepstep.export(checkpointer.run, tmp_path / "other", reference="latest").check
    assert other is not None and other.memory.endswith(f"not so: {name}")
    assert f"the source, loaded: {other.memory}" in other.lines()
    assert other.forward is not None and other.forward.difference == 0 and not other.computed
