"""Averages of checkpoints: the mean, what is taken in, and what is said of the result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import keepstep
from keepstep.engine import Imprint
from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, SettingsError
from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.resealing.reseal import plan_reseal, reseal
from tests.operations.runs import flip
from tests.training.exported import adapted, files_in, gpt2, llama, make_run, same, tensors_of
from tests.training.tiny import texts, tokenizer

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def _mean(*directories: Path) -> dict[str, torch.Tensor]:
    all_of_them = [tensors_of(directory) for directory in directories]
    return {
        name: torch.stack([tensors[name].double() for tensors in all_of_them]).mean(0).to(first.dtype)
        for name, first in all_of_them[0].items()
    }


def _near(model: Any, by: float) -> Any:
    """The same model, a little off."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return model


def test_a_uniform_soup_is_the_mean_of_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {s: llama(s) for s in (10, 20, 30, 40)}, {10: 0.9, 20: 0.2, 30: 0.1, 40: 0.3})
    exported = keepstep.export(run, tmp_path / "out", average="best:3")
    assert same(tensors_of(tmp_path / "out"), _mean(*(run.path / f"checkpoint-{s}" for s in (30, 20, 40))))
    average = exported.average
    assert average is not None
    assert (average.steps, average.trials) == ((30, 20, 40), ())
    assert "was not evaluated" in average.verdict()
    assert exported.check is not None and exported.check.loaded_by == "LlamaForCausalLM"
    assert "average of steps 30, 20, 40" in (tmp_path / "out" / "README.md").read_text()


def test_the_mean_is_rounded_once_where_it_is_cast(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: llama(1), 2: llama(2)})
    keepstep.export(run, tmp_path / "out", average="2,1", dtype="bf16")
    wanted = torch.stack([tensors_of(run.path / f"checkpoint-{s}")["lm_head.weight"].double() for s in (1, 2)]).mean(0)
    assert torch.equal(tensors_of(tmp_path / "out")["lm_head.weight"], wanted.to(torch.bfloat16))


def test_the_loss_is_the_mean_over_tokens_and_a_worse_average_is_said_loudly(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: llama(1), 2: llama(2)})
    data = tmp_path / "held-out.txt"
    data.write_text(" ".join(texts(40, seed=3)))
    exported = keepstep.export(run, tmp_path / "out", average="best:2", eval_data=data)
    average = exported.average
    assert average is not None
    ids = tokenizer()(data.read_text())["input_ids"]
    assert len(ids) > 128  # several blocks of the model's 64 positions
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids), 64):
            block = torch.tensor(ids[start : start + 64])
            scores = model(input_ids=block[None]).logits[0].log_softmax(-1)
            total -= sum(float(scores[place, block[place + 1]]) for place in range(len(block) - 1))
    count = sum(len(ids[start : start + 64]) - 1 for start in range(0, len(ids), 64))
    result = average.result
    assert result is not None and result.value == pytest.approx(total / count, rel=1e-5)
    assert [trial.steps for trial in average.trials] == [(1,), (2,), (1, 2)]
    assert f"held-out.txt ({len(ids)} tokens)" in average.measured


def _fixed(values: dict[int, float], run: Any, average: float) -> Any:
    """An evaluation that knows the single checkpoints by their weights."""
    known = {step: tensors_of(run.path / f"checkpoint-{step}")["lm_head.weight"] for step in values}

    def evaluate(model: Any) -> float:
        mine = model.lm_head.weight.detach()
        return next((values[step] for step, weight in known.items() if torch.equal(weight, mine)), average)

    return evaluate


def test_a_worse_average_is_exported_as_asked_and_said_loudly(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: llama(1), 2: llama(2)})
    evaluate = _fixed({1: 1.0, 2: 2.0}, run, average=1.5)
    average = keepstep.export(run, tmp_path / "out", average="1,2", evaluate=evaluate).average
    assert average is not None and average.worse
    assert (
        average.verdict() == "THE AVERAGE IS WORSE than a single checkpoint: 1.5 against 1 of step 1, the best alone."
    )
    assert "THE AVERAGE IS WORSE" in (tmp_path / "out" / "README.md").read_text()
    better = keepstep.export(run, tmp_path / "up", average="1,2", evaluate=evaluate, mode="max").average
    assert better is not None and better.worse and "of step 2" in better.verdict()
    nan = _fixed({1: 1.0, 2: 2.0}, run, average=float("nan"))
    assert keepstep.export(run, tmp_path / "nan", average="1,2", evaluate=nan).average.worse  # type: ignore[union-attr]


def test_a_greedy_soup_keeps_the_best_alone_where_nothing_helps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: llama(1), 2: llama(2), 3: llama(3)})
    evaluate = _fixed({1: 3.0, 2: 1.0, 3: 2.0}, run, average=1.5)
    average = keepstep.export(run, tmp_path / "out", average="1,2,3", soup="greedy", evaluate=evaluate).average
    assert average is not None
    assert average.steps == (2,)
    assert "average of" not in (tmp_path / "out" / "README.md").read_text()
    assert [trial.steps for trial in average.trials] == [(1,), (2,), (3,), (2, 3), (2, 1)]
    assert same(tensors_of(tmp_path / "out"), tensors_of(run.path / "checkpoint-2"))
    assert average.verdict() == "No average was better than step 2 alone (1), which is what is exported."


