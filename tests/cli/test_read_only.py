"""Commands that write, on a file system that is mounted read-only, and on a full one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer
from keepstep.cli.registry import COMMANDS
from keepstep.retention import Policy
from tests.operations.runs import LOSS, flip, make_run
from tests.operations.test_export import MODEL, _save
from tests.stock.written import run_of

UNSHARE = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]


def _mounted(options: str, place: Path, line: str) -> subprocess.CompletedProcess[str]:
    """A shell line in a mount namespace of its own, in which `place` is mounted with these options."""
    script = f"mount {options} {shlex.quote(str(place))}; {line}"
    return subprocess.run([*UNSHARE, "sh", "-ec", script], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("disk")
    if _mounted("-t tmpfs none", place, "true").returncode:
        pytest.skip("this user may mount nothing here")
    make_run(place / "run", {1: 0.3, 2: 0.2, 3: 0.1})
    make_run(place / "back", {1: 0.3, 2: 0.2})
    checkpointer = Checkpointer(place / "back", Policy.from_spec("all", LOSS))
    checkpointer.begin("step:1")
    checkpointer.close()
    (make_run(place / "lost", {1: 0.3}).path / ".keepstep" / "events.jsonl").unlink()
    flip(make_run(place / "hurt", {1: 0.3, 2: 0.2}).path / "checkpoint-1" / "model.safetensors")
    (make_run(place / "changed", {1: 0.3}).path / "checkpoint-1" / "config.json").write_text("{}")
    _save(place / "model", MODEL, 10)
    run_of(place / "stock", [5])
    return place


WRITING = {
    "adopt": ["stock", "--yes"],
    "branch": ["run", "1", "branched"],
    "budget": ["set", ".", "1GB"],
    "evaluate": ["run", "--", "sh", "-c", "echo began {}"],
    "export": ["model", "10", "out"],
    "pin": ["run", "1"],
    "prune": ["run", "--keep", "latest:1", "--yes"],
    "repair": ["lost", "--yes"],
    "reseal": ["changed", "1", "--yes"],
    "restore": ["back", "gen:2", "--yes"],
    "tag": ["run", "1", "name"],
    "thin": ["run", "1"],
    "unpin": ["run", "1"],
    "verify": ["hurt", "--quarantine"],
}
"""Every command that changes a run, or makes a directory."""
LOOKING = {
    "status", "ls", "show", "diff", "best", "resume", "events", "watch", "du", "metrics", "doctor", "plan", "simulate",
}  # fmt: skip
ELSEWHERE = {"mirror", "save-now", "stop", "ui", "demo", "completion", "run", "slurm", "k8s"}


def test_every_command_is_known_to_write_or_not() -> None:
    assert {*WRITING, *LOOKING, *ELSEWHERE} == set(COMMANDS)


DRIVER = """
import json, os, sys
from click.testing import CliRunner
from keepstep.cli.main import main
os.chdir(sys.argv[1])
for name, arguments in json.loads(sys.argv[2]).items():
    done = CliRunner().invoke(main, [name, *arguments], prog_name="keepstep")
    print(json.dumps([name, done.exit_code, done.stderr]), flush=True)
"""


def _driven(place: Path, options: str, commands: dict[str, list[str]]) -> dict[str, tuple[int, str]]:
    driver = shlex.join([sys.executable, "-c", DRIVER, str(place), json.dumps(commands)])
    done = _mounted(options, place, driver)
    assert done.returncode == 0, done.stderr
    return {name: (code, said) for name, code, said in map(json.loads, done.stdout.splitlines())}


def test_what_writes_says_that_the_disk_is_mounted_read_only(disk: Path) -> None:
    found = _driven(disk, f"--bind -o ro {shlex.quote(str(disk))}", WRITING)
    assert {name: code for name, (code, _) in found.items()} == dict.fromkeys(WRITING, 8), found
    for name, (_, said) in found.items():
        assert f"can't be written: {disk} is mounted read-only" in said and "remount,rw" in said, (name, said)
    assert "began" not in found["evaluate"][1], "an hour of evaluation would be for nothing"


def test_an_export_to_a_full_disk_says_how_much_is_short(disk: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    command = {"export": [str(disk / "model"), "10", "out"]}
    code, said = _driven(small, "-t tmpfs -o size=1m none", command)["export"]
    assert code == 8 and "mounted" not in said
    assert "and 67.1 MB are to stay free; 1.0 MB are free there: 66" in said and " MB short" in said
    assert list(small.iterdir()) == []
