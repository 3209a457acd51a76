"""Disks that refuse one change or all later ones, for every reason, and disks that are full of bytes or of names."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keepstep.errors import KeepstepError, StorageError
from keepstep.testing.faults import Fault, Injector, Moment
from tests.campaign.actions import ACTIONS, Action, check, plain_write, resumes_from
from tests.small_run import litter, make_checkpointer, make_run, save

pytestmark = pytest.mark.campaign
NUMBERS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)
MAY_BE_LOST = {"append", "delete"}
"""Notes in the event log and the clearing of litter: their failure is no failure of the action."""


def act(action: Action, path: Path, injector: Injector) -> Exception | None:
    """Run the action on a failing disk, its writer included; returns the error that the caller got."""

    def write(directory: Path) -> None:
        injector.run("put", directory.name, lambda: plain_write(directory))

    try:
        with injector.injected():
            action.act(path, write)
    except (OSError, KeepstepError) as error:
        return error
    return None


def told(injector: Injector, error: Exception | None) -> bool:
    """True when the caller learned of what went wrong, or nothing that matters did."""
    fault = injector.fault
    assert fault is not None
    struck = [change for number, change in enumerate(injector.changes, 1) if fault.strikes(number)]
    vital = [(operation, path) for operation, path in struck if operation not in MAY_BE_LOST and "owner" not in path]
    return error is not None or not vital or not fault.sticky


@pytest.mark.parametrize("moment", ["before", "half", "after"])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_an_error_at_every_change_is_told_and_loses_nothing(place: Path, action: Action, moment: Moment) -> None:
    original, path = place / "original", place / "victim"
    action.prepare(original)
    cases, at, reached = 0, 0, True
    while reached:
        at += 1
        for number in (NUMBERS[at % 5], NUMBERS[(at + 2) % 5]) if moment == "before" else (NUMBERS[at % 2],):
            for sticky in (False, True):
                shutil.rmtree(path, ignore_errors=True)
                if original.exists():
                    shutil.copytree(original, path)
                injector = Injector(Fault(at, number, sticky=sticky, moment=moment))
                error = act(action, path, injector)
                reached = len(injector.changes) >= at
                cases += 1
                try:
                    assert told(injector, error), "the caller was told nothing"
                    check(path, action, completed=error is None)
                except Exception as failure:
                    where = injector.changes[at - 1] if reached else "nowhere"
                    raise AssertionError(f"{errno.errorcode[number]} {moment} {where}, sticky={sticky}") from failure
    print(f"{action.name}, error {moment} the change: {cases} cases, failed resumes: 0")
    assert cases >= 10


# -- full disks --------------------------------------------------------------------------------------------


@contextmanager
def mounted(where: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; skips the test where none may be mounted."""
    where.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def _save_on_a_full_disk(path: Path) -> bool:
    """Try to save step 6 where little is left; True when it fitted. Resuming must work either way."""
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin("auto")
    assert point is not None
    assert point.checkpoint.step == 4
    refusal: StorageError | None = None
    try:
        save(checkpointer, 6)
    except StorageError as error:
        refusal = error
    finally:
        checkpointer.close()
    fitted = refusal is None
    assert fitted or (refusal is not None and refusal.errno == errno.ENOSPC)
    assert resumes_from(path) == (6 if fitted else 4)
    assert litter(path) == []
    return fitted


def _free_again(path: Path) -> None:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    save(checkpointer, 8)
    checkpointer.close()
    assert resumes_from(path) == 8


def test_a_disk_full_of_bytes(tmp_path: Path) -> None:
    outcomes: list[bool] = []
    with mounted(tmp_path / "small", "size=2m") as small:
        for pages in range(24):
            make_run(small / "run", 2, 4)
            _fill(small / "ballast", leave=pages * 4096)
            outcomes.append(_save_on_a_full_disk(small / "run"))
            (small / "ballast").unlink()
            _free_again(small / "run")
            shutil.rmtree(small / "run")
    print(f"disk full by bytes: {len(outcomes)} sizes, {outcomes.count(False)} too small, failed resumes: 0")
    assert not outcomes[0]
    assert outcomes[-1]


def _fill(ballast: Path, *, leave: int) -> None:
    state = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - leave))


def test_a_disk_full_of_names(tmp_path: Path) -> None:
    outcomes: list[bool] = []
    with mounted(tmp_path / "small", "size=8m,nr_inodes=200") as small:
        for names in range(16):
            make_run(small / "run", 2, 4)
            (small / "ballast").mkdir()
            for number in range(os.statvfs(small).f_favail - names):
                (small / "ballast" / str(number)).touch()
            outcomes.append(_save_on_a_full_disk(small / "run"))
            shutil.rmtree(small / "ballast")
            _free_again(small / "run")
            shutil.rmtree(small / "run")
    print(f"disk full by inodes: {len(outcomes)} counts, {outcomes.count(False)} too small, failed resumes: 0")
    assert not outcomes[0]
    assert outcomes[-1]
