"""Several transfers at once, in threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def side_by_side(act: Callable[[T], object], items: Iterable[T], jobs: int) -> None:
    """Do `act` with each item, so many at once; after the first failure, which is raised, none is begun any more."""
    with ThreadPoolExecutor(max(1, jobs), "keepstep-mirror") as pool:
        under_way = [pool.submit(act, item) for item in items]
        try:
            for future in under_way:
                future.result()
        except BaseException:
            for future in under_way:
                future.cancel()
            raise
