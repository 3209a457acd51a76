"""What lies in a run directory: whether it could go on from here, and what is odd in it."""

from __future__ import annotations

from collections.abc import Sequence

from keepstep.operations.doctor.facts import Facts, RunState
from keepstep.operations.doctor.found import Found
from keepstep.operations.doctor.rules.writing import RUN, rule
from keepstep.operations.doctor.settings import NotKnown
from keepstep.units import format_size

_HERE = frozenset({RUN})
_TORN = "A save, or a copy of one, was broken off: files are missing, or end early."
_TAKEN = (
    "The stock Trainer takes the highest step for the newest: it fails on this one, or goes on without its optimizer."
)
_COUNTED = "Nothing can be resumed from them, and save_total_limit counts them as if they were whole."
_CLOSED = "Who may not read it can't go on from it: a resume passes it over, and repeats the steps since an older one."
_OPEN = (
    "Have it opened by whose it is, before anything goes on from an older one; keepstep ls RUN names what is closed."
)
_AWAY = (
    "keepstep ls RUN says what each lacks, and keepstep resume RUN names the newest that is whole: give that as "
    "resume_from_checkpoint. Where no training is saving it right now, put back what is missing from a copy, or move "
    "the directory away by hand: keepstep removes nothing that it did not commit."
)
"""In a run that keepstep did not write nothing is known of bytes, and nothing is moved."""


@rule(
    "E701",
    "nothing to resume from",
    why="After a crash this run begins anew.",
    fix="Bring a whole checkpoint back (keepstep restore RUN says what lies aside), or start a new run.",
    sources=_HERE,
)
def no_resume_point(facts: Facts) -> Found | None:
    """The run had checkpoints, and has none that is whole and not known to be damaged; those in quarantine count."""
    run = _run(facts)
    if not run.whole and not run.weights and not run.quarantined:
        return None
    if set(run.whole) - set(run.damaged):
        return None
    kind = "only weights are left" if not run.whole else "every whole checkpoint failed its last check"
    if not run.whole and not run.weights:
        kind = "every checkpoint is in quarantine"
    if run.torn:
        kind = _lacking(run, run.damaged)
        fix = "Put back what is missing from a copy (keepstep ls RUN says what it is), or start the training anew."
        return Found(f"{kind}: no checkpoint can be resumed from", fix=fix)
    return Found(f"{kind}: no checkpoint can be resumed from")


@rule(
    "E702",
    "the newest checkpoint is damaged",
    why="Its bytes are not those that were written. A resume passes it over, and repeats the steps since the one "
    "before.",
    fix="Look at it: keepstep verify RUN. `keepstep verify RUN --quarantine` moves it aside. Then check the disk, and "
    "resume.",
    sources=_HERE,
)
def newest_damaged(facts: Facts) -> Found | None:
    """The last check of the newest checkpoint failed; in quarantine, until the training has saved a newer one. In a
    directory that keepstep did not write: it is torn.
    """
    run = _run(facts)
    if run.newest_damaged and run.whole and run.torn is not None:
        what = _lacking(run, run.whole[-1:])
        if "unreadable: " in what:
            return Found(what, fix=_OPEN, title="the newest checkpoint can't be read", why=_CLOSED)
        return Found(what, fix=_AWAY, title="the newest checkpoint is torn", why=f"{_TORN} {_TAKEN}")
    if run.newest_damaged and run.whole:
        return Found(f"step {run.whole[-1]} failed its last check")
    if run.newest_quarantined and run.whole:
        what = (
            f"step {run.quarantined[-1]} failed its check and is in quarantine: step {run.whole[-1]} is the newest now"
        )
        return Found(
            what, fix="Check the disk, and resume. `keepstep prune RUN --quarantined` frees what was set aside."
        )
    return None


