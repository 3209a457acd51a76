"""Where the bytes of a mirror are: its checkpoints, what is of no commit, and its records."""

from __future__ import annotations

from keepstep.mirror import MirrorRun, home_in
from keepstep.operations.usage import Litter, TreeUsage, Usage, share_of
from keepstep.repository import MANIFEST_NAME
from keepstep.stores import Room

ORPHANS = "orphans"
WHAT = "of no commit: being written, or left by a writer that was killed, and cleared by a sync after a day"


def usage_of_mirror(run: MirrorRun) -> TreeUsage:
    """Every object is listed, none is read; what differs from the manifests is told. Raises MirrorUnavailable."""
    plan = run.plan()
    homes = {run.home_of(d.checkpoint): d.checkpoint.generation for d in plan.decisions}
    found = dict.fromkeys(homes.values(), 0)
    orphans = records = 0
    for item in run.mirror.objects.list(""):
        home = home_in(item.key)
        generation = None if home is None else homes.get(home)
        if home is None or (generation is not None and item.key == f"{home}/{MANIFEST_NAME}"):
            records += item.size
        elif generation is None:
            orphans += item.size
        else:
            found[generation] += item.size
    usage = Usage(
        path=run.path,
        run_id=run.id,
        checked=False,
        shares=tuple(share_of(d, thinnable=False, found_bytes=found[d.checkpoint.generation]) for d in plan.decisions),
        litter=(Litter(ORPHANS, WHAT, orphans, orphans),) if orphans else (),
        unmanaged=(),
        records_bytes=records,
        set_aside_bytes=0,
        quarantined_bytes=0,
        previous_bytes=0,
        prune_aside_bytes=0,
        limits=run.limits,
        directories_bytes=0,
        allocated=None,
        disk=Room(0, None, 0),
        unreadable=(),
        address=run.address,
    )
    return TreeUsage(
        roots=(run.path,),
        checked=False,
        runs=(usage,),
        stock=(),
        elsewhere_bytes=0,
        elsewhere_allocated=0,
        elsewhere_directories_bytes=0,
        unreadable=(),
    )
