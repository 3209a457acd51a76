"""The table in CONTRIBUTING.md is true: samples come into a copy by touching what their rows name, and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("src", "tests", "tools", "docs", "CONTRIBUTING.md", "README.md", "pyproject.toml")
GENERATED = {"docs/cli.md", "docs/rules.md", "docs/doctor.md", "docs/keepstep.schema.json"}
TESTS = (
    "tests/retention/test_rules.py",
    "tests/retention/test_spec.py",
    "tests/stores/test_stores.py",
    "tests/cli/test_sample.py",
    "tests/cli/test_startup.py",
    "tests/ground/test_surface.py",
    "tests/docs/test_docs.py",
)
CONCERNED = "sample or every_rule or examples_of or hands_on or is_documented or help_lists"
"""Of them, those that a sample can break."""
_ROW = re.compile(r"^\| (.+?) \|(.*)\|$", re.MULTILINE)
_PATH = re.compile(r"`([\w./-]+(?:/|\.\w+))`")


def table() -> dict[str, list[str]]:
    """The files of each kind of change, as the table names them."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("## Where do I change")[2].partition("\n## ")[0]
    rows = _ROW.findall(section)[1:]
    return {what: _PATH.findall(files) for what, files in rows}


def pattern(path: str) -> str:
    """A path of the table as a pattern: NAME is any name, a folder stands for all that is in it."""
    return path.replace("NAME", "*") + "*" * path.endswith("/")


class Copy:
    """A copy of this repository, and what was changed in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                # Compiled files come along: they are valid, since the times of the sources do too.
                shutil.copytree(source, home / name)
            else:
                shutil.copy2(source, home / name)
        # Pages that are out of date already are no part of a change.
        self._generate()
        self._before = self._digests()

    def add(self, name: str, text: str) -> None:
        """Make a file, or go on with one that is there."""
        with (self.home / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def change(self, name: str, *changes: tuple[str, str]) -> None:
        """Put something in the place of each regular expression, wherever it is found."""
        text = (self.home / name).read_text(encoding="utf-8")
        for old, new in changes:
            text, times = re.subn(old, new, text)
            assert times, f"{name} has no {old}: this test must follow it"
        (self.home / name).write_text(text, encoding="utf-8")

    def python(self, *arguments: str) -> str:
        """What Python prints in the copy, with the copy's package."""
        environment = {**os.environ, "PYTHONPATH": f"{self.home / 'src'}{os.pathsep}{self.home}"}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def touched(self) -> set[str]:
        """Files that are others than when this was asked before, or new; pages are generated first."""
        self._generate()
        before, self._before = self._before, self._digests()
        return {name for name in self._before.keys() | before.keys() if self._before.get(name) != before.get(name)}

    def _generate(self) -> None:
        self.python("tools/generate_docs.py")

    def _digests(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.home).as_posix(): hashlib.blake2b(path.read_bytes()).digest()
            for path in self.home.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }


RULE = '''

class Sample(Rule, frozen=True):
    """The first n of the run."""

    n: int
    example: ClassVar[str] = "sample:2"

    def keeps(self, context: Context) -> Mapping[int, str]:
        return {checkpoint.generation: f"first {self.n}" for checkpoint in context.checkpoints[: self.n]}

    def phrase(self, metric: Metric | None) -> str:
        return f"the first {self.n}"

    def missed(self) -> str:
        return f"not among the first {self.n}"
'''
RULE_TEST = """

def test_sample_keeps_the_first() -> None:
    from keepstep import Policy, Sample
    from keepstep.retention import rule_table

    assert ("sample:2", "The first n of the run.") in rule_table()
    assert Policy.from_spec("sample:2,latest:1").rules == (Sample(2), Latest(1))
    assert set(Sample(2).keeps(context(*make_run([None] * 4)))) == {1, 2}
"""


