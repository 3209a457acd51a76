"""Texts of a command line, and scalars of a file, as the values that a parser makes of them."""

from __future__ import annotations

import ast
import json
from typing import Any

NUMBERS = frozenset({
    "save_steps", "eval_steps", "logging_steps", "num_train_epochs", "max_steps", "save_total_limit", "seed",
    "data_seed",
})  # fmt: skip
FLAGS = frozenset({
    "load_best_model_at_end", "greater_is_better", "save_only_model", "enable_jit_checkpoint", "ignore_data_skip",
    "overwrite_output_dir", "do_eval", "do_train",
})  # fmt: skip
"""Settings by the type of their field."""
TRUE = frozenset({"true", "yes", "on", "1", "y", "t"})
FALSE = frozenset({"false", "no", "off", "0", "n", "f"})


def kind_of(name: str) -> str:
    """The type of a training argument's field: number, bool or text."""
    return "number" if name in NUMBERS else "bool" if name in FLAGS else "text"


def coerced(text: str, kind: str) -> Any:
    """A text as a value of that kind; the text itself where it is none."""
    word = text.strip()
    if kind in ("int", "float", "number"):
        return _number(word, text)
    if kind == "bool":
        return True if word.lower() in TRUE else False if word.lower() in FALSE else text
    if kind == "any":
        return guessed(text)
    return text


def guessed(text: str) -> Any:
    """What YAML or Python would take a text for: a number, true or false, nothing, else the text."""
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word.lower() in ("null", "none", "~"):
        return None
    if word[:1] in "[{('\"":
        for read in (json.loads, ast.literal_eval):
            try:
                found: Any = read(word)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return list(found) if isinstance(found, tuple) else found  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return _number(word, text)


def of_setting(name: str, value: Any) -> Any:
    """What transformers' parser makes of a value in a file: `1e2` and `"500"` are numbers where one is due."""
    if not isinstance(value, str):
        return value
    if name in NUMBERS:
        return coerced(value, "number")
    return value.lower() != "false" if value.lower() in ("true", "false", "yes") else value


def kind_of_annotation(node: ast.expr | None) -> str:
    """int, float, bool or text, from an annotation or a `type=`: `int | None`, `Optional[float]`, `strtobool`."""
    if node is None:
        return "any"
    words = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    words |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # from __future__ import annotations, by hand
        words |= set(node.value.replace("[", " ").replace("]", " ").replace("|", " ").split())
    for kind in ("float", "int", "bool", "str"):
        if kind in words:
            return kind
    return "bool" if any("bool" in word for word in words) else "any"


def _number(word: str, text: str) -> Any:
    for read in (int, float):
        try:
            return read(word)
        except ValueError:
            continue
    return text
