"""A warm fork server: each call runs in a process of its own that has torch, transformers, trl and peft imported."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from threading import Lock
from typing import Any

PRELOADED = ["tests.training.course", "tests.training.warm"]
"""What the server imports; a suite may add to it before its first call."""
_CONTEXT = multiprocessing.get_context("forkserver")
SIGKILLED = -9
_READING = Lock()
"""Starting a process reads the exit codes of others, and a code can be read once only."""
_TIMEOUT = 120
"""Seconds after which a child that hangs is killed and reported."""


@cache
def start() -> None:
    """Start the server, once; it ends with the process that started it."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")}
    # The server takes its import path from the environment alone; one thread, because only that survives a fork.
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    try:
        _CONTEXT.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def begin(
    function: Callable[..., None], *arguments: Any, log: Path, afresh: bool = False
) -> multiprocessing.process.BaseProcess:
    """Start a function in a new process, its output in `log`; `end` waits for it.

    `afresh` starts an interpreter that shares nothing with the server, its hash seed neither; that takes seconds.
    """
    start()
    context = multiprocessing.get_context("spawn") if afresh else _CONTEXT
    process = context.Process(target=_quietly, args=(log, function, arguments))
    with _READING:
        process.start()
    return process


def end(process: multiprocessing.process.BaseProcess, log: Path) -> int:
    """The exit code of a process, minus the signal when killed. Raises TimeoutError where it hangs, and kills it."""
    ended = wait([process.sentinel], _TIMEOUT)
    with _READING:
        if not ended:
            process.kill()
        process.join()
    if not ended:
        raise TimeoutError(f"a training took longer than {_TIMEOUT} s; see {log}")
    assert process.exitcode is not None
    return process.exitcode


def call(function: Callable[..., None], *arguments: Any, log: Path, afresh: bool = False) -> int:
    """Run a function as `begin` does, to its end; returns the exit code."""
    return end(begin(function, *arguments, log=log, afresh=afresh), log)


def _quietly(log: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)
