"""Models of which only a part trains, adapters above all: what trains comes back, at a resume and as the best.

Stock loaders know one adapter, called default, of the ranks that it began with, and of a prompt encoder only what it
puts out. Each kind is trained, interrupted, resumed and compared with a training that nothing interrupted.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

import keepstep
from keepstep.errors import ResumeRefused
from tests.failures.build import model as whole
from tests.failures.kinds import (
    Kind,
    Remembering,
    check_best,
    check_resume,
    crashed,
    managed,
    state,
    trainer_of,
    undisturbed,
    unequal,
)
from tests.training.ranked import logs_of, run_ranks

pytestmark = [
    pytest.mark.training,
    # PEFT's own, of what it does itself
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

EXTRA = "keepstep_extra.safetensors"
TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}
LORA: dict[str, Any] = {**TASK, "r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}


class Allocating(TrainerCallback):
    """Lets AdaLoRA give its ranks, as its documentation asks for."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.base_model.update_and_allocate(state.global_step)


def _two() -> Any:
    model = get_peft_model(whole(), LoraConfig(**LORA), adapter_name="one")
    model.add_adapter("two", LoraConfig(**LORA))
    model.base_model.set_adapter(["one", "two"])
    return _training(model, "lora_")


def _reference() -> Any:
    model = get_peft_model(whole(), LoraConfig(**LORA))
    model.add_adapter("ref", LoraConfig(**LORA))
    return model


def _training(model: Any, *words: str) -> Any:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or any(word in name for word in words))
    return model


def _adalora(**settings: Any) -> Any:
    ranks = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 4, "deltaT": 1, "total_step": 12, **settings}
    return get_peft_model(
        whole(), AdaLoraConfig(**TASK, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], **ranks)
    )


def _own() -> Any:
    """Adapters by the model's own `add_adapter`, without a PEFT model around it."""
    model = whole()
    model.add_adapter(LoraConfig(**LORA), adapter_name="mine")
    return model


def _normed() -> Any:
    """A base that learns statistics while it is frozen."""
    model = whole()
    torch.manual_seed(3)
    inner = model.model.layers[0].mlp.down_proj
    model.model.layers[0].mlp.down_proj = torch.nn.Sequential(inner, Statistics(16))
    return get_peft_model(model, LoraConfig(**LORA))


class Statistics(torch.nn.BatchNorm1d):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden.transpose(1, 2)).transpose(1, 2)


def _peft(config: Any, name: str = "default") -> Callable[[], Any]:
    return lambda: get_peft_model(whole(), config(), adapter_name=name)


KINDS = {
    "default": Kind(_peft(lambda: LoraConfig(**LORA))),
    "named": Kind(_peft(lambda: LoraConfig(**LORA), "mine")),
    "two active": Kind(_two),
    "frozen beside": Kind(_reference),
    "modules to save": Kind(_peft(lambda: LoraConfig(**LORA, modules_to_save=["lm_head"]), "mine")),
    "norms unfrozen": Kind(lambda: _training(_peft(lambda: LoraConfig(**LORA))(), "norm"), extra=3),
    "adalora": Kind(_adalora, extra=24, callbacks=(Allocating,)),
    "prompt": Kind(_peft(lambda: PromptTuningConfig(**TASK, num_virtual_tokens=4))),
    "prefix": Kind(_peft(lambda: PrefixTuningConfig(**TASK, num_virtual_tokens=4))),
    "prefix, projected": Kind(
        _peft(lambda: PrefixTuningConfig(**TASK, num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16)),
        extra=5,
    ),
    "p-tuning": Kind(_peft(lambda: PromptEncoderConfig(**TASK, num_virtual_tokens=4, encoder_hidden_size=16)), extra=7),
    "vera": Kind(_peft(lambda: VeraConfig(**TASK, r=4, target_modules=["q_proj"]), "mine")),
    "ia3": Kind(
        _peft(lambda: IA3Config(**TASK, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]))
    ),
    "own add_adapter": Kind(_own),
    "running statistics": Kind(_normed, extra=3),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.quick("default", "two active", "adalora", "prefix, projected", "p-tuning", "running")
