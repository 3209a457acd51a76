"""What calls of well-known functions return: dicts, paths, conversions, and keepstep's own rules."""

from __future__ import annotations

import ast
import os
from typing import Any, Protocol

from keepstep.operations.doctor.reading.values import ENVIRONMENT, NotLiteral, Record, follows, plain, shown
from keepstep.operations.doctor.settings import Argument, Given


class Evaluator(Protocol):
    """What is asked of whoever evaluates the arguments; each raises NotLiteral, but `argument`."""

    def given(self, node: ast.expr) -> Given: ...

    def record(self, node: ast.expr) -> Record: ...

    def argument(self, node: ast.expr) -> Argument: ...


RULES = {"All": "all", "Best": "best", "Latest": "latest", "Every": "every"}
"""keepstep's rules that a number makes, and their words in a spec."""
_SAME = frozenset({
    "vars", "asdict", "to_container", "create", "deepcopy", "copy", "DictConfig", "to_object", "EasyDict", "edict",
    "SimpleNamespace", "Munch", "munchify", "unstructure", "to_dict", "dict",
})  # fmt: skip
"""Functions that give back what they are given, in another kind of dict."""
_TEXTS = frozenset({"strip", "lower", "upper", "rstrip", "lstrip", "expanduser", "expandvars", "resolve", "absolute"})
_PATHS = frozenset({"expanduser", "expandvars", "abspath", "realpath", "normpath", "fspath"})


def call_of(node: ast.Call, name: str, evaluator: Evaluator) -> Given:
    """What the call returns. Raises NotLiteral."""
    if name in RULES and len(node.args) <= 1:
        return Given(_rule(name, node, evaluator), node.lineno)
    if name in _SAME:
        return _copied(node, name, evaluator)
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if name in ("get", "pop") and owner is not None and node.args:
        return _got(node, owner, evaluator)
    if name in ("getenv", "get") and owner is not None:
        raise NotLiteral(ENVIRONMENT)
    if name == "getattr" and len(node.args) in (2, 3):
        record, key = evaluator.record(node.args[0]), str(evaluator.given(node.args[1]).value)
        return record[key] if record.has(key) or len(node.args) == 2 else evaluator.given(node.args[2])
    if name in _TEXTS and owner is not None and not node.args and not node.keywords and not _is_os(owner):
        given = evaluator.given(owner)
        if not isinstance(given.value, str):
            raise NotLiteral
        change = {
            "strip": str.strip,
            "lower": str.lower,
            "upper": str.upper,
            "rstrip": str.rstrip,
            "lstrip": str.lstrip,
        }
        return follows(change[name](given.value) if name in change else given.value, [given])
    if node.keywords:
        raise NotLiteral(shown(node))
    if name == "joinpath" and owner is not None:
        return _joined([evaluator.given(owner), *map(evaluator.given, node.args)])
    return _converted(node, name, owner, [evaluator.given(argument) for argument in node.args])


def _converted(node: ast.Call, name: str, owner: ast.expr | None, given: list[Given]) -> Given:
    values = [one.value for one in given]
    if name in ("str", "Path", "PurePath", *_PATHS) and len(values) == 1:
        return follows(str(values[0]), given)
    if given and (name == "Path" or (name == "join" and _is_os(owner))):
        return _joined(given)
    if (
        name in ("int", "float", "bool", "round", "abs")
        and len(values) == 1
        and isinstance(values[0], (int, float, str))
    ):
        if name != "bool" and isinstance(values[0], str):
            return follows(float(values[0]) if name == "float" else int(values[0]), given)
        number: Any = values[0]
        return follows({"int": int, "float": float, "bool": bool, "round": round, "abs": abs}[name](number), given)
    if name in ("max", "min") and values and all(isinstance(value, (int, float)) for value in values):
        return follows({"max": max, "min": min}[name](values), given)
    if name in ("list", "tuple", "sorted", "set") and len(values) == 1 and isinstance(values[0], list):
        return follows(values[0], given)  # pyright: ignore[reportUnknownArgumentType]
    if name == "len" and len(values) == 1 and isinstance(values[0], (list, str)):
        return follows(len(values[0]), given)  # pyright: ignore[reportUnknownArgumentType]
    raise NotLiteral(shown(node))


def _copied(node: ast.Call, name: str, evaluator: Evaluator) -> Given:
    """`dict(a, b=1)`, `vars(args)`, `OmegaConf.to_container(cfg)`, `cfg.to_dict()`."""
    sources = list(node.args[:1])
    if not sources and name in ("to_dict", "copy") and isinstance(node.func, ast.Attribute):
        sources = [node.func.value]
    record, outer = Record(), Given(None)
    if sources:
        outer = evaluator.given(sources[0])
        if not isinstance(outer.value, Record):
            raise NotLiteral(shown(node))
        record = outer.value.copy()
    if name in ("dict", "SimpleNamespace", "EasyDict", "create", "Munch"):
        for keyword in node.keywords:
            if keyword.arg is not None:
                record.fields[keyword.arg] = evaluator.argument(keyword.value)
                continue
            inner = evaluator.record(keyword.value)
            record.fields |= inner.fields
            record.rest = record.rest or inner.rest
    return Given(record, node.lineno, outer.source, outer.where, outer.unless)


def _got(node: ast.Call, owner: ast.expr, evaluator: Evaluator) -> Given:
    """`cfg.get("save_steps", 500)`: what is there, else what is said here."""
    if _is_os(owner):
        raise NotLiteral(ENVIRONMENT)
    record, key = evaluator.record(owner), str(evaluator.given(node.args[0]).value)
    if record.has(key):
        return record[key]
    return evaluator.given(node.args[1]) if len(node.args) == 2 else Given(None, node.lineno)


def _joined(given: list[Given]) -> Given:
    values = [one.value for one in given]
    if not all(isinstance(value, str) for value in values):
        raise NotLiteral
    return follows(os.path.join("", *map(str, values)), given)


def _rule(name: str, node: ast.Call, evaluator: Evaluator) -> str:
    numbers = [evaluator.given(argument).value for argument in node.args]
    flags = [k.arg for k in node.keywords if k.arg and isinstance(k.value, ast.Constant) and k.value.value is True]
    numbers += [evaluator.given(k.value).value for k in node.keywords if k.arg not in flags]
    return ":".join([RULES[name], *map(str, map(plain, numbers)), *flags])


def _is_os(node: ast.expr | None) -> bool:
    """True for `os.path`, `os.environ` and `os` itself."""
    return node is not None and ast.unparse(node) in ("os.path", "path", "os.environ", "environ", "os", "osp")
