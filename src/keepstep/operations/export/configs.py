"""What an export changes in JSON files: the dtype, the base's name, and paths of the machine that trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from keepstep.operations.export.files import ADAPTER_CONFIG
from keepstep.operations.export.plan import read_json

_DTYPE_KEYS = ("dtype", "torch_dtype")
_PATH_KEYS = ("_name_or_path", "name_or_path")
_MACHINE_KEYS = ("is_local", "local_files_only")
"""How the tokenizer was loaded when it was trained with, which is nothing to whom it goes."""


def adjust(staging: Path, *, dtype: str | None, base_name: str | None) -> list[str]:
    """Rewrite what must be; `dtype` is torch's name of it. Returns notes, one sentence each. Raises OSError."""
    notes: list[str] = []
    for name in ("config.json", "tokenizer_config.json"):
        path = staging / name
        if path.is_file():
            config = read_json(path)
            changed = _drop_paths(config)
            if dtype is not None and name == "config.json":
                changed = _set_dtype(config, dtype) or changed
            if changed:
                _write(path, config)
    adapter = staging / ADAPTER_CONFIG
    if adapter.is_file():
        config = read_json(adapter)
        if base_name is not None:
            config["base_model_name_or_path"] = base_name
            _write(adapter, config)
        elif is_local(config.get("base_model_name_or_path")):
            notes.append(
                f"{ADAPTER_CONFIG} names its base by a path of this machine; --base-name NAME writes the name that "
                "others load it by"
            )
    return notes


def means_the_same(one: Path, other: Path) -> bool:
    """True where two configs make the same model: all that differs is how the machine of a training found it."""
    if not (one.is_file() and other.is_file()):
        return one.is_file() == other.is_file()
    configs = [read_json(one), read_json(other)]
    for config in configs:
        _drop_paths(config)
    return configs[0] == configs[1]


def names_local_base(directory: Path) -> bool:
    """True where an adapter's config names its base by a path."""
    path = directory / ADAPTER_CONFIG
    return path.is_file() and is_local(read_json(path).get("base_model_name_or_path"))


def is_local(name: object) -> bool:
    """True for a path, as opposed to the name of a model on the hub."""
    if not isinstance(name, str) or not name:
        return False
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name or Path(name).is_dir()


def _drop_paths(config: dict[str, Any]) -> bool:
    found = [key for key in _PATH_KEYS if is_local(config.get(key))]
    found += [key for key in _MACHINE_KEYS if key in config]
    for key in found:
        del config[key]
    return bool(found)


def _set_dtype(config: dict[str, Any], dtype: str, *, nested: bool = False) -> bool:
    present = [key for key in _DTYPE_KEYS if key in config]
    for key in present or ([] if nested else ["dtype"]):
        config[key] = dtype
    for value in config.values():
        if isinstance(value, dict):
            _set_dtype(value, dtype, nested=True)  # pyright: ignore[reportUnknownArgumentType]
    return True


def _write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
