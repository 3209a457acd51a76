"""Python files that a checkpoint's configs call the model's own: `auto_map`, as transformers reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import msgspec

from keepstep.layout import NOT_JSON, SMALL_FILE_LIMIT
from keepstep.model import FileEntry
from keepstep.stores import Store

CONFIGS = (
    *("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"),
    *("video_preprocessor_config.json",),
)
"""Files with an `auto_map`: `{"AutoModel": "modeling_mine.MyModel"}`; what is named `org/repo--...` lies elsewhere."""


def code_files(store: Store, directory: str, files: Iterable[FileEntry]) -> frozenset[str]:
    """Names of the Python files that the configs among these files name, and load from their own directory."""
    known = {file.path for file in files}
    found: set[str] = set()
    for config in (name for name in CONFIGS if name in known):
        try:
            fields: Any = msgspec.json.decode(store.read(f"{directory}/{config}", limit=SMALL_FILE_LIMIT))
        except (OSError, *NOT_JSON):
            continue
        mapped = cast("dict[str, Any]", fields).get("auto_map") if isinstance(fields, dict) else None
        values = list(cast("dict[str, Any]", mapped).values()) if isinstance(mapped, dict) else []
        found |= {f"{reference.rpartition('.')[0]}.py" for reference in _texts(values) if "--" not in reference}
    return frozenset(found)


def _texts(values: list[Any]) -> Iterator[str]:
    """The strings in lists within lists: a tokenizer has a slow and a fast class."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _texts(cast("list[Any]", value))
