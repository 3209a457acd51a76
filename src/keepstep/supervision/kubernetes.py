"""A Job for Kubernetes, as text: preempted pods are no failures, and what no restart makes better fails at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from keepstep.errors import BestNotLoaded, LayoutTooNew, ResumeRefused, RunInUse, SettingsError
from keepstep.supervision.ends import PREEMPTED

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FINAL = tuple(
    sorted({kind.exit_code for kind in (SettingsError, RunInUse, ResumeRefused, LayoutTooNew, BestNotLoaded)})
)
"""Exit codes that come again whatever node the pod is on."""
MOUNT, SHARED = "/runs", "/dev/shm"  # noqa: S108 - the workers of a DataLoader hand over batches there


@dataclass(frozen=True, slots=True)
class KubernetesJob:
    """What a Job asks for; `grace` in seconds between being told and being killed. `claim` has the runs, at /runs."""

    command: tuple[str, ...]
    image: str
    claim: str
    name: str = "train"
    gpus: int = 1
    retries: int = 6
    grace: int = 300
    options: Sequence[str] = ("--attach",)

    def manifest(self) -> str:
        """The manifest as YAML. Raises SettingsError for names that Kubernetes would not take."""
        for option, name in (("--name", self.name), ("--claim", self.claim)):
            if not _NAME.fullmatch(name):
                raise SettingsError(f"{option} {name!r} is no name: lower-case letters, digits and hyphens, 63 at most")
        head = "# Made by `keepstep k8s`. Told to stop, the training saves, and its pod is made anew elsewhere.\n"
        return head + "\n".join(_lines(self._plain())) + "\n"

    def _plain(self) -> dict[str, Any]:
        # Less than the pod has, so that what is killed is killed by us, and told apart.
        words = ["keepstep", "run", *self.options, "--grace", f"{max(self.grace - 10, 1)}s", "--", *self.command]
        container = {
            "name": "train",
            "image": self.image,
            "command": words,
            "resources": {"limits": {"nvidia.com/gpu": self.gpus}} if self.gpus else {},
            "volumeMounts": [{"name": "runs", "mountPath": MOUNT}, {"name": "shm", "mountPath": SHARED}],
        }
        pod = {
            "restartPolicy": "Never",  # podFailurePolicy asks for it
            "terminationGracePeriodSeconds": self.grace,
            "containers": [container],
            "volumes": [
                {"name": "runs", "persistentVolumeClaim": {"claimName": self.claim}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ],
        }
        rules = [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [PREEMPTED]}},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(_FINAL)}},
        ]
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name},
            "spec": {
                "backoffLimit": self.retries,
                "podFailurePolicy": {"rules": rules},
                "template": {"spec": pod},
            },
        }


def _lines(plain: Any, indent: str = "") -> Iterator[str]:
    """Plain values as YAML in blocks; texts as in JSON, which YAML reads too."""
    if isinstance(plain, dict):
        for name, value in cast("dict[str, Any]", plain).items():
            if isinstance(value, (dict, list)) and value:
                yield f"{indent}{_text(name)}:"
                yield from _lines(value, indent + "  ")
            else:
                yield f"{indent}{_text(name)}: {json.dumps(value)}"
    else:
        for value in cast("list[Any]", plain):
            if isinstance(value, dict) and value:
                first, *rest = _lines(value, "")
                yield f"{indent}- {first}"
                yield from (f"{indent}  {line}" for line in rest)
            else:
                yield f"{indent}- {json.dumps(value)}"


def _text(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)
