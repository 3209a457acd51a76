"""What is trained: models, optimizers and synthetic tokens, the same for every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

ROWS = 4096


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Rows of random tokens, the same in every process."""

    def __init__(self, vocabulary: int, length: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self._rows = torch.randint(0, vocabulary, (ROWS, length), generator=generator)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        return {"input_ids": row, "labels": row}


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, its data, and what is worth saying of it. `optimizer` is None for the trainer's own AdamW."""

    model: torch.nn.Module
    data: Dataset[Any]
    batch: int
    about: str
    optimizer: torch.optim.Optimizer | None = None


def build(name: str, llama: str | None = None) -> Workload:
    """The workload of a name in `NAMES`, some with a number: `gpt2:LAYERS`. Raises KeyError."""
    torch.manual_seed(0)
    kind, _, number = name.partition(":")
    return _BUILDERS[kind](int(number) if number else None, llama)


def _gpt2(layers: int | None, *, small: bool = False) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    if small:
        return GPT2LMHeadModel(GPT2Config(vocab_size=2048, n_embd=128, n_layer=2, n_head=2, n_positions=128))
    return GPT2LMHeadModel(GPT2Config(n_layer=12 if layers is None else layers))


def _full(layers: int | None, llama: str | None) -> Workload:
    model = _gpt2(layers)
    about = f"GPT-2, {_millions(model)} parameters in fp32, AdamW"
    return Workload(model, Tokens(model.config.vocab_size, 64), 1, about)


def _small(layers: int | None, llama: str | None) -> Workload:
    model = _gpt2(layers, small=True)
    return Workload(model, Tokens(2048, 64), 4, f"a GPT-2 of {_millions(model)} parameters in fp32, AdamW")


def _bfloat16(layers: int | None, llama: str | None) -> Workload:
    model = _gpt2(layers).to(torch.bfloat16)
    optimizer = WideAdamW(model.parameters(), lr=2e-5)
    about = f"GPT-2, {_millions(model)} parameters in bf16, AdamW with fp32 moments"
    return Workload(model, Tokens(model.config.vocab_size, 64), 1, about, optimizer)


def _lora_gpt2(layers: int | None, llama: str | None) -> Workload:
    model = _adapted(_gpt2(layers), ["c_attn"])
    return Workload(model, Tokens(50257, 64), 1, "LoRA (rank 16) on GPT-2 of 124M parameters, fp32")


def _lora_llama(layers: int | None, llama: str | None) -> Workload:
    from transformers import LlamaConfig, LlamaForCausalLM

    if llama:
        base, what = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32), "stories15M"
        if not isinstance(base, LlamaForCausalLM):
            raise TypeError(f"{llama} holds no Llama")
    else:
        shape: dict[str, Any] = {
            "hidden_size": 288,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
        }
        base = LlamaForCausalLM(LlamaConfig(vocab_size=32000, tie_word_embeddings=True, **shape))
        what = "a randomly initialised Llama of the shape of stories15M (no directory was given)"
    model = _adapted(base, ["q_proj", "v_proj"])
    return Workload(model, Tokens(32000, 128), 4, f"LoRA (rank 16) on {what}, {_millions(base)} parameters, fp32")


def _many(count: int | None, llama: str | None) -> Workload:
    model = ManyTensors(count or 2500)
    return Workload(model, Tokens(16, 4), 1, f"{4 * model.count} tensors of model and optimizer, 64 values in most")


def _stack(millions: int | None, llama: str | None) -> Workload:
    model = Stack(millions or 124)
    rows = max(1, _ROW_MILLIONS // (millions or 124))
    return Workload(model, Tokens(256, rows), 1, f"{_millions(model)} parameters in linear layers, fp32, AdamW")


def _adapted(model: Any, targets: list[str]) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, target_modules=targets, task_type="CAUSAL_LM"))


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M"


class ManyTensors(torch.nn.Module):
    """Many small parameters: what a save costs per tensor."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.values = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(64)) for _ in range(count))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sum of all squares; the tokens do not matter."""
        return {"loss": torch.stack(list(self.values)).square().mean() + 0.0 * labels.float().mean()}


_ROW_MILLIONS = 8192
"""Rows times millions of parameters: a step of some tenths of a second on one core, whatever the size."""


class Stack(torch.nn.Module):
    """Linear layers of about a million parameters each: a state of any size."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(1000, 1000) for _ in range(layers))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each token is a row."""
        values = (input_ids.view(-1, 1).float() / 256).expand(-1, 1000)
        for layer in self.layers:
            values = values + torch.relu(layer(values)) / len(self.layers)
        return {"loss": values.square().mean() + 0.0 * labels.float().mean()}


class WideAdamW(torch.optim.Optimizer):
    """AdamW whose moments are fp32 whatever the parameters are."""

    def __init__(
        self, parameters: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update."""
        del closure
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    wide: dict[str, Any] = {"dtype": torch.float32, "memory_format": torch.preserve_format}
                    self.state[parameter] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(parameter, **wide),
                        "exp_avg_sq": torch.zeros_like(parameter, **wide),
                    }
                self._update(parameter, group)

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[parameter], group["betas"]
        gradient = parameter.grad.float()  # pyright: ignore[reportOptionalMemberAccess]
        state["step"] += 1
        count = state["step"].item()
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (state["exp_avg_sq"] / (1 - second**count)).sqrt_().add_(group["eps"])
        change = (state["exp_avg"] / scale).mul_(-group["lr"] / (1 - first**count))
        parameter.add_(change.to(parameter.dtype))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch would narrow the moments to the parameters' dtype."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, saved in state_dict["state"].items():
            self.state[parameters[index]] = dict(saved)


_BUILDERS: dict[str, Callable[[int | None, str | None], Workload]] = {
    "gpt2": _full,
    "gpt2-bf16": _bfloat16,
    "lora-llama": _lora_llama,
    "lora-gpt2": _lora_gpt2,
    "small": _small,
    "many": _many,
    "stack": _stack,
}
NAMES = tuple(_BUILDERS)
