"""Whether a run has ended: its last training came to its end, or its loop said so."""

from __future__ import annotations

from keepstep.run.history import History
from keepstep.run.run import Run

_OF_A_SESSION = frozenset({"committed", "resumed", "finished"})


def has_ended(run: Run) -> bool:
    """True when the last attempt that the history knows has finished.

    A loop of somebody's own logs no attempts: its run has ended when the last session said so as it closed. What can't
    be read says nothing, and the run counts as unfinished.
    """
    history = History(run.store)
    try:
        history.read()
        if attempts := history.attempts:
            return attempts[-1].ended == "finished"
        last = [event["event"] for event in run.events.read() if event["event"] in _OF_A_SESSION][-1:]
    except OSError:
        return False
    return last == ["finished"]