def test_a_greedy_soup_takes_in_what_helps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: llama(1), 2: _near(llama(1), 0.1), 3: llama(3)})
    names = {step: tensors_of(run.path / f"checkpoint-{step}") for step in (1, 2, 3)}
    wanted = (names[1]["lm_head.weight"] + names[2]["lm_head.weight"]) / 2

    def evaluate(model: Any) -> float:
        return float((model.lm_head.weight.detach() - wanted).norm())

    average = keepstep.export(run, tmp_path / "out", average="best:3", soup="greedy", evaluate=evaluate).average
    assert average is not None
    assert sorted(average.steps) == [1, 2]
    assert same(tensors_of(tmp_path / "out"), _mean(run.path / "checkpoint-1", run.path / "checkpoint-2"))
    assert "is better" in average.verdict()


def test_adapters_are_averaged_by_factor_and_merged_ones_by_weight(tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path / "base")
    run = make_run(tmp_path / "run", {1: adapted(tmp_path / "base", 1), 2: adapted(tmp_path / "base", 2)})
    homes = [run.path / "checkpoint-1", run.path / "checkpoint-2"]
    exported = keepstep.export(run, tmp_path / "adapter", average="1,2")
    assert same(tensors_of(tmp_path / "adapter"), _mean(*homes))
    assert any("factors" in note for note in exported.notes)
    merged = keepstep.export(run, tmp_path / "merged", average="1,2", merge=True)
    assert merged.notes == ()
    for step in (1, 2):
        keepstep.export(run, tmp_path / f"merged-{step}", reference=step, merge=True)
    assert same(tensors_of(tmp_path / "merged"), _mean(tmp_path / "merged-1", tmp_path / "merged-2"))
    assert not any("scratch" in name for name in files_in(tmp_path / "merged"))


def test_what_can_not_be_averaged_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama(1).save_pretrained(base)
    models = {
        1: llama(1), 2: gpt2(), 3: adapted(base), 4: adapted(base, r=2), 5: adapted(base, lora_alpha=1),
        6: llama(6).to(torch.bfloat16),
    }  # fmt: skip
    run = make_run(tmp_path / "run", models)
    for spec, why in [
        ("1,2", "model_type is llama in one and gpt2 in the other"),
        ("1,3", "step 1 is a model, step 3 is an adapter"),
        ("3,4", "steps 3 and 4 can't be averaged: r is 4 in one and 2 in the other"),
        ("3,5", "lora_alpha is 16 in one and 1 in the other"),
        ("1,6", "F32 in step 1 and .* BF16 in step 6"),
        ("1,1", "step 1 is named twice"),
        ("1", "an average needs two"),
        ("best:1", "no number of checkpoints"),
        ("best:9", "has 6 checkpoints that can be ranked, not 9"),
    ]:
        with pytest.raises(ExportRefused, match=why):
            keepstep.export(run, tmp_path / "out", average=spec)
    with pytest.raises(CheckpointNotFound, match="no checkpoint of step 77"):
        keepstep.export(run, tmp_path / "out", average="1,77")
    with pytest.raises(ExportRefused, match="step 2 is not among those"):
        keepstep.export(run, tmp_path / "out", average="1,6", reference=2)
    with pytest.raises(SettingsError, match="needs something to measure by"):
        keepstep.export(run, tmp_path / "out", average="1,6", soup="greedy")
    flip(run.path / "checkpoint-6" / "config.json")
    with pytest.raises(CheckpointCorrupt):
        keepstep.export(run, tmp_path / "out", average="1,6")
    assert not (tmp_path / "out").exists()


def _trained(base: Path, out: Path, *, adapter: bool) -> keepstep.Checkpointer:
    """A run of steps 1, 2 and 3, of a model or of an adapter on it."""
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    rows = [{"input_ids": torch.arange(6) + start, "labels": torch.arange(6) + start} for start in range(3)]
    arguments = TrainingArguments(
        os.fspath(out), max_steps=3, per_device_train_batch_size=1, save_steps=1, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows)  # pyright: ignore[reportArgumentType]
    checkpointer = keepstep.attach(trainer, keep="all")
    trainer.train()
    return checkpointer


@pytest.mark.parametrize(("adapter", "merge"), [(False, False), (True, False), (True, True)])
def test_each_member_is_compared_with_what_was_in_memory(adapter: bool, merge: bool, tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path / "base")
    run = _trained(tmp_path / "base", tmp_path / "run", adapter=adapter).run
    point = run.find(2)
    assert point.path is not None
    imprint = Imprint.read(point.path)
    assert imprint is not None
    name, mark = next(iter(imprint.model.items()))
    Imprint({**imprint.model, name: mark._replace(digest=bytes(16))}, {}).write(point.path)
    reseal(run, plan_reseal(run, 2))
    check = keepstep.export(run, tmp_path / "out", average="3,2", merge=merge).check
    count = len(imprint.model)
    assert check is not None
    assert check.memory == (
        f"step 3: {count} of {count} tensors as they were in memory when it was saved; "
        f"step 2: {count - 1} of {count} tensors as they were in memory when it was saved, not so: {name}"
    )
    assert f"the source, loaded: {check.memory}" in check.lines()


def test_a_merged_adapter_is_compared_with_what_was_in_memory(tmp_path: Path) -> None:
    llama(1).save_pretrained(tmp_path / "base")
    run = _trained(tmp_path / "base", tmp_path / "run", adapter=True).run
    check = keepstep.export(run, tmp_path / "out", reference=3, merge=True).check
    assert check is not None and check.memory.endswith("tensors as they were in memory when it was saved")
