"""A job for SLURM, as text: told in time, saved, requeued, with a run directory for each task of an array."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from keepstep.errors import SettingsError

RUN = "{run}"
"""What stands in a command for the run's directory."""
_NAME = re.compile(r"[\w.+-]+")
_TIME = re.compile(r"\d+-\d+(:\d+(:\d+)?)?|\d+(:\d+(:\d+)?)?")
_ARRAY = re.compile(r"[\d,:%-]+")
_WORD = re.compile(r"[^\s\x00-\x1f]+")


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """What a job asks for; `notice` in seconds before the end is when it is told to save. One node."""

    command: tuple[str, ...]
    name: str = "train"
    time: str = "24:00:00"
    gpus: int = 1
    cpus: int = 8
    partition: str | None = None
    array: str | None = None
    notice: int = 300
    root: str = "runs"
    options: Sequence[str] = ("--attach",)

    def script(self) -> str:
        """The batch script. Raises SettingsError for what `sbatch` would not take."""
        self._check()
        directives = [
            f"--job-name={self.name}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={self.cpus}",
            *([f"--gpus={self.gpus}"] if self.gpus else []),
            f"--time={self.time}",
            *([f"--partition={self.partition}"] if self.partition else []),
            *([f"--array={self.array}"] if self.array else []),
            "--requeue",
            "--open-mode=append",
            f"--signal=B:USR1@{self.notice}",
            f"--output=%x-{'%A_%a' if self.array else '%j'}.out",
        ]
        heads = "\n".join(f"#SBATCH {one}" for one in directives)
        words = [*self.options, "--grace", f"{self.notice}s", "--", *self.command]
        command = " ".join(_quoted(word) for word in words)
        return _SCRIPT.format(heads=heads, root=shlex.quote(self.root.rstrip("/") or "/"), command=command)

    def _check(self) -> None:
        checked = (
            ("--name", self.name, _NAME), ("--time", self.time, _TIME), ("--partition", self.partition, _NAME),
            ("--array", self.array, _ARRAY), ("--root", self.root, _WORD),
        )  # fmt: skip
        for option, value, form in checked:
            if value is not None and not form.fullmatch(value):
                raise SettingsError(f"{option} {value!r} is nothing that sbatch takes")
        if not any(RUN in word for word in self.command):
            raise SettingsError(
                "the command has no {run}, which stands for the directory of the run",
                hint="For example: keepstep slurm -- python train.py --output_dir {run}",
            )


def _quoted(word: str) -> str:
    """A word for the shell, with the run's directory, a variable of the script, in its place."""
    return '"$run"'.join(shlex.quote(part) if part else "" for part in word.split(RUN)) or "''"


_SCRIPT = """\
#!/usr/bin/env bash
{heads}
# Made by `keepstep slurm`. Told to stop, the training saves and exits with 75, and the job goes back into the queue.
set -uo pipefail

# A requeued job has the same number, and so goes on; each task of an array has a run of its own.
if [ -n "${{SLURM_ARRAY_JOB_ID:-}}" ]; then
  run={root}/$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID
else
  run={root}/$SLURM_JOB_ID
fi
mkdir -p "$run"

srun keepstep run {command} &
step=$!
trap 'told=1; kill -TERM "$step" 2>/dev/null' USR1 TERM
# A signal ends `wait` too: then it is waited for again.
while
  told=
  wait "$step"
  code=$?
  [ -n "$told" ]
do :; done

if [ "$code" -eq 75 ]; then
  echo "saved and stopped: $SLURM_JOB_ID goes back into the queue (restart ${{SLURM_RESTART_COUNT:-0}})" >&2
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
"""
