"""Which files of a checkpoint are the model, and which belong to its training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from keepstep.formats.dcp_metadata import METADATA
from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.export.zero_files import is_state, room_of

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
SHARDS = "pytorch_model_fsdp_[0-9]*"
"""Names of directories that accelerate writes weights into from all ranks."""
GATHERED = ("pytorch_model_fsdp.bin", "pytorch_model_fsdp_[0-9]*.bin")
"""What accelerate writes beside the weights that the Trainer gathered: the same once more."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
NAMES = "A model has model.safetensors or pytorch_model.bin, an adapter adapter_model.safetensors."
DEEPSPEED = (
    "DeepSpeed's ranks hold them, as pickles, which are opened here where their digests are known and hold. If you "
    "trust them: keepstep adopt RUN, and export again; or DeepSpeed's own script puts them together: python "
    "CHECKPOINT/zero_to_fp32.py CHECKPOINT DIR"
)
WHOLE = ("model*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin", *ADAPTER_WEIGHTS)
"""Weights that one process wrote, or gathered."""
GIVE = (
    "Name a directory that has it, and the tokenizer: --config-from DIR, as the model that was trained, or its "
    "adapter's output."
)
CARD = "README.md"
OTHERS = "of others, and no loader reads it"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A checkpoint's files: `weights`, their `indexes`, `others` that a model is loaded with, and what stays behind.

    Weights in subdirectories (further adapters, further modules) are among the others. `left` has a reason by path.
    `shards` is the directory that ranks wrote weights into, empty where they are whole, and `zero` that of DeepSpeed's
    ranks; `lent` are files of a model that the checkpoint has not, and that are taken from elsewhere.
    """

    weights: tuple[FileEntry, ...]
    indexes: tuple[FileEntry, ...]
    others: tuple[FileEntry, ...]
    left: dict[str, str]
    shards: str = ""
    lent: tuple[FileEntry, ...] = ()
    zero: str = ""

    @property
    def adapter(self) -> bool:
        """True when the weights are an adapter's."""
        if self.shards:
            return _has((*self.others, *self.lent), ADAPTER_CONFIG)
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

    @property
    def read(self) -> tuple[FileEntry, ...]:
        """All of the checkpoint that an export reads, however it changes the weights."""
        return self.copied


def model_files(checkpoint: Checkpoint, include: Sequence[str] = (), lent: Sequence[FileEntry] = ()) -> ModelFiles:
    """What of a checkpoint is exported; `include` are patterns of further paths, `lent` what a directory has that was
    named for what is missing. Raises ExportRefused.
    """
    whole = any("/" not in entry.path and not entry.by and _is(entry, WHOLE) for entry in checkpoint.files)
    shards = "" if whole else _shards_of(checkpoint)
    adapter = any(entry.path in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS) for entry in checkpoint.files)
    zero = "" if whole or shards or adapter else room_of(checkpoint)
    needed_by_resume = {entry.path for entry in checkpoint.files} - {entry.path for entry in checkpoint.weights}
    weights: list[FileEntry] = []
    indexes: list[FileEntry] = []
    others: list[FileEntry] = []
    left: dict[str, str] = {}
    for entry in checkpoint.files:
        if entry.by and not any(fnmatchcase(entry.path, pattern) for pattern in include):
            left[entry.path] = OTHERS
            continue
        if _of_ranks(entry) or is_state(entry, zero):
            if shards or zero:
                weights.append(entry)
            else:
                left[entry.path] = "the same weights once more" if whole else "weights that no stock loader reads"
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
    found = ModelFiles(tuple(weights), tuple(indexes), tuple(others), left, shards, _lacking(others, lent), zero)
    _check(checkpoint, found, include, asked=bool(lent))
    return found


def lendable(entry: FileEntry) -> bool:
    """True for a file that a model is loaded with, and that is none of its weights."""
    return "/" not in entry.path and _is(entry, MODEL_FILES) and not _is(entry, (*SAFETENSORS, *PICKLED))


def _lacking(own: Sequence[FileEntry], lent: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
    names = {entry.path for entry in own}
    return tuple(entry for entry in lent if entry.path not in names)


def _of_ranks(entry: FileEntry) -> bool:
    """True for weights in directories of ranks, and for what accelerate gathers beside the Trainer's."""
    home = entry.path.rpartition("/")[0]
    return not entry.by and (fnmatchcase(home, SHARDS) or (not home and _is(entry, GATHERED)))


def _shards_of(checkpoint: Checkpoint) -> str:
    homes = {e.path.rpartition("/")[0] for e in checkpoint.files if not e.by and e.path.endswith(f"/{METADATA}")}
    found = sorted(home for home in homes if fnmatchcase(home, SHARDS))
    if len(found) > 1:
        raise ExportRefused(f"step {checkpoint.step} holds {len(found)} models: {', '.join(found)}")
    return found[0] if found else ""


def _check(checkpoint: Checkpoint, found: ModelFiles, include: Sequence[str], *, asked: bool) -> None:
    where = f"step {checkpoint.step}"
    told = (*found.others, *found.lent)
    way_out = f"{GIVE} None is in the one that was named." if asked else GIVE
    if not found.weights:
        named = ", ".join(entry.path for entry in found.others if _is(entry, SAFETENSORS))
        raise ExportRefused(
            f"{where} holds no weights that can be exported"
            + (f": they lie in subdirectories ({named})" if named else ""),
            hint=DEEPSPEED if any(fnmatchcase(path, "global_step*/*") for path in found.left) else NAMES,
        )
    if not found.adapter and not _has(told, "config.json"):
        why = ": a sharded checkpoint of the stock Trainer holds none" if found.shards else ""
        raise ExportRefused(f"{where} has weights but no config.json{why}", hint=way_out)
    if found.adapter and not _has(told, ADAPTER_CONFIG):
        raise ExportRefused(f"{where} has an adapter but no {ADAPTER_CONFIG}", hint=way_out)
    paths = [entry.path for entry in checkpoint.files]
    for pattern in include:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ExportRefused(f"{where} has no file called {pattern}", hint=f"It has {', '.join(sorted(paths))}.")


def _has(entries: Iterable[FileEntry], path: str) -> bool:
    return any(entry.path == path for entry in entries)


def _is(entry: FileEntry, patterns: Sequence[str]) -> bool:
    name = entry.path.rpartition("/")[2]
    return any(fnmatchcase(name, pattern) for pattern in patterns)
