"""Exports of adapters: as they are, and merged with their base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraModel
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaForCausalLM, LlamaForSequenceClassification

import keepstep
from keepstep.operations.export.errors import ExportRefused, ExportUnequal
from tests.training.exported import adapted, files_in, gpt2, llama, make_run, same, tensors_of
from tests.training.tiny import Recipe, model

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    llama(1).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_an_adapter_stays_an_adapter(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: adapted(base)})
    exported = keepstep.export(run, tmp_path / "out")
    found = files_in(tmp_path / "out")
    assert found >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"}
    assert "config.json" not in found
    assert same(tensors_of(tmp_path / "out"), tensors_of(run.path / "checkpoint-10"))
    PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), tmp_path / "out")
    check = exported.check
    assert check is not None and check.forward is not None
    assert (exported.kind, check.loaded_by, check.forward.difference) == ("adapter", "PeftModelForCausalLM", 0.0)
    assert "path of this machine" in exported.notes[0]
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


def test_an_adapter_may_say_another_name_of_its_base(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: adapted(base)})
    exported = keepstep.export(run, tmp_path / "out", base_name="me/tiny-llama", dtype="bf16")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == ("me/tiny-llama", 4)
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}
    data = ModelCard((tmp_path / "out" / "README.md").read_text()).data.to_dict()
    assert (data["base_model"], data["library_name"]) == ("me/tiny-llama", "peft")
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.[jm]*[nd]"))
    assert exported.notes == ()


def test_without_the_base_an_adapter_is_compared_and_not_loaded(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: adapted(base)})
    base.rename(tmp_path / "gone")
    check = keepstep.export(run, tmp_path / "out").check
    assert check is not None
    assert (check.loaded_by, check.forward) == ("", None)
    assert check.tensors == 8
    assert "base is no directory on this machine" in check.untried
    with pytest.raises(ExportRefused, match="base model is not here"):
        keepstep.export(run, tmp_path / "merged", merge=True)
    keepstep.export(run, tmp_path / "merged", merge=True, base=tmp_path / "gone")


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
def test_a_merged_model_computes_what_base_and_adapter_do(base: Path, tmp_path: Path, settings: Any) -> None:
    trained = adapted(base, **settings).eval()
    run = make_run(tmp_path / "run", {10: trained})
    exported = keepstep.export(run, tmp_path / "out", merge=True)
    found = files_in(tmp_path / "out")
    assert found >= {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}
    assert not any(name.startswith("adapter") for name in found)
    ids = torch.tensor([[5, 9, 33, 2, 17]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=ids).logits
        plain = LlamaForCausalLM.from_pretrained(base)(input_ids=ids).logits
        wanted = trained(input_ids=ids).logits
    assert torch.allclose(merged, wanted, atol=1e-5)
    assert not torch.allclose(merged, plain, atol=1e-3)
    check = exported.check
    assert check is not None and check.merge is not None and check.forward is not None
    assert check.merge.difference <= 1e-4 * check.merge.largest == check.merge.allowed
    assert exported.kind == "merged model"


def test_a_merge_is_rounded_once(base: Path, tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(base).to(torch.bfloat16).save_pretrained(base)
    trained = adapted(base)
    run = make_run(tmp_path / "run", {10: trained})
    exported = keepstep.export(run, tmp_path / "out", merge=True, max_shard_size="0.005MB")
    assert exported.dtype == "bfloat16"
    assert "model.safetensors.index.json" in files_in(tmp_path / "out")
    weight = "model.layers.0.self_attn.q_proj.weight"
    factors = {
        name.split(".self_attn.")[1]: t
        for name, t in tensors_of(run.path / "checkpoint-10").items()
        if "layers.0" in name
    }
    delta = factors["q_proj.lora_B.weight"].double() @ factors["q_proj.lora_A.weight"].double() * (16 / 4)
    wanted = tensors_of(base)[weight].double() + delta
    assert torch.equal(tensors_of(tmp_path / "out")[weight], wanted.float().to(torch.bfloat16))


def test_a_wrong_merge_is_found(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", {10: adapted(base)})
    stock = LoraModel.merge_and_unload

    def unscaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        for module in self.model.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling["default"] /= 4
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(LoraModel, "merge_and_unload", unscaled)
    with pytest.raises(ExportUnequal, match="merged model is not base and adapter"):
        keepstep.export(run, tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_a_tied_output_layer_is_not_merged_wrong(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "base")
    trained = get_peft_model(
        GPT2LMHeadModel.from_pretrained(tmp_path / "base"),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"], r=4),
    )
    torch.nn.init.normal_(trained.base_model.model.lm_head.lora_B["default"].weight)
    run = make_run(tmp_path / "run", {10: trained})
    with pytest.raises((ExportUnequal, ExportRefused), match="merge"):
        keepstep.export(run, tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: adapted(base)})
    gpt2().save_pretrained(tmp_path / "other")
    with pytest.raises(ExportRefused, match="can't be put on the base model"):
        keepstep.export(run, tmp_path / "out", merge=True, base=tmp_path / "other")


def test_a_whole_model_is_not_merged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: llama()})
    with pytest.raises(ExportRefused, match="there is no adapter to merge"):
        keepstep.export(run, tmp_path / "out", merge=True)


def test_a_grown_vocabulary_and_a_head_of_its_own_merge(tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path / "base")
    grown = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    grown.resize_token_embeddings(70)
    modules = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    run = make_run(tmp_path / "run", {10: get_peft_model(grown, LoraConfig(task_type="CAUSAL_LM", **modules))})
    keepstep.export(run, tmp_path / "out", merge=True)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").lm_head.weight.shape[0] == 70
    config = model(Recipe(kind="reward")).config
    config.num_labels = 3
    judge = LlamaForSequenceClassification(config)
    judge.save_pretrained(tmp_path / "judge")
    judge.config._name_or_path = judge.name_or_path = str(tmp_path / "judge")
    judge = LlamaForSequenceClassification.from_pretrained(tmp_path / "judge")
    run = make_run(
        tmp_path / "judged", {10: get_peft_model(judge, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))}
    )
    merged = keepstep.export(run, tmp_path / "verdict", merge=True)
    assert merged.check is not None and merged.check.loaded_by == "LlamaForSequenceClassification"
    assert LlamaForSequenceClassification.from_pretrained(tmp_path / "verdict").num_labels == 3
