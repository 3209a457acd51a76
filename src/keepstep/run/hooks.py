"""Functions of the user's own that hear what happens to a run's checkpoints, as it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from keepstep.errors import SettingsError
from keepstep.log import logger
from keepstep.run.events import Event

Hook = Callable[[Event], object]
"""Takes one event as it is in the event log (docs/events.md says what each holds); what it returns is ignored."""

_HEARD_BY = {
    "kept": "on_commit",
    "removed": "on_remove",
    "thinned": "on_remove",
    "quarantined": "on_remove",
    "resumed": "on_resume",
    "course": "on_resume",
    "failed": "on_failure",
    "refused": "on_failure",
}


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told of a durable checkpoint, of one that goes or shrinks, of a resume, of a save that failed.

    Of a resume `on_resume` hears again when its course has been seen: the same fields, as they are by then.

    They are called in the thread in which it happened: for a commit and what follows from it that is the writer's, not
    the training's. What a hook raises is logged, and harms neither the checkpoint nor the training.
    """

    on_commit: Hook | None = None
    on_remove: Hook | None = None
    on_resume: Hook | None = None
    on_failure: Hook | None = None

    def __post_init__(self) -> None:
        """Raises SettingsError for what can't be called."""
        for name, hook in self._given():
            if not callable(hook):
                raise SettingsError(f"{name} is {hook!r}", hint="It is a function that takes one event, a dict.")

    def hear(self, event: Event) -> None:
        """Tell the hook that this event is for, if there is one."""
        name = _HEARD_BY.get(event["event"])
        hook: Hook | None = getattr(self, name) if name else None
        if hook is None:
            return
        try:
            hook(event)
        except Exception:
            logger.exception("%s raised at %r of step %s; that harms nothing", name, event["event"], event.get("step"))

    def _given(self) -> Iterator[tuple[str, Hook]]:
        for field in fields(self):
            if (hook := getattr(self, field.name)) is not None:
                yield field.name, hook
