"""Interpreters that have started already: a server that forks for each command line that start.py hands it.

`python -m tests.campaign.chaos.warm SOCKET loop` has imported what the loop needs; with `trainer` it has trained once.
What others put first on PYTHONPATH as `sitecustomize` is run in the fork, as Python does when it starts.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


def serve(path: Path) -> list[str]:
    """Until it is ended; in each fork it returns what is to be run there: a module and its arguments."""
    with socket.socket(socket.AF_UNIX) as door:
        bound = path.with_suffix(".bound")
        door.bind(os.fspath(bound))
        door.listen()
        bound.rename(path)  # who sees it may connect
        while True:
            client, _ = door.accept()
            with client:
                head, outputs, _, _ = socket.recv_fds(client, 8, 2)
                told = json.loads(client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
                child = os.fork()
                if child == 0:
                    _become(told, outputs)
                    return told["argv"]
                for output in outputs:
                    os.close(output)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                client.sendall(bytes([code if code >= 0 else 128 - code]))


def _become(told: dict[str, Any], outputs: list[int]) -> None:
    """The process that was asked for: its outputs, environment, directory and path."""
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)
    os.environ.clear()
    os.environ.update(told["env"])
    os.chdir(told["cwd"])
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:0] = [place for place in places if place not in sys.path]
    site = next((site for place in places if (site := Path(place, "sitecustomize.py")).exists()), None)
    if site is not None:
        runpy.run_path(os.fspath(site))


def _leave() -> None:
    """The end of a process without taking apart what it shares with the server; all else has ended by then."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _ready(kind: str) -> None:
    import keepstep.checkpointer

    assert keepstep.checkpointer.Checkpointer
    if kind == "trainer":
        from tests.campaign.chaos.trainer import train

        with tempfile.TemporaryDirectory() as place:
            train("alone", Path(place, "out"))
        del sys.modules["tests.campaign.chaos.trainer"]
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    code = 1
    # What is registered first is called last.
    atexit.register(_leave)
    _ready(sys.argv[2])
    sys.argv = serve(Path(sys.argv[1]))
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
