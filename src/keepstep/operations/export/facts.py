"""The facts of an export, for its marker and its card; no path of the machine, and no name of a user, is among them."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from keepstep.model import Checkpoint
from keepstep.operations.export.configs import is_local
from keepstep.operations.export.files import ADAPTER_CONFIG
from keepstep.operations.export.plan import ExportPlan, read_json
from keepstep.operations.export.report import Export, average_json, check_json
from keepstep.retention import format_spec
from keepstep.strict import finite_or_name
from keepstep.units import SIZES

PACKAGES = ("keepstep", "python", "torch", "transformers", "accelerate", "peft", "trl", "datasets")
"""Versions that are told, of those that a checkpoint knows."""
NUMBERS = ("parameters", "trainable_parameters", "world_size")


def facts_of(plan: ExportPlan, exported: Export) -> dict[str, Any]:
    """Plain values for `keepstep_export.json`."""
    from keepstep.version import __version__

    metric = plan.run.policy.metric
    return {
        "made_by": f"keepstep {__version__}",
        "command": command_of(plan),
        "kind": exported.kind,
        "base_model": base_model(plan),
        "dtype": exported.dtype,
        "parameters": exported.parameters,
        "run": {
            "id": plan.run.id,
            "keep": format_spec(plan.run.policy.rules),
            "metric": None if metric is None else metric.name,
            "mode": None if metric is None else metric.mode,
        },
        "checkpoints": [_checkpoint(member, plan) for member in exported.members],
        "average": None if exported.average is None else average_json(exported.average),
        "check": None if exported.check is None else check_json(exported.check),
    }


def command_of(plan: ExportPlan) -> str:
    """The command line of an export, with placeholders for everything that is a path."""
    asked = plan.request
    reference = [] if asked.reference is None else [_reference(asked.reference)]
    words = ["keepstep export RUN", *reference, "DIR"]
    words += [f"--dtype {asked.dtype}"] if asked.dtype else []
    words += [f"--max-shard-size {_size(asked.max_shard_size)}"] if asked.max_shard_size else []
    words += ["--merge"] if asked.merge else []
    words += [f"--base {'BASE' if is_local(asked.base) else asked.base}"] if asked.base else []
    words += [f"--base-name {asked.base_name}"] if asked.base_name else []
    words += ["--config-from DIR"] if asked.config_from else []
    words += [f"--average {_average(plan)}"] if asked.average else []
    words += ["--soup greedy"] if asked.soup == "greedy" else []
    words += ["--eval-data FILE"] if asked.eval_data else []
    words += [] if asked.check else ["--no-check"]
    return " ".join(words)


def base_model(plan: ExportPlan) -> str | None:
    """The hub's name of the base model, None where it is not known, or is known by a path alone."""
    asked = plan.request
    name: Any = asked.base_name or asked.base
    if name is None and plan.files.adapter:
        name = read_json(plan.file(ADAPTER_CONFIG)).get("base_model_name_or_path")
    elif name is None:
        name = read_json(plan.file("config.json")).get("_name_or_path")
    return name if isinstance(name, str) and name and not is_local(name) else None


def metrics_of(member: Checkpoint) -> dict[str, float | str]:
    """Metrics of a checkpoint; those that are no finite numbers by their names."""
    return {str(name): finite_or_name(value) for name, value in member.metrics.items()}


def versions_of(member: Checkpoint) -> dict[str, str]:
    """Versions of the packages that a checkpoint was trained with."""
    return {name: str(member.written_by[name]) for name in PACKAGES if member.written_by.get(name)}


def _checkpoint(member: Checkpoint, plan: ExportPlan) -> dict[str, Any]:
    return {
        "step": member.step,
        "epoch": member.epoch,
        "generation": member.generation,
        "timeline": member.timeline,
        "created": member.created.astimezone(UTC).isoformat(),
        "metrics": metrics_of(member),
        "versions": versions_of(member),
        **{name: member.written_by[name] for name in NUMBERS if isinstance(member.written_by.get(name), int)},
        "files": [{"path": f.path, "size_bytes": f.size, "digest": f.digest} for f in member.weights if not f.by],
    }


def _size(size: int) -> str:
    """A size as an option takes it, exactly."""
    for unit in ("TiB", "GiB", "MiB", "TB", "GB"):
        if size % SIZES[unit] == 0:
            return f"{size // SIZES[unit]}{unit}"
    return f"{size / SIZES['MB']:.6f}".rstrip("0").rstrip(".") + "MB"


def _reference(reference: Any) -> str:
    text = str(reference)
    return "REF" if "/" in text or "\\" in text or text.startswith(("~", ".")) else text


def _average(plan: ExportPlan) -> str:
    text = str(plan.request.average)
    return text if text.startswith("best:") else ",".join(str(member.step) for member in plan.members)
