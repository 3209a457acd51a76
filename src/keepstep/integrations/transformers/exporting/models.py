"""Models and adapters as stock libraries load them from a directory."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers

from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.export.files import ADAPTER_CONFIG
from keepstep.operations.export.plan import read_json

_BY_TASK = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""The class that loads the base of an adapter, by PEFT's name of its task."""


class CannotLoad(Exception):
    """There is no stock class for a model, or a base model is not on this machine."""


def load_model(directory: Path, dtype: torch.dtype | str = "auto") -> tuple[Any, str]:
    """A model by the class that its config names, in evaluation mode; the name of that class.

    No code of the checkpoint is run. Raises CannotLoad where transformers has no such class, ExportRefused where
    tensors are missing, unexpected, or of another shape.
    """
    config = read_json(directory / "config.json")
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "AutoModel"
    kind = getattr(transformers, name, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise CannotLoad(f"transformers {transformers.__version__} has no {name}, and code of a model is never run")
    try:
        with quiet():
            model, info = kind.from_pretrained(
                directory, dtype=dtype, output_loading_info=True, trust_remote_code=False
            )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, UnpicklingError) as error:
        raise ExportRefused(f"{name} can't load it: {first_line(error)}") from error
    wrong = [
        f"{what.replace('_', ' ')}: {', '.join(sorted(map(str, info[what]))[:5])}" for what in _WRONG if info.get(what)
    ]
    if wrong:
        raise ExportRefused(f"{name} does not load the weights as they are: {'; '.join(wrong)}")
    return model.eval(), name


_WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def load_base(base: str, adapter: Path, dtype: torch.dtype | str = "auto", *, local: bool = False) -> tuple[Any, str]:
    """The model that an adapter belongs to, and the class that loaded it; with `local` nothing is downloaded.

    Raises CannotLoad.
    """
    settings = read_json(adapter / ADAPTER_CONFIG)
    name = _BY_TASK.get(str(settings.get("task_type")), "AutoModelForCausalLM")
    options: dict[str, Any] = (
        {"num_labels": labels} if (labels := _labels(adapter)) and name.endswith("Classification") else {}
    )
    path = os.path.expanduser(base)
    looks_local = base.startswith((".", "/", "~")) or os.path.isdir(path)
    if looks_local and not os.path.isdir(path):
        raise CannotLoad(f"the base model is not here: {Path(path).name} is no directory on this machine")
    try:
        with quiet():
            model = getattr(transformers, name).from_pretrained(
                path if looks_local else base, dtype=dtype, local_files_only=local, trust_remote_code=False, **options
            )
    except (OSError, ValueError) as error:
        raise CannotLoad(
            f"the base model {Path(base).name if looks_local else base} can't be loaded: {first_line(error)}"
        ) from error
    if getattr(model.config, "quantization_config", None) is not None:
        raise CannotLoad("the base model is quantized; name the one in full precision")
    rows = _embedding_rows(adapter)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows)
    return model.eval(), name


def put_adapter(base: Any, adapter: Path) -> Any:
    """The base with an adapter in a directory put on it, in evaluation mode. Raises ExportRefused."""
    from peft import PeftModel

    try:
        with quiet():
            return PeftModel.from_pretrained(base, str(adapter)).eval()
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ExportRefused(
            f"the adapter can't be put on the base model: {first_line(error)}",
            hint="Name the base that it was trained on: --base DIR_OR_NAME",
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, as far as one line goes."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars, warnings and reports of loading: what is wrong is found by comparing."""
    loud = transformers.utils.logging
    level, bars = loud.get_verbosity(), loud.is_progress_bar_enabled()
    peft_logger = logging.getLogger("peft")
    peft_level = peft_logger.level
    loud.set_verbosity_error()
    loud.disable_progress_bar()
    peft_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.set_verbosity(level)
        peft_logger.setLevel(peft_level)
        if bars:
            loud.enable_progress_bar()


def _labels(adapter: Path) -> int | None:
    """Outputs of a classification head that was trained with an adapter."""
    for name, shape in _shapes(adapter).items():
        if name.endswith((".score.weight", ".classifier.weight", ".classifier.out_proj.weight")):
            return shape[0]
    return None


def _embedding_rows(adapter: Path) -> int | None:
    """Rows of an embedding that is in an adapter whole: its vocabulary may have grown."""
    for name, shape in _shapes(adapter).items():
        if name.endswith((".embed_tokens.weight", ".wte.weight", ".word_embeddings.weight", ".lm_head.weight")):
            return shape[0]
    return None


def _shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    from keepstep.formats.safetensors_header import tensors_in

    return {name: entry.shape for name, entry in tensors_in(adapter / "adapter_model.safetensors").items()}
