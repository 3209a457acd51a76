"""Several transfers at once, in threads of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def side_by_side(act: Callable[[T], object], items: Iterable[T], jobs: int) -> None:
    """Do `act` with each item, so many at once; after the first failure, which is raised, none is begun any more.

    The threads hold no process up that ends: a pool's would, until the last transfer is over.
    """
    left, failed, guard = deque(items), list[BaseException](), threading.Lock()

    def work() -> None:
        while True:
            with guard:
                if failed or not left:
                    return
                item = left.popleft()
            try:
                act(item)
            except BaseException as error:
                with guard:
                    failed.append(error)

    threads = [threading.Thread(target=work, name="keepstep-mirror", daemon=True) for _ in range(min(jobs, len(left)))]
    for thread in threads:
        thread.start()
    try:
        _join(threads)
    except BaseException as error:  # Ctrl-C: what is under way ends first, since it writes to what the caller closes
        with guard:
            failed.append(error)
        _join(threads)
        raise
    if failed:
        raise failed[0]


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
