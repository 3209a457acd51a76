"""The hook in processes of their own: where it reaches, whom it lets by, what it leaves as it was. Without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep.supervision.hook import environment, without_hook
from keepstep.supervision.marks import BOOT, Marks

TRAINER = """
class Trainer:
    def train(self, resume_from_checkpoint=None, **kwargs):
        return "trained"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory whose `transformers.trainer` stands in for that of the library, which takes seconds to import."""
    package = tmp_path / "path/transformers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "trainer.py").write_text(TRAINER)
    (tmp_path / "marks").mkdir()
    return tmp_path


def run(
    place: Path, program: str, *flags: str, attach: bool = True, path: str = ""
) -> subprocess.CompletedProcess[str]:
    """A Python with the hook that runs a program."""
    before = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    before["PYTHONPATH"] = path or os.pathsep.join((str(place / "path"), os.environ.get("PYTHONPATH", "")))
    made = environment(before, marks=place / "marks", attach=attach, options={"keep": "best:3"}, attempt=1)
    command = [sys.executable, *flags, "-c", program]
    return subprocess.run(command, env=made, capture_output=True, text=True, check=False, timeout=60)


IS_THERE = "import sys; print(any(type(f).__module__ == 'keepstep_boot' for f in sys.meta_path))"


def test_it_waits_and_imports_nothing_of_keepstep_or_the_library(place: Path) -> None:
    seen = "print([m for m in sys.modules if m.startswith(('keepstep.', 'torch', 'transformers', 'importlib.util'))])"
    done = run(place, f"{IS_THERE}; {seen}; print([p for p in sys.path if p.endswith('/boot')])")
    assert (done.stdout, done.stderr) == ("True\n[]\n[]\n", "")


def test_processes_further_down_have_it_too_and_isolated_ones_do_not(place: Path) -> None:
    below = f"import subprocess, sys; subprocess.run([sys.executable, *{{}}, '-c', {IS_THERE!r}])"
    assert run(place, below.format([])).stdout == "True\n"
    assert run(place, below.format(["-I"])).stdout == "False\n"
    assert run(place, IS_THERE, "-s").stdout == "True\n"


def test_a_sitecustomize_that_was_there_is_called_and_one_that_fails_fails_as_before(place: Path) -> None:
    theirs = place / "path/sitecustomize.py"
    theirs.write_text("print('theirs', __name__)")
    done = run(place, f"{IS_THERE}; print(sys.modules['sitecustomize'].__file__)")
    assert done.stdout == f"theirs sitecustomize\nTrue\n{theirs}\n"
    theirs.write_text("import not_there")
    assert "not_there" in run(place, "print('goes on')").stderr


def test_what_inspects_the_trainer_sees_the_library(place: Path) -> None:
    program = """
import inspect
import transformers.trainer as t
print(type(t.__spec__.loader).__name__, inspect.signature(t.Trainer.train), t.Trainer.train.__qualname__)
print(inspect.getsource(t.Trainer.train).strip().splitlines()[0])
"""
    stock = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(place / "path")}, capture_output=True,
        text=True, check=True,
    ).stdout  # fmt: skip
    assert run(place, program).stdout == stock


def test_where_keepstep_is_not_installed_it_trains_as_before_and_that_is_said(place: Path) -> None:
    program = """
import os, sys
sys.path[:] = [place for place in sys.path if not os.path.isdir(f"{place}/keepstep")]
import transformers.trainer as t
print(t.Trainer().train())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment({"PYTHONPATH": str(place / "path")}, marks=place / "marks", attach=True, options={}, attempt=1),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "trained\n"
    assert "nothing is managed: it is not installed for" in done.stderr
    (attached,) = Marks(place / "marks").attached()
    assert not attached.managed and "not installed" in attached.why


def test_an_end_is_told_with_its_type_place_and_step_and_printed_as_ever(place: Path) -> None:
    done = run(place, "import threading\ndef f(): raise OSError(28, 'full')\nf()")
    assert done.stderr.endswith("OSError: [Errno 28] full\n")
    (end,) = Marks(place / "marks").ends()
    assert (end.type, end.errno, end.last, end.thread) == ("OSError", 28, "<string>:f:2", False)
    assert "OSError: [Errno 28] full" in end.trace


def test_who_attaches_by_himself_saves_and_exits_is_heard_of_too(place: Path) -> None:
    """A launcher that was told to stop says nothing of the exit codes of its workers."""
    package = place / "path/keepstep/integrations/transformers"
    package.mkdir(parents=True)
    for directory in (package, package.parent, package.parent.parent):
        (directory / "__init__.py").write_text("")
    (package / "managed.py").write_text("class ManagedTrainer:\n    def train(self):\n        raise SystemExit(75)\n")
    done = run(place, "from keepstep.integrations.transformers.managed import ManagedTrainer; ManagedTrainer().train()")
    assert done.returncode == 75
    (end,) = Marks(place / "marks").ends()
    assert (end.type, end.code) == ("SystemExit", 75)


def test_the_environment_gains_the_hook_and_loses_what_another_supervisor_left() -> None:
    before = {"PYTHONPATH": "/theirs", "KEEPSTEP_GO_ON": "/old", "A": "b"}
    made = environment(before, marks=Path("/marks"), attach=True, options={"min_free": "1GB"}, attempt=3)
    assert made == {
        "PYTHONPATH": f"{BOOT}{os.pathsep}/theirs", "KEEPSTEP_MARKS": "/marks", "KEEPSTEP_ATTACH": "1",
        "KEEPSTEP_MIN_FREE": "1GB", "KEEPSTEP_ATTEMPT": "3", "A": "b",
    }  # fmt: skip
    assert without_hook(made, attempt=4)["KEEPSTEP_ATTEMPT"] == "4"
    assert "KEEPSTEP_MARKS" not in without_hook(made, attempt=4)
