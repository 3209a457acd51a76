"""PyYAML, which only those have who installed what trains."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from keepstep.errors import SettingsError


def yaml_for(path: Path) -> Any:
    """The module `yaml`, to read the file at `path` with. Raises SettingsError where it is not installed."""
    try:
        return import_module("yaml")
    except ModuleNotFoundError:
        raise SettingsError(f"reading {path} needs PyYAML", hint="Install it: pip install pyyaml") from None
