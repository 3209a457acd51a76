"""The environment of a supervised command: the hook on its path, where to tell, and what a Trainer is managed with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from keepstep.supervision.boot.keepstep_marks import PLACE
from keepstep.supervision.marks import BOOT

ATTACH, GO_ON, ATTEMPT = "KEEPSTEP_ATTACH", "KEEPSTEP_GO_ON", "KEEPSTEP_ATTEMPT"


def environment(
    before: Mapping[str, str],
    *,
    marks: Path,
    attach: bool,
    options: Mapping[str, str],
    attempt: int,
    go_on: Sequence[Path] = (),
) -> dict[str, str]:
    """The environment `before` with the hook in it; `options` are those of `attach`, `go_on` runs that were saved to.

    Nothing else is changed: what PYTHONPATH had comes behind.
    """
    path = os.pathsep.join(filter(None, (str(BOOT), before.get("PYTHONPATH"))))
    made = {**before, "PYTHONPATH": path, PLACE: str(marks), ATTEMPT: str(attempt)}
    made |= {f"KEEPSTEP_{name.upper()}": text for name, text in options.items()}
    for name, value in ((ATTACH, "1" if attach else None), (GO_ON, os.pathsep.join(map(str, go_on)))):
        made.pop(name, None)
        if value:
            made[name] = value
    return made


def without_hook(before: Mapping[str, str], *, attempt: int) -> dict[str, str]:
    """The environment `before`, in which nothing of ours runs."""
    return {
        **{name: text for name, text in before.items() if name not in (ATTACH, GO_ON, PLACE)},
        ATTEMPT: str(attempt),
    }