def add_rule(copy: Copy) -> None:
    """A rule, by its word in a spec and by its name in Python."""
    beside = (r"(?<![\w(])(\"?)Within\1(?![\w(])", r"\1Within\1, \1Sample\1")
    copy.add("src/keepstep/retention/rules.py", RULE)
    for name in ("src/keepstep/retention/__init__.py", "src/keepstep/__init__.py"):
        copy.change(name, beside)
    copy.change("tests/ground/test_surface.py", (r"\bWithin\b", "Within Sample"))
    copy.add("tests/retention/test_rules.py", RULE_TEST)
    copy.change(
        "tests/retention/test_spec.py",
        (r"\n    Within,\n", "\n    Within,\n    Sample,\n"),
        (r"st\.builds\(All\)", "st.builds(Sample, COUNTS), st.builds(All)"),
        (r'pinned,all"', 'pinned,all,sample:2"'),
        (r"All\(\)\)\n", "All(), Sample(2))\n"),
    )


STORE = '''"""A sample of a store: a directory that counts what is written into it."""

from __future__ import annotations

from pathlib import Path

from keepstep.stores.local import LocalStore


class SampleStore(LocalStore):
    """A directory on this machine; `written` counts bytes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written = 0

    def write(self, path: str, data: bytes) -> None:
        super().write(path, data)
        self.written += len(data)
'''
STORE_TEST = """

class TestSampleStore(StoreConformance):
    def make_store(self, empty: Path) -> Store:
        from keepstep.stores import SampleStore

        return SampleStore(empty)
"""


def add_store(copy: Copy) -> None:
    """A store that the face hands on, with its conformance test."""
    copy.add("src/keepstep/stores/sample.py", STORE)
    copy.change(
        "src/keepstep/stores/__init__.py",
        (r"\n\n__all__ = \[", '\nfrom keepstep.stores.sample import SampleStore\n\n__all__ = [\n    "SampleStore",'),
    )
    copy.change("tests/ground/test_surface.py", (r"\bLocalStore\b", "LocalStore SampleStore"))
    copy.add("tests/stores/test_stores.py", STORE_TEST)


COMMAND = '''"""`keepstep sample`: a number of checkpoints."""

from __future__ import annotations

from keepstep.cli.command import command, format_option, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.run import Run


@command("sample", examples=[("keepstep sample runs/sft", "how many there are")])
@run_argument
@format_option
def sample(run: Run, output: Output) -> None:
    """Reads the run, and nothing else."""
    output.line(f"{len(run.checkpoints)} in all")
'''
COMMAND_TEST = '''"""Tests of `keepstep sample`."""

from pathlib import Path

from tests.cli.conftest import Call
from tests.operations.runs import make_run


def test_it_counts(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2})
    assert call("sample", run.path).stdout == "2 in all\\n"
'''


def add_command(copy: Copy) -> None:
    """A command that reads a run."""
    copy.add("src/keepstep/cli/commands/sample.py", COMMAND)
    copy.change("src/keepstep/cli/registry.py", (r"COMMANDS = \{", 'COMMANDS = {\n    "sample": Entry("Count them."),'))
    copy.add("tests/cli/test_sample.py", COMMAND_TEST)


SAMPLES = {"a retention rule": add_rule, "a store": add_store, "a command": add_command}


def test_every_file_of_the_table_is_there() -> None:
    assert len(table()) >= 10
    for what, names in table().items():
        assert names, what
        for name in names:
            assert any(ROOT.glob(name.replace("NAME", "*"))), f"{what}: {name}"


@pytest.mark.long
def test_a_rule_a_store_and_a_command_come_in_by_what_their_rows_name(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    for what, add in SAMPLES.items():
        add(copy)
        named, touched = table()[what], copy.touched()
        beyond = {path for path in touched if not any(fnmatchcase(path, pattern(name)) for name in named)}
        assert beyond == set(), f"the row of {what} lacks these"
        assert GENERATED & touched == GENERATED & set(named), f"the row of {what} names other pages"
    assert re.search(r"\n  sample +Count them\.\n", copy.python("-m", "keepstep", "--help"))
    passed = copy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "-k", CONCERNED)
    assert int(re.findall(r"(\d+) passed", passed)[0]) > 40
