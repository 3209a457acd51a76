"""Weights that DeepSpeed's ranks hold in parts, put together by its own code: a checkpoint like any other from there.

Their files are pickles, and what reads a pickle may do anything. They are opened once the digests have held, in a
process of its own, which needs neither a GPU nor a process group.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from msgspec.structs import replace as with_fields

from keepstep.errors import SettingsError
from keepstep.integrations.transformers.exporting.blueprint import tied_names
from keepstep.integrations.transformers.exporting.tensors import weights_below
from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.export.plan import ExportPlan
from keepstep.operations.export.watching import Watcher

WORKER = "keepstep.integrations.transformers.exporting.zero_worker"
GATHERED = (
    "DeepSpeed's own code put the weights together, from pickles whose digests had held, in a process of its own: its "
    "fp32 copy of them, in the dtype that the model computes in, as save_pretrained writes it"
)


def gathered(plan: ExportPlan, scratch: Path, seen: Watcher) -> ExportPlan:
    """The same plan with the weights of each member in safetensors files below `scratch`; as it is for any other.

    Raises ExportRefused, SettingsError without DeepSpeed.
    """
    if not plan.files.zero:
        return plan
    if find_spec("deepspeed") is None:
        raise SettingsError(
            "the weights lie in the files of DeepSpeed's ranks, which DeepSpeed itself puts together, and it is not "
            "installed",
            hint='Install it where this runs: DS_BUILD_OPS=0 pip install "keepstep[deepspeed]". It needs no GPU.',
        )
    seen.describe("putting together what DeepSpeed's ranks wrote, in a process of its own")
    members = [_gathered(plan, member, scratch) for member in plan.members]
    weights = _entries(weights_below(Path(str(members[0].path))))
    files = replace(plan.files, weights=weights, zero="")
    return replace(plan, members=tuple(members), files=files)


def _gathered(plan: ExportPlan, member: Checkpoint, scratch: Path) -> Checkpoint:
    assert member.path is not None
    home = scratch / f"gathered-{member.step}"
    home.mkdir()
    for entry in (*plan.files.others, *plan.files.lent):
        source = member.path / entry.path
        (home / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source if source.is_file() else plan.file(entry.path), home / entry.path)
    given = {"checkpoint": str(member.path), "room": plan.files.zero, "into": str(home), "tied": tied_names(home)}
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", WORKER],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ExportRefused(
            f"DeepSpeed can't put the weights of step {member.step} together: {said[-1] if said else done.returncode}"
        )
    return with_fields(member, path=home)


def _entries(paths: list[Path]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(path.name, path.stat().st_size, "") for path in paths)