def test_a_resume_goes_on_as_if_nothing_had_happened(out: Path, tmp_path: Path, name: str, engine: str) -> None:
    check_resume(KINDS[name], tmp_path, out, engine)
    assert extra_of(out / "checkpoint-4") == KINDS[name].extra


def extra_of(checkpoint: Path) -> int:
    """How many tensors its extra file holds; it is listed in the manifest where there is one."""
    listed = [entry["path"] for entry in json.loads((checkpoint / "keepstep.json").read_text())["files"]]
    assert (EXTRA in listed) == (checkpoint / EXTRA).is_file()
    return len(load_file(checkpoint / EXTRA)) if EXTRA in listed else 0


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.quick("two active", "adalora", "p-tuning", "own add", "running")
def test_the_best_at_the_end_is_what_was_saved(out: Path, name: str, engine: str) -> None:
    check_best(KINDS[name], out, engine)


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("two active", ValueError),
        ("adalora", RuntimeError),
        ("prefix, projected", RuntimeError),
        ("own add_adapter", (ValueError, OSError)),
        ("p-tuning", None),
        ("norms unfrozen", None),
    ],
)
@pytest.mark.long
def test_the_stock_trainer_does_not(out: Path, tmp_path: Path, name: str, raised: Any) -> None:
    """The control: it crashes, or goes on from other values."""
    kind = KINDS[name]
    crashed(trainer_of(kind, out), 4)
    trainer = trainer_of(kind, out)
    if raised:
        with pytest.raises(raised):
            trainer.train(resume_from_checkpoint=True)
        return
    alone = undisturbed(kind, tmp_path / "alone")
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) != []


@pytest.mark.parametrize("name", ["named", "two active"])
@pytest.mark.long
def test_the_stock_trainer_loads_no_best_of_a_named_adapter(out: Path, name: str) -> None:
    memory = Remembering()
    trainer = trainer_of(KINDS[name], out, memory, load_best_model_at_end=True)
    trainer.train()
    assert unequal(memory.model, state(trainer.model)) != []


@pytest.mark.parametrize("step", [2, 6, 8, 10])
@pytest.mark.quick("fast-2", "-6")
def test_adalora_at_every_stage_of_its_ranks(out: Path, tmp_path: Path, step: int, engine: str) -> None:
    """Before the first are given up, while they are, when they are settled, and behind that."""
    kind = KINDS["adalora"]
    alone = trainer_of(kind, tmp_path / "alone", eval_strategy="no", max_steps=12)
    alone.train()
    crashed(managed(kind, out, engine, eval_strategy="no", max_steps=12)[0], step)
    trainer, _ = managed(kind, out, engine, eval_strategy="no", max_steps=12)
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []


def test_the_best_of_adalora_is_saved_as_it_was(out: Path, tmp_path: Path, engine: str) -> None:
    """Which ranks are written is part of the model: the last step's would leave out others."""
    trainer, _ = managed(KINDS["adalora"], out, engine, load_best_model_at_end=True)
    trainer.train()
    trainer.save_model(os.fspath(tmp_path / "final"))
    final, saved = tmp_path / "final", out / "checkpoint-4"
    assert unequal(load_file(final / "adapter_model.safetensors"), load_file(saved / "adapter_model.safetensors")) == []
    patterns = [json.loads((path / "adapter_config.json").read_text())["rank_pattern"] for path in (final, saved)]
    assert patterns[0] == patterns[1]


def test_what_no_stock_file_holds_is_said_at_the_first_save(out: Path, said: Callable[[], str], engine: str) -> None:
    trainer, _ = managed(KINDS["p-tuning"], out, engine)
    trainer.train()
    lines = [line for line in said().splitlines() if "in no file" in line]
    assert len(lines) == 1
    assert lines[0].startswith(
        "INFO: 7 tensors that train are in no file that the stock writers write (prompt_encoder."
    )
    assert "and 4 more" in lines[0] and EXTRA in lines[0]


def test_nothing_is_said_where_all_is_in_stock_files(out: Path, said: Callable[[], str], engine: str) -> None:
    managed(KINDS["two active"], out, engine)[0].train()
    assert "in no file" not in said()
    assert not list(out.rglob(EXTRA))


