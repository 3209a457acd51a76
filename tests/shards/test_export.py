"""Exports of what ranks wrote: equal to what one process would have gathered, with one tensor in memory at a time."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import keepstep
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import CheckpointCorrupt
from keepstep.formats.safetensors_file import TensorSpec
from keepstep.integrations.transformers.exporting import building
from keepstep.integrations.transformers.exporting.tensors import write_shards
from keepstep.operations.export.errors import ExportRefused, ExportUnequal
from keepstep.operations.export.plan import plan_export
from keepstep.operations.export.request import Request
from keepstep.retention import Metric, Policy
from keepstep.run import Run, open_run
from tests.operations.runs import flip
from tests.shards.test_dcp import MODEL, same
from tests.shards.written import STEPS, as_json, expected
from tests.training.exported import tensors_of

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]
TIED = {"tied": ["lm_head.weight"]}
"""What a writer of transformers leaves out: it is the embedding."""


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.stores.local.os.fsync", os.fstat)


@pytest.fixture
def managed(shards: Path, tmp_path: Path) -> Run:
    """A managed run of both checkpoints, with the configs that ours hold; the second is the best."""
    checkpointer = Checkpointer(tmp_path / "managed", Policy.from_spec("all", Metric("eval_loss", "min")))
    checkpointer.begin("auto")

    for step in STEPS:

        def write(directory: Path, step: int = step) -> None:
            shutil.copytree(shards / "llama" / f"checkpoint-{step}", directory, dirs_exist_ok=True)
            shutil.copytree(shards / "llama-config", directory, dirs_exist_ok=True)

        checkpointer.save(Facts(step, metrics={"eval_loss": 4.0 - step / 10}), write)
    checkpointer.close()
    return Run.open(tmp_path / "managed")


@pytest.mark.parametrize("kind", ["llama", "tied", "bf16", "lora"])
def test_what_ranks_wrote_is_exported_as_one_process_would_write_it(shards: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    exported = keepstep.export(shards / kind, out, reference="latest", config_from=shards / f"{kind}-config")
    due = expected(shards, f"{kind}-4")
    for name in TIED.get(kind, []):
        assert torch.equal(due.pop(name), due["transformer.wte.weight"])
    same(tensors_of(out), due)
    # The very bytes of the stock writer, in one file of its name.
    name = "adapter_model" if kind == "lora" else "model"
    save_file(dict(due), tmp_path / "stock.safetensors", metadata={"format": "pt"})
    assert (out / f"{name}.safetensors").read_bytes() == (tmp_path / "stock.safetensors").read_bytes()
    assert exported.kind == ("adapter" if kind == "lora" else "model")
    assert exported.check is not None and exported.check.loaded_by and exported.check.tensors == len(due)
    assert (out / "tokenizer.json").is_file() and not list(out.rglob("*.distcp"))
    if kind != "lora":
        dtype = "bfloat16" if kind == "bf16" else "float32"
        config = as_json(out / "config.json")
        assert {config.get("dtype", dtype), config.get("torch_dtype", dtype)} == {dtype}


def test_the_dtype_that_a_lent_config_names_gives_way_to_that_of_the_weights(shards: Path, tmp_path: Path) -> None:
    """Ranks hold fp32 while a base's config says bf16: loaded as that says, the weights would be rounded."""
    lent = Path(shutil.copytree(shards / "llama-config", tmp_path / "lent"))
    (lent / "config.json").write_text(json.dumps({**as_json(lent / "config.json"), "dtype": "bfloat16"}))
    keepstep.export(shards / "llama", tmp_path / "out", reference=2, config_from=lent)
    assert as_json(tmp_path / "out" / "config.json")["dtype"] == "float32"


def test_without_a_config_it_is_said_what_gives_one(shards: Path, tmp_path: Path) -> None:
    for kind, name in (("llama", "config.json"), ("lora", "adapter_config.json")):
        given = [None, shards / "full"] if kind == "llama" else [shards / "llama-config"]
        for config_from in given:
            with pytest.raises(ExportRefused, match=rf"step 4 has .* but no {name}") as refused:
                keepstep.export(shards / kind, tmp_path / "out", reference=4, config_from=config_from)
            assert "--config-from DIR" in str(refused.value.hint)
    with pytest.raises(ExportRefused, match="is a whole model"):
        keepstep.export(shards / "llama", tmp_path / "out", reference=4, config_from=shards / "lora-config")
    assert not (tmp_path / "out").exists()


def test_an_incomplete_set_is_refused_by_the_name_and_the_rank(copied: Callable[[str], Path], tmp_path: Path) -> None:
    run = copied("llama")
    part = run / "checkpoint-4" / MODEL / "__1_0.distcp"
    whole = part.read_bytes()
    config = run.parent / "llama-config"
    config.mkdir()
    (config / "config.json").write_text("{}")
    part.write_bytes(whole[:-1])
    with pytest.raises((CheckpointCorrupt, ExportRefused), match=r"__1_0\.distcp.*rank 1"):
        keepstep.export(run, tmp_path / "out", reference=4, config_from=config)
    part.unlink()
    with pytest.raises((CheckpointCorrupt, ExportRefused), match=r"__1_0\.distcp.*rank 1"):
        keepstep.export(run, tmp_path / "out", reference=4, config_from=config)
    assert not (tmp_path / "out").exists()


