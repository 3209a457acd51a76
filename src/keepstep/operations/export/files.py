"""Which files of a checkpoint are the model, and which belong to its training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.export.errors import ExportRefused

MODEL_FILES = (
    *("config.json", "*_config.json", "config_*.json", "configuration.json", "modules.json", "*.jinja"),
    *("chat_template.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"),
    *("*.model", "*.tiktoken", "normalizer.json", "bpe.codes", "*.py"),
)
"""Names of files that a model is loaded with, beside its weights."""
TRAINING_FILES = (
    "trainer_state.json",
    "training_args.bin",
    "keepstep*.json",
    "keepstep*.safetensors",
    "*.pt",
    "*.pth",
    "*.pkl",
)
"""Names of files that are of a training, beside those that only a resume needs."""
SAFETENSORS = ("*.safetensors",)
INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
PICKLED = ("pytorch_model*.bin", "adapter_model.bin")
"""Weights as older versions write them; read with `weights_only=True`, and exported as safetensors."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
CARD = "README.md"
OTHERS = "of others, and no loader reads it"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A checkpoint's files: `weights`, their `indexes`, `others` that a model is loaded with, and what stays behind.

    Weights in subdirectories (further adapters, further modules) are among the others. `left` has a reason by path.
    """

    weights: tuple[FileEntry, ...]
    indexes: tuple[FileEntry, ...]
    others: tuple[FileEntry, ...]
    left: dict[str, str]

    @property
    def adapter(self) -> bool:
        """True when the weights are an adapter's."""
        return any(entry.path in ADAPTER_WEIGHTS for entry in self.weights)

    @property
    def pickled(self) -> bool:
        """True when the weights are in files of `torch.save`."""
        return any(_is(entry, PICKLED) for entry in self.weights)

    @property
    def weight_bytes(self) -> int:
        return sum(entry.size for entry in self.weights)

    @property
    def copied(self) -> tuple[FileEntry, ...]:
        """All that is exported where nothing about the weights changes."""
        return (*self.others, *self.indexes, *self.weights)


def model_files(checkpoint: Checkpoint, include: Sequence[str] = ()) -> ModelFiles:
    """What of a checkpoint is exported; `include` are patterns of further paths. Raises ExportRefused."""
    needed_by_resume = {entry.path for entry in checkpoint.files} - {entry.path for entry in checkpoint.weights}
    weights: list[FileEntry] = []
    indexes: list[FileEntry] = []
    others: list[FileEntry] = []
    left: dict[str, str] = {}
    for entry in checkpoint.files:
        if entry.by and not any(fnmatchcase(entry.path, pattern) for pattern in include):
            left[entry.path] = OTHERS
            continue
        of_training = entry.path in needed_by_resume or _is(entry, TRAINING_FILES)
        # What the weights are, no pattern of a user's changes.
        if "/" not in entry.path and not (of_training or entry.by) and _is(entry, (*SAFETENSORS, *PICKLED)):
            weights.append(entry)
        elif not (of_training or entry.by) and _is(entry, INDEXES):
            indexes.append(entry)
        elif any(fnmatchcase(entry.path, pattern) for pattern in include):
            others.append(entry)
        elif of_training:
            left[entry.path] = "of the training"
        elif entry.path == CARD:
            left[entry.path] = "the trainer's card; the export has its own"
        elif _is(entry, SAFETENSORS) or _is(entry, MODEL_FILES):
            others.append(entry)
        else:
            left[entry.path] = "not known as a file of a model"
    found = ModelFiles(tuple(weights), tuple(indexes), tuple(others), left)
    _check(checkpoint, found, include)
    return found


def _check(checkpoint: Checkpoint, found: ModelFiles, include: Sequence[str]) -> None:
    where = f"step {checkpoint.step}"
    if not found.weights:
        named = ", ".join(entry.path for entry in found.others if _is(entry, SAFETENSORS))
        raise ExportRefused(
            f"{where} holds no weights that can be exported"
            + (f": they lie in subdirectories ({named})" if named else ""),
            hint="A model has model.safetensors or pytorch_model.bin, an adapter adapter_model.safetensors.",
        )
    if not found.adapter and not _has(found.others, "config.json"):
        raise ExportRefused(f"{where} has weights but no config.json", hint="No stock loader could read it.")
    if found.adapter and not _has(found.others, ADAPTER_CONFIG):
        raise ExportRefused(f"{where} has an adapter but no {ADAPTER_CONFIG}", hint="PEFT could not load it.")
    paths = [entry.path for entry in checkpoint.files]
    for pattern in include:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ExportRefused(f"{where} has no file called {pattern}", hint=f"It has {', '.join(sorted(paths))}.")


def _has(entries: Iterable[FileEntry], path: str) -> bool:
    return any(entry.path == path for entry in entries)


def _is(entry: FileEntry, patterns: Sequence[str]) -> bool:
    name = entry.path.rpartition("/")[2]
    return any(fnmatchcase(name, pattern) for pattern in patterns)