def test_two_adapters_that_stock_writers_saved_go_on(out: Path, tmp_path: Path) -> None:
    """All of it is in their files; only their loader can't put it back."""
    kind = KINDS["two active"]
    alone = undisturbed(kind, tmp_path / "alone")
    crashed(trainer_of(kind, out, eval_strategy="no"), 4)
    trainer, _ = managed(kind, out, "fast", eval_strategy="no")
    trainer.train(resume_from_checkpoint=os.fspath(out / "checkpoint-4"))
    assert unequal(state(alone.model), state(trainer.model)) == []


def test_the_extra_file_is_verified_and_stays_behind_in_an_export(out: Path, tmp_path: Path, engine: str) -> None:
    crashed(managed(KINDS["p-tuning"], out, engine)[0], 4)
    keepstep.export(out, tmp_path / "exported", check=False)
    assert not (tmp_path / "exported" / EXTRA).exists()
    assert (tmp_path / "exported" / "adapter_model.safetensors").exists()
    path = out / "checkpoint-4" / EXTRA
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    trainer, checkpointer = managed(KINDS["p-tuning"], out, engine)
    trainer.train(resume_from_checkpoint=True)
    assert checkpointer.receipt is not None
    assert checkpointer.receipt.step == 2
    assert EXTRA in checkpointer.receipt.passed_over[0]


def test_the_best_is_loaded_when_only_its_weights_are_left(out: Path, engine: str) -> None:
    memory = Remembering()
    trainer = trainer_of(KINDS["p-tuning"], out, memory, load_best_model_at_end=True)
    keepstep.attach(trainer, engine=engine, keep="best:1,latest:1")  # pyright: ignore[reportArgumentType]
    trainer.train()
    assert (out / "weights-4" / EXTRA).is_file()
    assert unequal(memory.model, state(trainer.model)) == []


class Headed(torch.nn.Module):
    """A model of one's own, whose save forgets the head beside the language model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = whole()
        self.head = torch.nn.Linear(64, 64)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.inner(input_ids=input_ids).logits)
        return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class SavesTheInner(Trainer):
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        self.model.inner.save_pretrained(output_dir)
        torch.save(self.args, os.path.join(output_dir, "training_args.bin"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.inner.load_state_dict(load_file(os.path.join(resume_from_checkpoint, "model.safetensors")), False)


def test_a_head_that_a_save_of_the_users_own_forgets(
    out: Path, tmp_path: Path, said: Callable[[], str], engine: str
) -> None:
    kind, settings = Kind(Headed), {"cls": SavesTheInner, "eval_strategy": "no"}
    alone = trainer_of(kind, tmp_path / "alone", **settings)
    alone.train()
    crashed(managed(kind, out, engine, **settings)[0], 4)
    assert "2 tensors that train are in no file that the stock writers write (head.weight, head.bias)" in said()
    assert set(load_file(out / "checkpoint-4" / EXTRA)) == {"head.weight", "head.bias"}
    trainer, _ = managed(kind, out, engine, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []


class OwnFile(Trainer):
    """Weights in a file of its own name, cast on the way."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        os.makedirs(output_dir, exist_ok=True)
        torch.save(self.model.state_dict(), os.path.join(output_dir, "pytorch_model_mine.bin"))


def test_a_file_of_the_users_own_is_not_written_twice(out: Path, said: Callable[[], str], engine: str) -> None:
    crashed(managed(Kind(Headed), out, engine, cls=OwnFile)[0], 4)
    assert "in no file" not in said()
    assert not list(out.rglob(EXTRA))


def _reversed() -> Any:
    """The same adapters, registered the other way round."""
    model = get_peft_model(whole(), LoraConfig(**LORA), adapter_name="two")
    model.add_adapter("one", LoraConfig(**LORA))
    model.base_model.set_adapter(["one", "two"])
    return _training(model, "lora_")


def _straight() -> Any:
    """As `_two`, with adapters that are not what their initialisation makes of the order."""
    return _seeded(_two())


def _seeded(model: Any) -> Any:
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    return model


def moments(trainer: Any) -> dict[str, torch.Tensor]:
    """What the optimizer has gathered, by the names of its parameters."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    states = trainer.optimizer.state.items()
    return {f"{names[id(p)]} {key}": value.clone() for p, state in states for key, value in state.items()}


class Looking(TrainerCallback):
    """Keeps the optimizer's state as it is when the training begins, and when step 4 is done."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = moments(self.trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            self.done = moments(self.trainer)

    trainer: Any


