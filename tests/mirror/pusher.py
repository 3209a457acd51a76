"""Processes that send a run to its mirror, until they are killed: python -m tests.mirror.pusher RUN MIRROR KEEP [many].

With `many`, one for each line that comes in, forked before anything of an object store was used: it says "ready" and
its number, and after its end "ended" and how. The number is no other process's before the next line.
"""

from __future__ import annotations

import os
import sys
import traceback

from keepstep.mirror import open_mirror
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.retention import Policy
from keepstep.run import Run
from tests.operations.runs import LOSS


def _push() -> None:
    run, mirror, policy = Run.open(sys.argv[1]), open_mirror(sys.argv[2]), Policy.from_spec(sys.argv[3], LOSS)
    plan = plan_mirror(run, mirror, mirror.records(), policy)
    print(f"ready {os.getpid()}", flush=True)
    sync(run, mirror, policy, plan)


def _push_and_end() -> None:
    code = 1
    try:
        _push()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    if sys.argv[4:] != ["many"]:
        return _push()
    import obstore.store  # noqa: F401  (known before each fork, and used after it alone)

    last = None
    for _ in sys.stdin:
        if last is not None:
            os.waitpid(last, 0)
        child = os.fork()
        if child == 0:
            _push_and_end()
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        print(f"ended {code}", flush=True)
        last = child
    return None


if __name__ == "__main__":
    main()
