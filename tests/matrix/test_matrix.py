"""Each row of the matrix is what it is to be."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("transformers") is None or find_spec("peft") is None:
    pytest.skip("needs the hf extra and peft", allow_module_level=True)

import torch

from tests.matrix.pending import PENDING
from tests.matrix.playing import row
from tests.matrix.subject import Subject
from tests.matrix.subjects import GROUPS

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),  # models of transformers 4, under a newer torch
]

ADAPTERS = "Adapters"
SHORT = {
    "Llama", "GPTNeoX", "Mamba", "Mixtral", "GptOss", "Bert, SequenceClassification", "T5", "ResNet", "ViT", "Llava",
    "Wav2Vec2, CTC", "Llama from one without a head, loaded", "Mixtral, loaded", "LoRA on Mixtral, loaded",
    "GPTNeoX, torch.compile", "Mixtral, bf16", "Mixtral, many files", "Mixtral, partly frozen",
    "Mixtral, a class of the user's", "Mixtral in a module of the user's", "LoRA", "LoRA and tied modules_to_save",
    "LoRA, trainable tokens", "LoRA on the experts of a mixture", "AdaLoRA, pruned", "P-tuning, MLP", "SGD",
    "AdamW, bf16", "Adafactor of transformers", "groups in another order", "parameters in another order",
    "another layer trains", "other sizes at the resume", "a state scaled in the file",
}  # fmt: skip
"""One row of each kind; the others are variants of them."""
OTHERS = (ADAPTERS, "Optimizers", "Models loaded from files", "The same models in other ways")


def _parameters() -> list[Any]:
    pending = pytest.mark.xfail(reason="not yet", strict=True)

    def marks(name: str) -> list[Any]:
        return [*([pending] if name in PENDING else []), *([] if name in SHORT else [pytest.mark.long])]

    return [
        pytest.param(group, subject, id=subject.name, marks=marks(subject.name))
        for group, subjects in GROUPS.items()
        for subject in subjects
    ]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("group", "subject"), _parameters())
@pytest.mark.quick(14)
def test_row(group: str, subject: Subject) -> None:
    if missing := subject.missing():
        pytest.skip(f"needs {missing}")
    played = row(group, subject, control=False)
    assert played.verdict in subject.wants, (played.verdict, played.ours)


def test_there_are_enough_of_each_kind() -> None:
    """What the table promises."""
    names = Counter(subject.name for subjects in GROUPS.values() for subject in subjects)
    architectures = sum(len(subjects) for group, subjects in GROUPS.items() if group not in OTHERS)
    assert architectures >= 41
    assert len(GROUPS[ADAPTERS]) >= 14
    assert max(names.values()) == 1
    assert set(names) >= PENDING | SHORT
    assert all(any(subject.name in SHORT for subject in subjects) for subjects in GROUPS.values())