@rule(
    "W703",
    "damaged checkpoints",
    why="Their bytes are not those that were written; they can't be loaded. More may be wrong with this disk.",
    fix="keepstep verify RUN --quarantine moves them aside.",
    sources=_HERE,
)
def others_damaged(facts: Facts) -> Found | None:
    """The last check of a checkpoint other than the newest failed, in quarantine or not. In a directory that keepstep
    did not write: it is torn.
    """
    run = _run(facts)
    newest = {run.whole[-1]} if run.newest_damaged and run.whole else set[int]()
    steps = [step for step in run.damaged if step not in newest]
    if run.torn is not None:
        what = _lacking(run, steps)
        return Found(what, fix=_AWAY, title="torn checkpoints", why=f"{_TORN} {_COUNTED}") if steps else None
    moved = list(run.quarantined[:-1] if run.newest_quarantined and run.whole else run.quarantined)
    parts = [f"failed their last check: steps {_some(steps)}"] if steps else []
    parts += [f"in quarantine: steps {_some(moved)}"] if moved else []
    return Found("; ".join(parts)) if parts else None


@rule(
    "W704",
    "directories that only look like checkpoints of this run",
    why="They were written by another training into the same directory, or copied there. keepstep never counts or "
    "removes them; stock tools take them for this run's.",
    fix="Move them to a directory of their own.",
    sources=_HERE,
)
def strangers(facts: Facts) -> Found | None:
    """`checkpoint-*` directories that this run did not commit lie beside its own."""
    names = _run(facts).strangers
    return Found(f"not of this run: {_some(names)}") if names else None


@rule(
    "W705",
    "manifests that can't be read",
    why="Without a manifest nothing proves what a checkpoint should hold: it is not listed, resumed from or removed.",
    fix="Look at them: keepstep verify RUN.",
    sources=_HERE,
)
def unreadable_manifests(facts: Facts) -> Found | None:
    """A checkpoint's `keepstep.json` is damaged."""
    names = _run(facts).unreadable
    return Found(f"the manifest can't be read: {_some(names)}") if names else None


@rule(
    "W706",
    "checkpoints without a metric",
    why="What has no metric can't be ranked: it is never the best, whatever it is worth.",
    fix="Evaluate the steps that are saved: save_steps a multiple of eval_steps.",
    sources=_HERE,
)
def unranked(facts: Facts) -> Found | None:
    """The run ranks by a metric, and checkpoints have no value of it, or NaN."""
    steps = _run(facts).unranked
    if not steps or facts.chosen is None:
        return None
    return Found(f"no {facts.chosen.name}: steps {_some(steps)}")


@rule(
    "I707",
    "room that no rule frees",
    why="They count against a budget, and stay until room is short or you remove them.",
    fix="keepstep ls RUN --all lists them, keepstep prune RUN --aside --quarantined --previous frees them.",
    sources=_HERE,
)
def set_aside(facts: Facts) -> Found | None:
    """Rewinds, damage or a fresh start set checkpoints aside, and they are still there."""
    size = _run(facts).aside
    return Found(f"{format_size(size)} are set aside, in quarantine or of previous runs") if size else None


@rule(
    "W708",
    "the last save failed",
    why="What was trained since the newest checkpoint would be lost in a crash.",
    fix="See why: keepstep events RUN. Make room, or mend the disk, before going on.",
    sources=_HERE,
)
def last_save_failed(facts: Facts) -> Found | None:
    """A save failed or was refused, and none was committed since."""
    why = _run(facts).failed
    return Found(why) if why else None


@rule(
    "W709",
    "the mirror is behind",
    why="What is not there is lost with this disk.",
    fix="See why: keepstep events RUN. A training that mirrors sends by itself; after it: keepstep mirror sync RUN "
    "URL, which keeps there what the training's mirror_keep said.",
    sources=_HERE,
)
def mirror_behind(facts: Facts) -> Found | None:
    """The mirror has not answered for ten minutes, what was saved an hour ago is not there yet, nothing goes there any
    more, or the training has ended before all was there.
    """
    what = _run(facts).mirror
    return Found(what) if what else None


def _run(facts: Facts) -> RunState:
    if facts.run is None:
        raise NotKnown("the run")
    return facts.run


def _lacking(run: RunState, steps: Sequence[int]) -> str:
    """Of torn checkpoints, what each lacks."""
    torn = run.torn or {}
    return _some([f"step {step} ({torn.get(step) or 'torn'})" for step in steps])


def _some(items: Sequence[object]) -> str:
    shown = ", ".join(map(str, items[:5]))
    return f"{shown} and {len(items) - 5} more" if len(items) > 5 else shown
