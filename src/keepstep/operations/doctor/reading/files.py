"""YAML and JSON files that a training reads, as values that know their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keepstep.errors import SettingsError
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading.values import NotLiteral, Record
from keepstep.operations.doctor.settings import Given, Source
from keepstep.operations.yaml_package import yaml_for
from keepstep.paths import expanded

LARGEST = 10**6
"""Bytes above which a file is no config."""
ENDINGS = (".yaml", ".yml", ".json")
_DEEPEST = 12
_MOST = 20_000


def find(name: str, beside: Path) -> Path | None:
    """A config by the name that a program opens it by: from the working directory, else from that of the program."""
    if "\0" in name or not name.endswith(ENDINGS):
        return None
    for path in (expanded(name), beside.parent / name):
        if path.is_file():
            return path
    return None


def load(name: str, beside: Path) -> Record:
    """The values of a config that a program beside it opens. Raises NotLiteral."""
    path = find(name, beside)
    if path is None:
        raise NotLiteral(f"{name}, which is not here")
    try:
        if path.stat().st_size > LARGEST:
            raise NotLiteral(f"{name}, which is too large")
        return parse(path, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SettingsError) as error:
        raise NotLiteral(f"{name}, which can't be read") from error


def parse(path: Path, text: str) -> Record:
    """The mapping in a YAML or JSON text. Raises SettingsError where it holds none, or PyYAML is missing."""
    yaml = yaml_for(path)
    loader: Any = None
    try:
        loader = yaml.SafeLoader(text)
        node: Any = loader.get_single_node()
        found = _Reader(str(path), loader, yaml).value(node, 0) if node is not None else None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or "it is no YAML"
        raise SettingsError(f"{path}{line}: {reason}", hint="Check it with a YAML linter.") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(found, Record):
        raise SettingsError(f"{path} must hold a mapping of settings", hint="Write lines such as  save_steps: 500")
    return found


class _Reader:
    """Makes values of YAML's nodes; an alias is made once, and no more than a config holds."""

    def __init__(self, path: str, loader: Any, yaml: Any) -> None:
        self._path = path
        self._loader = loader
        self._yaml = yaml
        self._made: dict[int, Any] = {}
        self._left = _MOST

    def value(self, node: Any, depth: int) -> Any:
        if id(node) in self._made:
            return self._made[id(node)]
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            return None
        if isinstance(node, self._yaml.MappingNode):
            record = self._made[id(node)] = Record()
            self._loader.flatten_mapping(node)
            for key, item in node.value:
                if isinstance(key, self._yaml.ScalarNode):
                    where = Where(self._path, key.start_mark.line + 1)
                    given = Given(self.value(item, depth + 1), where.line, Source.FILE, where)
                    record.fields[str(key.value)] = given
            return record
        if isinstance(node, self._yaml.SequenceNode):
            items: list[Any] = []
            self._made[id(node)] = items
            items += [self.value(item, depth + 1) for item in node.value]
            return items
        return self._loader.construct_object(node)