def test_moments_belong_to_parameters_by_name(out: Path, said: Callable[[], str], engine: str) -> None:
    """Adapters that are added in another order come back with each other's moments by index, which nothing notices."""
    before, after = Looking(), Looking()
    before.trainer, _ = managed(Kind(_straight), out, engine, before)
    crashed(before.trainer, 4)
    after.trainer, checkpointer = managed(Kind(lambda: _seeded(_reversed())), out, engine, after)
    after.trainer.train(resume_from_checkpoint=True)
    assert unequal(before.done, after.begun) == []
    assert "in another order than at the save: their state was taken by name" in said()
    assert checkpointer.receipt is not None
    # The copies that this callback keeps are new in each training.
    assert [r for r in checkpointer.receipt.reasons if not r.text.startswith("beside the model")] == []


def test_an_optimizer_that_takes_no_order_is_refused(out: Path, engine: str) -> None:
    class Stubborn(torch.optim.AdamW):
        def load_state_dict(self, state_dict: Any) -> None:
            self.given = state_dict

    def built(build: Callable[[], Any]) -> Any:
        trainer, _ = managed(Kind(build), out, engine)
        trainer.optimizer = Stubborn([p for p in trainer.model.parameters() if p.requires_grad], lr=1e-2)
        return trainer

    crashed(built(_straight), 4)
    with pytest.raises(ResumeRefused, match="in another order than at the save"):
        built(lambda: _seeded(_reversed())).train(resume_from_checkpoint=True)


def test_other_groups_are_refused(out: Path, engine: str) -> None:
    def built(groups: int) -> Any:
        trainer, _ = managed(Kind(_straight), out, engine)
        trains = [p for p in trainer.model.parameters() if p.requires_grad]
        trainer.optimizer = torch.optim.AdamW([{"params": trains[number::groups]} for number in range(groups)], lr=1e-2)
        return trainer

    crashed(built(2), 4)
    with pytest.raises(ResumeRefused, match="8 parameters in 2 groups, that of now 8 in 1"):
        built(1).train(resume_from_checkpoint=True)


def _on_a_rank(rank: int, home: Path, name: str, engine: str) -> None:
    """One training alone, one that crashes after step 4, and one that goes on from there; leaves both ends."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kind, settings = KINDS[name], {"per_device_train_batch_size": 2, "max_steps": 6, "logging_steps": 1}
    settings |= {"eval_strategy": "no"}
    alone, _ = managed(kind, home / "alone", engine, **settings)
    alone.train()
    crashed(managed(kind, home / "run", engine, **settings)[0], 5)
    trainer, checkpointer = managed(kind, home / "run", engine, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert checkpointer.receipt is not None and not checkpointer.receipt.reasons
    assert checkpointer.receipt.evidence.value == "proved", checkpointer.receipt
    torch.save([state(alone.model), state(trainer.model)], home / f"rank-{rank}.pt")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["p-tuning", "two active"])
@pytest.mark.quick("p-tuning")
def test_two_processes(tmp_path: Path, name: str, engine: str) -> None:
    """Rank 0 writes what no stock file holds; every rank puts it back."""
    codes = run_ranks(tmp_path, _on_a_rank, tmp_path, name, engine)
    assert codes == [0, 0], logs_of(tmp_path)
    (alone, first), (_, second) = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert unequal(alone, first) == [] and unequal(alone, second) == []


@pytest.mark.long
def test_a_compiled_model_with_adapters(out: Path, tmp_path: Path, engine: str) -> None:
    """The stock Trainer can't load it; with the newest PEFT it writes an adapter file without a tensor."""
    kind = Kind(lambda: torch.compile(KINDS["default"].build(), backend="eager"))
    settings: dict[str, Any] = {"eval_strategy": "no", "remove_unused_columns": False}
    alone = trainer_of(kind, tmp_path / "alone", **settings)
    alone.train()
    with pytest.raises(ValueError, match="checkpoint index"):
        trainer_of(kind, tmp_path / "alone", **settings).train(resume_from_checkpoint=True)
    crashed(managed(kind, out, engine, **settings)[0], 4)
    trainer, _ = managed(kind, out, engine, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