def test_gathered_weights_are_exported_once(shards: Path, tmp_path: Path) -> None:
    plan = plan_export(open_run(shards / "full"), Request(directory=tmp_path / "out", reference="latest"))
    assert [entry.path for entry in plan.files.weights] == ["model.safetensors"]
    assert plan.left["pytorch_model_fsdp.bin"] == "the same weights once more"
    assert plan.copies


def test_a_managed_run_is_exported_by_its_own_configs(managed: Run, shards: Path, tmp_path: Path) -> None:
    exported = keepstep.export(managed, tmp_path / "out", max_shard_size="0.01MB")
    assert exported.members[0].step == 4
    same(tensors_of(tmp_path / "out"), expected(shards, "llama-4"))
    index = as_json(tmp_path / "out" / "model.safetensors.index.json")
    assert len({*index["weight_map"].values()}) > 2
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected(shards, "llama-4").values())
    for name in sorted({*index["weight_map"].values()}):
        assert (tmp_path / "out" / name).stat().st_size < 10_000 + 2_000
        save_file(load_file(tmp_path / "out" / name), tmp_path / name, metadata={"format": "pt"})
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_one_wrong_bit_of_a_rank_gives_way_to_the_next_best(managed: Run, shards: Path, tmp_path: Path) -> None:
    """Stock loads it as wrong weights, without a word."""
    flip(managed.path / "checkpoint-4" / MODEL / "__1_0.distcp")
    exported = keepstep.export(managed, tmp_path / "out", check=False)
    assert exported.members[0].step == 2 and any("step 4" in note for note in exported.notes)
    same(tensors_of(tmp_path / "out"), expected(shards, "llama-2"))


def test_casts_and_means_are_those_of_the_gathered_tensors(managed: Run, shards: Path, tmp_path: Path) -> None:
    keepstep.export(managed, tmp_path / "cast", dtype="bf16")
    due = expected(shards, "llama-4")
    same(tensors_of(tmp_path / "cast"), {name: tensor.to(torch.bfloat16) for name, tensor in due.items()})
    keepstep.export(managed, tmp_path / "mean", average="2,4")
    one, other = (expected(shards, f"llama-{step}") for step in STEPS)
    mean = {name: ((one[name].double() + other[name].double()) / 2).to(torch.float32) for name in one}
    same(tensors_of(tmp_path / "mean"), mean)


def test_an_adapter_of_ranks_is_merged_into_its_base(shards: Path, tmp_path: Path) -> None:
    lent = shards / "lora-config"
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    keepstep.export(shards / "lora", adapter, reference=4, config_from=lent, check=False)
    exported = keepstep.export(shards / "lora", merged, reference=4, config_from=lent, merge=True)
    assert exported.check is not None and exported.check.merge is not None and exported.check.merge.passes
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(shards / "base")
    stock = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    found = tensors_of(merged)
    assert all(torch.allclose(found[name], value) for name, value in stock.state_dict().items() if name in found)
    assert not torch.equal(
        found["model.layers.0.self_attn.q_proj.weight"],
        load_file(shards / "base" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"],
    )


def test_a_tensor_that_was_put_together_wrong_is_found(
    managed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(tensors: Any, *args: Any) -> None:
        right = tensors.get
        tensors.get = lambda name: right(name) + (name == "model.norm.weight")
        write_shards(tensors, *args)

    monkeypatch.setattr(building, "write_shards", careless)
    with pytest.raises(ExportUnequal, match=r"model\.norm\.weight has other values"):
        keepstep.export(managed, tmp_path / "out")


class Watched:
    """Tensors that notice how many of them are alive when the next one is asked for."""

    def __init__(self) -> None:
        self.names = [f"t{number}" for number in range(9)]
        self.alive: list[weakref.ref[torch.Tensor]] = []
        self.most = 0

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def get(self, name: str) -> torch.Tensor:
        self.most = max(self.most, sum(one() is not None for one in self.alive))
        found = torch.full((64,), float(name[1:]))
        self.alive.append(weakref.ref(found))
        return found

    def spec(self, name: str) -> TensorSpec:
        return TensorSpec(torch.float32, (64,), 256)


def test_no_more_than_one_tensor_is_in_memory_while_files_are_written(tmp_path: Path) -> None:
    tensors = Watched()
    write_shards(tensors, tmp_path, "model", 2**40, lambda _: None)
    assert tensors.most <= 1 and len(tensors.alive) == 9
    assert load_file(tmp_path / "model.safetensors")["t7"].tolist() == [7.0] * 64
