"""After a resume what is in memory is compared with what was saved: faults of a load are found, mended, or refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

import keepstep
from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming import comparing
from keepstep.integrations.transformers.resuming.comparing import Comparison
from keepstep.operations.resealing.reseal import plan_reseal, reseal
from keepstep.run import Run
from tests.failures.build import model as llama
from tests.failures.kinds import (
    Kind,
    crashed,
    losses,
    managed,
    state,
    trainer_of,
    undisturbed,
    unequal,
)
from tests.failures.test_adapters import KINDS

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"


def _counting() -> Any:
    """A Llama with a buffer that counts, and belongs to what is saved."""
    model = llama()
    model.model.register_buffer("seen", torch.zeros(3))

    def count(module: Any, *_: Any) -> None:
        if module.training:
            module.seen += 1

    model.model.register_forward_pre_hook(count)
    return model


PLAIN, COUNTING = Kind(llama), Kind(_counting)


def receipt_of(checkpointer: keepstep.Checkpointer) -> keepstep.Receipt:
    assert checkpointer.receipt is not None
    return checkpointer.receipt


def test_the_receipt_says_what_was_compared(out: Path, engine: str) -> None:
    crashed(managed(COUNTING, out, engine)[0], 4)
    trainer, checkpointer = managed(COUNTING, out, engine)
    trainer.train(resume_from_checkpoint=True)
    tensors = len(list(trainer.model.parameters()))
    assert receipt_of(checkpointer).compared == (
        f"{tensors + 1} of {tensors + 1} tensors of the model and {3 * tensors} of {3 * tensors} tensors of the "
        "optimizer's state equal what was saved"
    )


@pytest.mark.parametrize("name", ["default", "two active", "adalora", "prefix, projected", "running statistics"])
@pytest.mark.quick("two active", "running")
def test_adapters_are_compared_too(out: Path, name: str, engine: str) -> None:
    crashed(managed(KINDS[name], out, engine)[0], 4)
    trainer, checkpointer = managed(KINDS[name], out, engine)
    trains = sum(parameter.requires_grad for parameter in trainer.model.parameters())
    trainer.train(resume_from_checkpoint=True)
    found = int(receipt_of(checkpointer).compared.split()[0])
    assert found >= trains
    assert receipt_of(checkpointer).compared.startswith(f"{found} of {found} tensors of the model")


# -- faults of a load ------------------------------------------------------------------------------------


def _skipped(values: dict[str, torch.Tensor]) -> None:
    del values[Q]


def _swapped(values: dict[str, torch.Tensor]) -> None:
    values[Q], values[K] = values[K], values[Q]


def _scaled(values: dict[str, torch.Tensor]) -> None:
    values[HEAD] = values[HEAD] * (1 + 2**-7)


def _forgotten(values: dict[str, torch.Tensor]) -> None:
    del values["model.seen"]


FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], tuple[str, ...]]] = {
    "a tensor is skipped": (_skipped, (Q,)),
    "two are swapped": (_swapped, (Q, K)),
    "one is scaled": (_scaled, (HEAD,)),
    "a buffer is forgotten": (_forgotten, ("model.seen",)),
}


def broken(trainer: Any, fault: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Let the stock loader of a trainer's model make a mistake."""
    load = trainer.model.load_state_dict

    def load_state_dict(values: Any, *args: Any, **kwargs: Any) -> Any:
        wrong = dict(values)
        fault(wrong)
        return load(wrong, *args, **kwargs)

    trainer.model.load_state_dict = load_state_dict


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_loader_got_wrong_is_found_and_put_right(
    out: Path, tmp_path: Path, said: Callable[[], str], name: str, engine: str
) -> None:
    fault, names = FAULTS[name]
    alone = undisturbed(COUNTING, tmp_path / "alone")
    crashed(managed(COUNTING, out, engine, eval_strategy="no")[0], 4)
    trainer, checkpointer = managed(COUNTING, out, engine, eval_strategy="no")
    broken(trainer, fault)
    trainer.train(resume_from_checkpoint=True)
    line = next(line for line in said().splitlines() if "put right from the files" in line)
    assert all(each in line for each in names)
    assert unequal(state(alone.model), state(trainer.model)) == []
    assert not receipt_of(checkpointer).reasons


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.long
def test_without_the_comparison_nobody_notices(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The control."""
    alone = undisturbed(COUNTING, tmp_path / "alone")
    crashed(managed(COUNTING, out, "fast", eval_strategy="no")[0], 4)
    monkeypatch.setattr(Comparison, "check_model", lambda *_: None)
    trainer, checkpointer = managed(COUNTING, out, "fast", eval_strategy="no")
    broken(trainer, FAULTS[name][0])
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) != []
    assert not receipt_of(checkpointer).reasons


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.quick("swapped", "forgotten")
def test_the_best_at_the_end_is_put_right_as_well(out: Path, said: Callable[[], str], name: str, engine: str) -> None:
    trainer, checkpointer = managed(COUNTING, out, engine, load_best_model_at_end=True)
    broken(trainer, FAULTS[name][0])
    trainer.train()
    best = checkpointer.run.best
    assert best is not None and best.path is not None
    assert "put right from the files" in said()
    saved = load_file(best.path / "model.safetensors")
    assert all(torch.equal(value, trainer.model.state_dict()[key]) for key, value in saved.items())


def test_what_can_not_be_put_right_is_refused_with_the_share_and_the_names(
    out: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    crashed(managed(PLAIN, out, engine)[0], 4)
    trainer, _ = managed(PLAIN, out, engine)
    broken(trainer, _skipped)
    monkeypatch.setattr(comparing, "mend", lambda *_: set())
    with pytest.raises(ResumeRefused, match=rf"1 of 12 tensors .*\(94\.5% of the values came back\): {Q}"):
        trainer.train(resume_from_checkpoint=True)


# -- moments ---------------------------------------------------------------------------------------------


class ShiftedMoments(Trainer):
    """Hands the state of each parameter to its neighbour."""

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        optimizer: Any = self.optimizer
        state = getattr(optimizer, "optimizer", optimizer).state
        model: Any = self.model
        named: Any = dict(model.named_parameters())
        first, second = named[Q], named[K]
        state[first]["exp_avg"], state[second]["exp_avg"] = state[second]["exp_avg"], state[first]["exp_avg"]


def test_moments_of_another_parameter_are_refused(out: Path, engine: str) -> None:
    crashed(managed(PLAIN, out, engine)[0], 4)
    trainer, _ = managed(PLAIN, out, engine, cls=ShiftedMoments)
    with pytest.raises(ResumeRefused, match=rf"2 of 36 tensors of the optimizer's state .* exp_avg of {K}"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("optimizer", ["adafactor", "nadam", "asgd"])
@pytest.mark.quick("adafactor")
def test_a_state_that_torch_casts_is_put_back_uncast(out: Path, tmp_path: Path, optimizer: str, engine: str) -> None:
    """Of parameters in bfloat16 some optimizers keep a state in float32, which `load_state_dict` rounds."""
    kind = Kind(lambda: llama().to(torch.bfloat16))

    def build(directory: Path) -> Any:
        if optimizer == "adafactor":
            return trainer_of(kind, directory, eval_strategy="no", optim="adafactor")
        trainer = trainer_of(kind, directory, eval_strategy="no")
        maker = {"nadam": torch.optim.NAdam, "asgd": torch.optim.ASGD}[optimizer]
        trainer.optimizer = maker(trainer.model.parameters(), lr=1e-2)
        return trainer

    alone = build(tmp_path / "alone")
    alone.train()
    first = build(out)
    keepstep.attach(first, engine=engine)  # pyright: ignore[reportArgumentType]
    crashed(first, 4)
    trainer = build(out)
    checkpointer = keepstep.attach(trainer, engine=engine)  # pyright: ignore[reportArgumentType]
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
    assert losses(alone) == losses(trainer)
    assert not receipt_of(checkpointer).reasons


@pytest.mark.long
def test_a_stock_resume_rounds_it(out: Path, tmp_path: Path) -> None:
    """The control."""
    kind = Kind(lambda: llama().to(torch.bfloat16))
    alone = trainer_of(kind, tmp_path / "alone", eval_strategy="no", optim="adafactor")
    alone.train()
    crashed(trainer_of(kind, out, eval_strategy="no", optim="adafactor"), 4)
    trainer = trainer_of(kind, out, eval_strategy="no", optim="adafactor")
    trainer.train(resume_from_checkpoint=os.fspath(out / "checkpoint-4"))
    assert unequal(state(alone.model), state(trainer.model)) != []


# -- what is not as it was, and need not be --------------------------------------------------------------


class Rounding(Trainer):
    """Saves the weights rounded to 8 bits of mantissa."""

    def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
        model: Any = self.model
        values = {key: value.to(torch.bfloat16).to(value.dtype) for key, value in model.state_dict().items()}
        super()._save(output_dir, state_dict=values)


def test_weights_that_the_user_s_own_save_rounds_are_named(out: Path, engine: str) -> None:
    crashed(managed(PLAIN, out, engine, cls=Rounding)[0], 4)
    trainer, checkpointer = managed(PLAIN, out, engine, cls=Rounding)
    trainer.train(resume_from_checkpoint=True)
    receipt = receipt_of(checkpointer)
    assert receipt.level.value == "approximate"
    assert any("rewritten in the files, by Rounding._save" in reason.text for reason in receipt.reasons)


def test_a_change_that_was_sealed_is_named(out: Path) -> None:
    crashed(managed(PLAIN, out, "fast")[0], 4)
    path = out / "checkpoint-4" / "model.safetensors"
    values = load_file(path)
    values[HEAD] *= 2
    save_file(values, path, metadata={"format": "pt"})
    run = Run.open(out)
    reseal(run, plan_reseal(run, 4))
    trainer, checkpointer = managed(PLAIN, out, "fast")
    trainer.train(resume_from_checkpoint=True)
    reasons = [reason.text for reason in receipt_of(checkpointer).reasons]
    text = f"1 tensor was rewritten in the files, by its own save code, a callback in on_save, or a reseal: {HEAD}"
    assert any(text in reason for reason in reasons), reasons


def test_another_dtype_is_named(out: Path, engine: str) -> None:
    crashed(managed(PLAIN, out, engine)[0], 4)
    trainer, checkpointer = managed(Kind(lambda: llama().to(torch.bfloat16)), out, engine)
    trainer.train(resume_from_checkpoint=True)
    reasons = [reason.text for reason in receipt_of(checkpointer).reasons]
    assert any("12 tensors had another dtype, such as float32" in text for text in reasons), reasons


def test_without_an_imprint_nothing_is_compared(out: Path) -> None:
    crashed(managed(PLAIN, out, "fast")[0], 4)
    (out / "checkpoint-4" / "keepstep_imprint.mpz").unlink()
    trainer, checkpointer = managed(PLAIN, out, "fast")
    trainer.train(resume_from_checkpoint=True)
    assert receipt_of(checkpointer).compared == ""


def test_a_checkpoint_that_goes_elsewhere_is_compared_there(out: Path, tmp_path: Path) -> None:
    crashed(managed(PLAIN, out, "fast")[0], 4)
    moved = tmp_path / "moved" / "checkpoint-4"
    shutil.copytree(out / "checkpoint-4", moved)
    trainer, checkpointer = managed(PLAIN, tmp_path / "new", "fast")
    trainer.train(resume_from_checkpoint=os.fspath(moved))
    assert receipt_of(checkpointer).compared.startswith("12 of 12")


# -- checkpoints of stock writers, which know moments by number alone --------------------------------------


def _backwards() -> Any:
    """A Llama whose head is registered before its layers: its parameters come in another order."""
    model = llama()
    modules = model._modules
    inner = modules.pop("model")
    modules["model"] = inner
    return model


def test_moments_of_another_shape_are_refused_before_a_step(out: Path) -> None:
    """Stock: not a number from the first step on, or a crash of the process."""
    crashed(trainer_of(PLAIN, out), 4)
    trainer, _ = managed(Kind(_backwards), out, "fast")
    with pytest.raises(ResumeRefused, match=r"exp_avg of .* is \(\d+, \d+\) and not \(\d+, \d+\)"):
        trainer.train(resume_from_checkpoint=os.fspath(out / "checkpoint-4"))


def test_moments_in_another_order_are_taken_by_name(out: Path, tmp_path: Path, engine: str) -> None:
    # Unclipped: the norm of all gradients depends on their order in its last bits.
    settings: dict[str, Any] = {"eval_strategy": "no", "max_grad_norm": 0.0}
    alone = trainer_of(PLAIN, tmp_path / "alone", **settings)
    alone.train()
    crashed(managed(PLAIN, out, engine, **settings)[0], 4)
    trainer, checkpointer = managed(Kind(_backwards), out, engine, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
    assert "36 of 36" in receipt_of(checkpointer).compared


def _grouped(*groups: tuple[str, float]) -> Callable[[Any], Any]:
    """Makes an optimizer of groups with rates of their own: parameters whose names have a word, and all others."""

    def make(model: Any) -> Any:
        words = [word for word, _ in groups if word]

        def belongs(name: str, word: str) -> bool:
            return word in name if word else not any(other in name for other in words)

        named = list(model.named_parameters())
        parameters = [([p for name, p in named if belongs(name, word)], rate) for word, rate in groups]
        return torch.optim.AdamW([{"params": found, "lr": rate} for found, rate in parameters])

    return make


def _with_groups(make: Callable[[Any], Any], out: Path, engine: str) -> tuple[Any, keepstep.Checkpointer]:
    trainer = trainer_of(PLAIN, out, eval_strategy="no", max_grad_norm=0.0)
    trainer.optimizer = make(trainer.model)
    return trainer, keepstep.attach(trainer, engine=engine)  # pyright: ignore[reportArgumentType]


HEAD_FIRST, HEAD_LAST = _grouped(("lm_head", 1e-3), ("", 1e-2)), _grouped(("", 1e-2), ("lm_head", 1e-3))


def test_groups_in_another_order_keep_their_rates(out: Path, tmp_path: Path, engine: str) -> None:
    alone, _ = _with_groups(HEAD_FIRST, tmp_path / "alone", engine)
    alone.train()
    crashed(_with_groups(HEAD_FIRST, out, engine)[0], 4)
    trainer, checkpointer = _with_groups(HEAD_LAST, out, engine)
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
    (reason,) = receipt_of(checkpointer).reasons
    assert reason.level.value == "equivalent"
    assert reason.text.endswith("the learning_rate that is logged is that of another group")


def test_another_rate_of_a_group_in_another_place_is_named(out: Path, engine: str) -> None:
    crashed(_with_groups(HEAD_FIRST, out, engine)[0], 4)
    trainer, checkpointer = _with_groups(_grouped(("", 1e-2), ("lm_head", 5e-3)), out, engine)
    trainer.train(resume_from_checkpoint=True)
    reason = receipt_of(checkpointer).reasons[0]
    assert "is 0.01 and 0.005, and 0.01 and 0.001 stays in force" in reason.text


def test_a_parameter_in_another_group_is_named(out: Path, engine: str) -> None:
    crashed(_with_groups(_grouped(("norm", 1e-3), ("", 1e-2)), out, engine)[0], 4)
    trainer, checkpointer = _with_groups(_grouped(("layernorm", 1e-3), ("", 1e-2)), out, engine)
    trainer.train(resume_from_checkpoint=True)
    (reason,) = receipt_of(checkpointer).reasons
    assert reason.text == (
        "optimizer: model.norm.weight in another group than at the save, and by its numbers from here on"
    )
