"""Parts of a model that train while its base is frozen: adapters of PEFT, and layers unfrozen by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import peft
import torch
import transformers
from torch import nn
from transformers import TrainerCallback

from tests.matrix.inputs import TASKS, TEXT, TEXT_CLASS, Inputs
from tests.matrix.subject import Subject
from tests.matrix.subjects.making import DECODER, EXPERTS, config

TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
PROMPT: dict[str, Any] = {"num_virtual_tokens": 4}


class Allocating(TrainerCallback):
    """Lets AdaLoRA give its ranks, as its documentation asks for."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.base_model.update_and_allocate(state.global_step)


def base(model: str = "LlamaForCausalLM", settings: str = "LlamaConfig", **sizes: Any) -> Any:
    """A base model, which is the same in every life."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return getattr(transformers, model)(config(settings, **{**DECODER, "attention_dropout": 0.1, **sizes}))


def _experts() -> Any:
    return base("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **EXPERTS, head_dim=8)


def _peft(
    name: str,
    kind: str,
    *,
    on: Callable[[], Any] = base,
    adapter: str = "default",
    inputs: Inputs = TEXT,
    unfrozen: Sequence[str] = (),
    callbacks: tuple[type[TrainerCallback], ...] = (),
    killed: bool = False,
    **settings: Any,
) -> Subject:
    """A base with an adapter of a kind of PEFT; `unfrozen` are parts of names of further parameters that train."""

    def build(first: bool) -> Any:
        adapted = peft.get_peft_model(on(), getattr(peft, kind)(**{**TASK, **settings}), adapter_name=adapter)
        return training(adapted, unfrozen)

    return Subject(name, build, inputs, (f"peft.{kind}",), callbacks=callbacks, killed=killed)


def training(model: nn.Module, parts: Sequence[str]) -> nn.Module:
    """The model, with parameters whose names have one of these parts unfrozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or any(part in name for part in parts))
    return model


def _two_active(first: bool) -> Any:
    model: Any = peft.get_peft_model(base(), peft.LoraConfig(**TASK, **LORA), adapter_name="one")
    model.add_adapter("two", peft.LoraConfig(**TASK, **LORA))
    model.base_model.set_adapter(["one", "two"])
    return training(model, ["lora_"])


def _one_frozen(first: bool) -> Any:
    model = peft.get_peft_model(base(), peft.LoraConfig(**TASK, **LORA))
    model.add_adapter("reference", peft.LoraConfig(**TASK, **LORA))
    return model


def _own(first: bool) -> Any:
    """By the model's own `add_adapter`, without a model of PEFT around it."""
    model = base()
    model.add_adapter(peft.LoraConfig(**LORA), adapter_name="mine")
    return model


def _classifier() -> Any:
    return base("LlamaForSequenceClassification", num_labels=2)


def _gpt2() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        settings = config("GPT2Config", vocab_size=64, n_positions=64, n_embd=16, n_layer=2, n_head=2)
        return transformers.GPT2LMHeadModel(settings)


ADAPTERS = (
    _peft("LoRA", "LoraConfig", **LORA, killed=True),
    _peft("LoRA, another name", "LoraConfig", **LORA, adapter="mine"),
    _peft("LoRA and modules_to_save", "LoraConfig", **LORA, modules_to_save=["lm_head"]),
    _peft(
        "LoRA and tied modules_to_save", "LoraConfig", **LORA, modules_to_save=["embed_tokens"],
        on=lambda: base(tie_word_embeddings=True),
    ),
    _peft("LoRA on embeddings", "LoraConfig", **{**LORA, "target_modules": ["embed_tokens", "q_proj"]}),
    _peft("LoRA, trainable tokens", "LoraConfig", **LORA, trainable_token_indices=[3, 5]),
    _peft("LoRA, bias=all", "LoraConfig", r=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="all", on=_gpt2),
    _peft("LoRA, norms unfrozen by hand", "LoraConfig", **LORA, unfrozen=["norm"]),
    _peft("LoRA on a classifier", "LoraConfig", **{**LORA, "task_type": "SEQ_CLS"}, on=_classifier, inputs=TEXT_CLASS),
    _peft("LoRA on the attention of a mixture", "LoraConfig", **LORA, on=_experts),
    _peft(
        "LoRA on the experts of a mixture", "LoraConfig", **{**LORA, "lora_dropout": 0.0},
        target_parameters=["mlp.experts.gate_up_proj"], on=_experts,
    ),
    Subject("LoRA, two active", _two_active, TEXT, ("peft.LoraConfig",)),
    Subject("LoRA, one frozen beside", _one_frozen, TEXT, ("peft.LoraConfig",)),
    Subject("LoRA, the model's own add_adapter", _own, TEXT, ("peft.LoraConfig",)),
    _peft("DoRA", "LoraConfig", **LORA, use_dora=True),
    _peft("rsLoRA", "LoraConfig", **LORA, use_rslora=True),
    _peft(
        "AdaLoRA, pruned", "AdaLoraConfig", init_r=6, target_r=2, tinit=0, tfinal=2, deltaT=1, total_step=10,
        target_modules=["q_proj", "v_proj"], callbacks=(Allocating,), killed=True,
    ),
    _peft("IA3", "IA3Config", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    _peft("VeRA", "VeraConfig", r=4, target_modules=["q_proj"]),
    _peft("LoHa", "LoHaConfig", r=4, target_modules=["q_proj"]),
    _peft("LoKr", "LoKrConfig", r=4, target_modules=["q_proj"]),
    _peft("OFT", "OFTConfig", r=0, oft_block_size=4, target_modules=["q_proj"]),
    _peft("BOFT", "BOFTConfig", boft_block_size=4, target_modules=["q_proj"]),
    _peft("HRA", "HRAConfig", r=4, target_modules=["q_proj"]),
    _peft("FourierFT", "FourierFTConfig", n_frequency=8, target_modules=["q_proj"]),
    _peft("LN tuning", "LNTuningConfig", target_modules=["norm"]),
    _peft("Trainable tokens", "TrainableTokensConfig", token_indices=[3, 5], target_modules=["embed_tokens"]),
    _peft("Prompt tuning", "PromptTuningConfig", **PROMPT),
    _peft("Multitask prompt tuning", "MultitaskPromptTuningConfig", **PROMPT, num_tasks=2, inputs=TASKS),
    _peft("Prefix tuning", "PrefixTuningConfig", **PROMPT),
    _peft("Prefix tuning, projected", "PrefixTuningConfig", **PROMPT, prefix_projection=True, encoder_hidden_size=16),
    _peft("P-tuning, MLP", "PromptEncoderConfig", **PROMPT, encoder_hidden_size=16, killed=True),
    _peft(
        "P-tuning, LSTM", "PromptEncoderConfig", **PROMPT, encoder_hidden_size=16,
        encoder_reparameterization_type="LSTM",
    ),
)  # fmt: skip
