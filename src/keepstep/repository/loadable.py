"""Which files loaders read: whether one would read a file that has this name, and what a checkpoint lacks without it.

By names alone, from transformers, PEFT and accelerate: `from_pretrained`, `Trainer(resume_from_checkpoint=...)` and
`Accelerator.load_state` look for files of these names, and for no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase

from keepstep.model import RESUME_DIRECTORIES, RESUME_FILES, FileEntry, Role, role_of

PRETRAINED = (
    # Weights: whole, of a variant, sharded, of several models, and their indexes.
    *("model.safetensors", "model.*.safetensors", "model-[0-9]*-of-[0-9]*.safetensors", "model_[0-9]*.safetensors"),
    *("model.safetensors.index*.json", "pytorch_model.bin", "pytorch_model.*.bin", "pytorch_model.bin.index*.json"),
    *("pytorch_model-[0-9]*-of-[0-9]*.bin", "pytorch_model_[0-9]*.bin", "adapter_model.*"),
    # What the model is.
    *("config.json", "generation_config.json", "adapter_config.json", "quantize_config.json", "quant_config.json"),
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json"),
    # Tokenizers and processors.
    *("tokenizer.json", "tokenizer.[0-9]*.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("*.tiktoken", "tekken.json", "tokenizer.model", "tiktoken.model", "spiece.model", "spm.model"),
    *("sentencepiece*.model", "bpe.codes", "preprocessor_config.json", "processor_config.json"),
    *("video_preprocessor_config.json", "audio_tokenizer_config.json"),
)
"""Names that `from_pretrained` looks for."""
RESUMED = (
    *RESUME_FILES,
    *("trainer_state.json", "training_args.bin", "latest", "pytorch_model_fsdp*", "keepstep_extra*.safetensors"),
    "keepstep_imprint*.mpz",
    *("optimizer_[0-9]*.bin", "scheduler*.bin", "sampler*.bin", "dl_state_dict*.bin", "custom_checkpoint_*.pkl"),
)
"""Names that a resume looks for, beside the weights."""
RESUMED_DIRECTORIES = (*RESUME_DIRECTORIES, "pytorch_model_fsdp*")
"""Directories of which a resume may read all."""
TEMPLATES = "additional_chat_templates"
"""A directory of which a tokenizer reads all."""
ADAPTER = "adapter_model.*"
"""Where a checkpoint has adapters, a resume loads one from every directory that has such a file."""
SPARE = ("training_args.bin", "keepstep_imprint*.mpz", "*.md", "zero_to_fp32.py", "zero_to_torch.py")
"""A checkpoint's own files that nobody misses: no loader reads them. Other bytes in them are damage all the same."""


class Need(StrEnum):
    """What can't be done without a file, or with wrong bytes in it."""

    NOTHING = "nothing"
    RESUME = "resume"
    EVERYTHING = "everything"


def need_of(file: FileEntry) -> Need:
    """What wrong bytes in a checkpoint's file spoil; in one of others, nothing."""
    return need_of_path(file.path) if not file.by else Need.NOTHING


def need_of_path(path: str) -> Need:
    """The same by a path alone. A name that nobody knows may be that of a model: everything."""
    spare = role_of(path) is Role.OPTIMIZER or path.rpartition("/")[2] == "trainer_state.json" or _matches(path, SPARE)
    return Need.RESUME if spare else Need.EVERYTHING


def lack_of(file: FileEntry) -> Need:
    """What can't be done once a checkpoint's file is gone."""
    return Need.NOTHING if _matches(file.path, SPARE) else need_of(file)


class Loaders:
    """What loaders would read of a directory, given the files that a checkpoint has."""

    def __init__(self, files: Iterable[FileEntry], code: Iterable[str] = ()) -> None:
        """`code` are the names of Python files that its configs call the model's own."""
        own = [file.path for file in files if not file.by]
        self._code = frozenset(code)
        self._homes = {path.rpartition("/")[0] for path in own} | {""}
        self._parents = {parent for path in own for parent in parents_of(path)}
        self._adapts = any(fnmatchcase(path.rpartition("/")[2], ADAPTER) for path in own)

    def why(self, path: str, *, directory: bool = False) -> str:
        """Which loader would read what is called like this, in words; nothing where none would.

        In a directory below, that is where the checkpoint has files of its own in it, or the loader looks into any.
        `directory` is asked of one: it stands in the way of a file of its name, or a loader looks for it itself.
        """
        home, _, name = path.rpartition("/")
        parts = path.split("/") if directory else path.split("/")[:-1]
        if any(_matches(part, RESUMED_DIRECTORIES) for part in parts):
            return "a resume would read it"
        if parts[:1] == [TEMPLATES]:
            return "a tokenizer would read it"
        if self._adapts and len(parts) == 1 and fnmatchcase(name, ADAPTER):
            return "a resume would load it as an adapter"
        if home not in self._homes:
            return ""
        if name in self._code and not home:
            return "a config names it as the model's code"
        if _matches(name, RESUMED):
            return "a resume would read it"
        return "from_pretrained would read it" if _matches(name, PRETRAINED) else ""

    def passes_through(self, path: str) -> bool:
        """True for a directory that holds files of the checkpoint's own: nothing else may stand in its place."""
        return path in self._parents


def parents_of(path: str) -> list[str]:
    """The directories above a relative path, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
