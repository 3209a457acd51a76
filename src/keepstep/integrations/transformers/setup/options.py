"""What `attach` can be told, checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from keepstep.checkpointer import MIRROR_WAIT, BackPressure, Checkpointer, Fresh
from keepstep.errors import SettingsError
from keepstep.integrations.transformers.setup.engine_choice import EngineName
from keepstep.integrations.transformers.setup.overrides import read_names
from keepstep.integrations.transformers.setup.policy import Keep
from keepstep.retention import Mode, Policy
from keepstep.run import Hook, Hooks, OnDiskFull

MIRROR = "KEEPSTEP_MIRROR"
"""The environment's word for a mirror, where a script says nothing."""

OnPreempt = Literal["exit", "return", "ignore"]
"""What `train()` does once it was told to stop: raise Preempted, return, or not listen to signals at all."""


@dataclass(frozen=True, slots=True)
class Options:
    """The keyword arguments of `attach`, which says what each means. Raises SettingsError for a wrong one."""

    keep: Keep | None = None
    metric: str | None = None
    mode: Mode | None = None
    fresh: Fresh = "refuse"
    engine: EngineName = "auto"
    arena: str | None = None
    back_pressure: BackPressure = "wait"
    budget: str | None = None
    min_free: str | None = None
    on_disk_full: OnDiskFull = "finish"
    on_commit: Hook | None = None
    on_remove: Hook | None = None
    on_resume: Hook | None = None
    on_failure: Hook | None = None
    prometheus: str | None = None
    links: bool = False
    save_every: str | None = None
    shared: bool = False
    on_preempt: OnPreempt = "exit"
    preempt_deadline: str | None = None
    max_time: str | None = None
    stop_file: str | os.PathLike[str] | None = None
    save_on_exception: bool = False
    override: Sequence[str] | str = ()
    mirror: str | os.PathLike[str] | None = None
    mirror_keep: str | None = None
    mirror_wait: str = MIRROR_WAIT
    mirror_required: bool = False
    mirror_bandwidth: str | None = None

    def __post_init__(self) -> None:
        _ = self.overrides
        if self.back_pressure not in get_args(BackPressure):
            raise SettingsError(f"back_pressure is {self.back_pressure!r}", hint="It is 'wait', 'skip' or 'latest'.")
        if self.fresh not in ("refuse", "new-run"):
            raise SettingsError(f"fresh is {self.fresh!r}", hint="It is 'refuse' (the default) or 'new-run'.")
        if self.on_preempt not in get_args(OnPreempt):
            raise SettingsError(
                f"on_preempt is {self.on_preempt!r}", hint="It is 'exit' (the default), 'return' or 'ignore'."
            )

    @property
    def overrides(self) -> tuple[str, ...]:
        """The names of the arguments that take their new value at a resume. Raises SettingsError."""
        return read_names(self.override)

    @classmethod
    def of(cls, given: Any) -> Options:
        """The `keepstep` argument of a ManagedTrainer: a dict, or None. Raises SettingsError."""
        known = [field.name for field in fields(cls)]
        if given is None:
            return cls()
        wrong = [str(name) for name in given if name not in known] if isinstance(given, dict) else [repr(given)]
        if wrong:
            raise SettingsError(
                f"keepstep={{...}} takes no {', '.join(wrong)}",
                hint=f"It is a dict of attach's options: {', '.join(known)}.",
            )
        return cls(**given)

    def checkpointer(self, path: str, policy: Policy) -> Checkpointer:
        """The checkpointer of a run directory that does as these options say."""
        return Checkpointer(
            path, policy, fresh=self.fresh, back_pressure=self.back_pressure, budget=self.budget,
            min_free=self.min_free, on_disk_full=self.on_disk_full, prometheus=self.prometheus, links=self.links,
            save_every=self.save_every, shared=self.shared, max_time=self.max_time, stop_file=self.stop_file,
            preempt_deadline=self.preempt_deadline,
            mirror=self.mirror or os.environ.get(MIRROR) or None, mirror_keep=self.mirror_keep,
            mirror_wait=self.mirror_wait, mirror_required=self.mirror_required, mirror_bandwidth=self.mirror_bandwidth,
            hooks=Hooks(self.on_commit, self.on_remove, self.on_resume, self.on_failure),
        )  # fmt: skip
