"""Where a training will run: the directory's disk and rights, old checkpoints and logs in it, the job scheduler."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from keepstep.formats.arguments_file import ARGUMENTS_NAME, HIDDEN, UnreadableArguments, read_training_arguments
from keepstep.model import parse_name
from keepstep.operations.doctor.facts import DEFAULT_GRACE, Place
from keepstep.paths import expanded
from keepstep.stores import file_system_of


def look_at(directory: str | os.PathLike[str]) -> Place:
    """The place of a directory that is there, or will be made."""
    path = expanded(directory).absolute()
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    shown, exists = os.fspath(directory), path.is_dir()
    try:
        disk = os.statvfs(there)
        mode = there.stat().st_mode if exists else 0
    except OSError:
        return Place(shown, exists=exists)
    reached = exists and all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)
    return Place(
        shown,
        file_system_of(there),
        disk.f_bavail * disk.f_frsize,
        readable=reached and bool(mode & stat.S_IROTH),
        writable=reached and bool(mode & stat.S_IWOTH and mode & stat.S_IXOTH),
        exists=exists,
        secret=_secret_in(path) if reached and mode & stat.S_IROTH else "",
    )


def _secret_in(directory: Path) -> str:
    """Where the arguments of a training hold a token in clear text: in its newest checkpoint, or beside it."""
    newest = [f"checkpoint-{step}" for step in checkpoints_in(directory)[-1:]]
    for name in (*newest, "."):
        path = directory / name / ARGUMENTS_NAME
        try:
            found = read_training_arguments(path)
        except (OSError, UnreadableArguments):
            continue
        hidden = next((key for key, value in found.items() if value == HIDDEN), "")
        if hidden:
            return f"{hidden} in {path.relative_to(directory)}"
    return ""


def checkpoints_in(directory: str | os.PathLike[str]) -> tuple[int, ...]:
    """Steps of the `checkpoint-<step>` directories there, whoever wrote them."""
    try:
        names = os.listdir(expanded(directory))
    except OSError:
        return ()
    return tuple(sorted(found[1] for name in names if name.startswith("checkpoint-") and (found := parse_name(name))))


def loggers_before(directory: str | os.PathLike[str]) -> tuple[str, ...]:
    """`report_to` names of the loggers whose files an earlier start left: in the run, or in the working directory."""
    run = expanded(directory)
    patterns = {
        "tensorboard": ("runs/*/events.out.tfevents.*", "runs/events.out.tfevents.*", "logs/events.out.tfevents.*"),
        "wandb": ("wandb/run-*",),
        "mlflow": ("mlruns/*",),
    }
    found: list[str] = []
    for name, globs in patterns.items():
        if run.is_dir() and any(next(run.glob(pattern), None) for pattern in globs):
            found.append(name)
    return tuple(found)


def scheduler(environment: Mapping[str, str]) -> tuple[str, float | None]:
    """The job scheduler that this process runs under, and the seconds that it leaves by default; "" and None else."""
    if environment.get("SLURM_JOB_ID"):
        return "SLURM", DEFAULT_GRACE
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return "Kubernetes", DEFAULT_GRACE
    return "", None
