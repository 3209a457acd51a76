"""One command on several runs: each on its own, a failure of one stops no other, and the worst exit code counts."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click
import msgspec

from keepstep.cli.command import REFERENCES, Argument, complete_reference, opened, refuse_addresses
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.text import clean
from keepstep.cli.failures import exit_code_of
from keepstep.errors import KeepstepError, StorageError
from keepstep.paths import expanded

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
References = Literal["none", "optional", "required"]
Together = Callable[..., None]
"""What shows several runs in one table: called with their paths, `outcomes`, `output` and the command's options."""
Agree = Callable[[Sequence[Any], Output], bool]
"""Asks once for what several runs yielded; True where it is to be done."""
UNEXPECTED = 1


class Outcomes(msgspec.Struct):
    """How a command went on several runs: `code` is the worst exit code so far."""

    code: int = 0
    errors: dict[Path, KeepstepError | OSError] = msgspec.field(default_factory=dict[Path, "KeepstepError | OSError"])
    bug: Exception | None = None

    def of(self, path: Path, act: Callable[[], T]) -> tuple[T | None, int]:
        """What `act` returns, and its exit code; an error is said on stderr with its run, and is no error here."""
        code, found = 0, None
        try:
            found = act()
        except click.exceptions.Exit as left:
            code = left.exit_code
        except BrokenPipeError:
            raise
        except (KeepstepError, OSError) as error:
            self.errors[path] = error
            code = exit_code_of(_with_path(error, path)) or UNEXPECTED
        except click.ClickException:
            raise
        except Exception as error:
            # A bug of ours: the other runs come first, then its traceback.
            click.echo(clean(f"keepstep: {path}: {type(error).__name__}: {error}"), err=True)
            self.bug, code = self.bug or error, UNEXPECTED
        self.code = max(self.code, code)
        return found, code

    def end(self) -> None:
        """Leaves with the worst exit code, where it is not 0."""
        if self.bug is not None:
            raise self.bug
        if self.code:
            raise click.exceptions.Exit(self.code)


class Given(msgspec.Struct, frozen=True):
    """The runs that were named, by path, and whether exactly one was, by its own name."""

    paths: tuple[Path, ...]
    alone: bool
    code: int = 0
    """Exit code for what could not be looked at."""
    address: str = ""  # of the mirror that was named, in place of a path


def runs_argument(
    *, reference: References = "none", together: Together | None = None, agree: Agree | None = None, here: bool = False
) -> Callable[[F], F]:
    """RUN..., with `--root`: the command is called for each run with `run` (and `reference`), as for one alone.

    `together` is called in its place where several runs are named. A command that yields asks for an answer: `agree`
    is asked once, after all runs have yielded. With `here` no name means the run in the working directory, or those
    below it.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(
            *args: Any,
            words: tuple[str, ...],
            roots: tuple[str, ...],
            ref: str | None = None,
            output: Output,
            **more: Any,
        ) -> None:
            names, ref = _split(words, ref, reference, roots=bool(roots))
            given = _given(names, roots, here=here)
            if reference != "none":
                more["reference"] = ref
            if given.alone:
                more["run"] = opened(given.address or given.paths[0])
                _drive_one(function(*args, output=output, **more), agree, output)
                return
            outcomes = Outcomes(given.code)
            if together is not None:
                together(*args, paths=given.paths, outcomes=outcomes, output=output, **more)
            else:
                _Each(given.paths, outcomes, output, agree).call(
                    lambda run, out: function(*args, run=run, output=out, **more)
                )
            outcomes.end()

        decorated: Any = call
        if reference != "none":
            decorated = click.option(
                "--ref", metavar="REF", help=f"The same as REF: {REFERENCES}.", shell_complete=complete_reference
            )(decorated)
        decorated = root_option(decorated)
        return click.argument(
            "words",
            cls=Argument,
            metavar=_METAVARS[reference] if not here else "[RUN]...",
            nargs=-1,
            required=False,
            explanation=_explanation(reference, here=here),
            shell_complete=_complete,
        )(decorated)

    return decorate


_METAVARS = {"none": "RUN...", "optional": "RUN... [REF]", "required": "RUN... REF"}


def root_option(function: F) -> F:
    """`--root`, as `roots`."""
    return click.option(
        "--root",
        "roots",
        metavar="DIR",
        multiple=True,
        type=click.Path(),
        help="Also every run below DIR, managed or not; can be given several times.",
    )(function)


def _explanation(reference: References, *, here: bool) -> str:
    text = "directories of runs (a trainer's output_dir), or patterns of their names"
    text += "; without one the run here, or the runs below" if here else ""
    if reference != "none":
        text += f"; REF is {REFERENCES}"
        text += "; all checkpoints when left out" if reference == "optional" else ""
    return text


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Directories, and the references of a run that was typed before, where the command takes one."""
    from click.shell_completion import CompletionItem

    found = complete_reference(ctx, param, incomplete) if "REF" in (param.metavar or "") else []
    return found or [CompletionItem(incomplete, type="dir")]


def _split(
    words: Sequence[str], ref: str | None, reference: References, *, roots: bool
) -> tuple[Sequence[str], str | None]:
    """The names of runs, and the reference that the last word is, where it is one."""
    if reference == "none" or ref is not None:
        return words, ref
    if words and (len(words) > 1 or roots) and _is_reference(words[-1], several=len(words) > 2):
        return words[:-1], words[-1]
    if reference == "required":
        missing = "REF" if words or roots else "RUN"
        raise click.UsageError(f"Missing argument '{missing}'.", click.get_current_context())
    return words, None


def _is_reference(word: str, *, several: bool) -> bool:
    """True for a last word that names checkpoints; a run that is there, or a pattern that finds any, is none.

    Behind several names what lies there is one more of them, as `runs/*` gives them, unless it is in a checkpoint.
    """
    from keepstep.mirror import is_address, is_mirror
    from keepstep.model import parse_name
    from keepstep.run import holds_run

    if word in ("best", "latest") or word.isdecimal() or word.startswith("step:"):
        return True
    path = expanded(word)
    if several and path.exists() and not any(parse_name(part) for part in path.resolve().parts):
        return False
    return not (is_address(word) or holds_run(path) or is_mirror(path)) and not _matching(word)


def _given(words: Sequence[str], roots: Sequence[str], *, here: bool) -> Given:
    """The runs of names, patterns and roots, each once. Raises RunNotFound where a search finds none, NoDirectory."""
    if not words and not roots:
        if not here:
            raise click.UsageError("Missing argument 'RUN'.", click.get_current_context())
        from keepstep.run import holds_run

        if holds_run(Path(".")):
            return Given((Path("."),), alone=True)
        roots = (".",)
    from keepstep.mirror import is_address, is_mirror

    if address := next((word for word in words if is_address(word) or is_mirror(expanded(word))), ""):
        if len(words) > 1 or roots:
            raise click.UsageError(f"{address} is a mirror: name it alone.")
        return Given((), alone=True, address=address)
    paths: list[Path] = []
    patterns = False
    for word in words:
        matching = _matching(word)
        patterns = patterns or bool(matching)
        paths += matching or [expanded(word)]
    found, code = _below(roots)
    paths += found
    once = {path.resolve(): path for path in reversed(paths)}
    ordered = tuple(path for path in dict.fromkeys(paths) if once.get(path.resolve()) == path)
    return Given(ordered, alone=not roots and not patterns and len(ordered) == 1, code=code)


def each_below(roots: Sequence[str], output: Output, act: Callable[[Any, Output], None]) -> Outcomes:
    """Does something for every run below some directories, as for one alone: a failing one stops no other."""
    found, code = _below(roots)
    outcomes = Outcomes(code)
    _Each(found, outcomes, output, None).call(act)
    return outcomes


def places_of(words: Sequence[str], roots: Sequence[str]) -> list[Path]:
    """The directories of names, patterns and roots, for a command that searches them itself."""
    if not words and not roots:
        raise click.UsageError("Missing argument 'RUN'.", click.get_current_context())
    refuse_addresses((*words, *roots))
    return [path for word in (*words, *roots) for path in _expanded(word)]


def _expanded(word: str) -> list[Path]:
    """A directory by its name, or those that a pattern names."""
    path = expanded(word)
    if not glob.has_magic(word) or path.exists():
        return [path]
    return sorted(found for found in map(Path, glob.glob(os.fspath(path))) if found.is_dir()) or [path]


def _below(roots: Sequence[str]) -> tuple[list[Path], int]:
    if not roots:
        return [], 0
    from keepstep.operations.seeing.finding import no_run_below, search

    searched = [search(expanded(root)) for root in roots]
    found = [path for one in searched for path in sorted((*one.runs, *one.stock))]
    unreadable = [item for one in searched for item in one.unreadable]
    for item in unreadable:
        click.echo(clean(f"keepstep: {item.path} could not be read: {item.reason}"), err=True)
    if not found:
        raise no_run_below(roots)
    return found, StorageError.exit_code if unreadable else 0


def _matching(word: str) -> list[Path]:
    """Runs that a pattern names which no shell has expanded, by path; none for a name."""
    if not glob.has_magic(word) or expanded(word).exists():
        return []
    from keepstep.run import holds_run

    return [path for path in _expanded(word) if holds_run(path)]


def _with_path(error: KeepstepError | OSError, path: Path) -> KeepstepError | OSError:
    """The same error, its message with the run that it is of."""
    if isinstance(error, KeepstepError):
        if os.fspath(path) not in error.message:
            error.message = f"{path}: {error.message}"
        return error
    what = error.strerror or str(error) or type(error).__name__
    where = error.filename if error.filename and os.fspath(path) in os.fspath(error.filename) else path
    return StorageError(f"{what}: {where}")


class _Caught(Output):
    """The output of a command for one run of several: its JSON document is kept for the line of that run."""

    def __init__(self, output: Output) -> None:
        super().__init__(output.format)
        self.document: Any = None
        self.rows: str | None = None
        self.columns: Sequence[str] = ()

    def json(self, value: Any, *, rows: str | None = None, columns: Sequence[str] = ()) -> None:
        self.document, self.rows, self.columns = value, rows, columns

    def members(self) -> list[dict[str, Any]]:
        """The rows of the document's table; of one without, a row of its members."""
        found = self.document[self.rows] if self.rows else self.document
        if found is None:
            return []
        return cast("list[dict[str, Any]]", found if isinstance(found, list) else [found])


class _Each:
    """Calls a command for one run after the other, and shows what comes of it under the run's name."""

    def __init__(self, paths: Sequence[Path], outcomes: Outcomes, output: Output, agree: Agree | None) -> None:
        self._paths, self._outcomes, self._output, self._agree = paths, outcomes, output, agree
        self._caught: dict[Path, _Caught] = {}
        self._rows: list[dict[str, Any]] = []
        self._columns: Sequence[str] = ()
        self._headed = 0

    def call(self, act: Callable[[Any, Output], Any]) -> None:
        waiting: list[tuple[Path, Generator[Any, bool, None], Any]] = []
        for path in self._paths:
            output = self._caught.setdefault(path, _Caught(self._output))
            self._head(path)
            asked, code = self._outcomes.of(path, lambda: _begin(act(opened(path), output)))  # noqa: B023
            if asked is None:
                self._end(path, code)
            else:
                waiting.append((path, *asked))
        agreed = self._agree is not None and bool(waiting) and self._agree([one for *_, one in waiting], self._output)
        for path, rest, _ in waiting:
            if agreed:
                self._head(path)
            _, code = self._outcomes.of(path, lambda: _answer(rest, agreed))  # noqa: B023
            self._end(path, code)
        if self._output.is_agent:
            self._output.json(self._rows, columns=("run", *self._columns))

    def _head(self, path: Path) -> None:
        if self._output.is_json:
            return
        if self._headed:
            self._output.line()
        self._headed += 1
        self._output.line((f"{path}:", "bold"))

    def _end(self, path: Path, code: int) -> None:
        """The line of a run, for programs."""
        if not self._output.is_json:
            return
        caught = self._caught.pop(path)
        if self._output.is_agent:
            self._columns = caught.columns or self._columns
            self._rows += ({"run": str(path), **row} for row in caught.members())
        else:
            self._output.json_line(line_of(path, code, self._outcomes.errors.get(path), caught.document))


def line_of(path: Path, code: int, error: KeepstepError | OSError | None, result: Any) -> dict[str, Any]:
    """What programs are told of one run of several."""
    found: dict[str, Any] = {"run": str(path), "exit_code": code}
    if error is None:
        return found | {"result": result}
    return found | {"error": error_of(error)}


def error_of(error: KeepstepError | OSError) -> dict[str, str]:
    """An error as plain values."""
    from keepstep.stores import in_words

    if isinstance(error, OSError) and not isinstance(error, KeepstepError):
        error = in_words(error) or error
    if isinstance(error, KeepstepError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    return {"code": StorageError.code, "message": str(error), "hint": ""}


def _begin(result: Any) -> tuple[Generator[Any, bool, None], Any] | None:
    """What a command asks for, where it does, and the rest of it."""
    if not isinstance(result, Generator):
        return None
    rest = cast("Generator[Any, bool, None]", result)
    try:
        return rest, next(rest)
    except StopIteration:
        return None


def _answer(rest: Generator[Any, bool, None], agreed: bool) -> None:
    try:
        rest.send(agreed)
    except StopIteration:
        return


def _drive_one(result: Any, agree: Agree | None, output: Output) -> None:
    asked = _begin(result)
    if asked is not None:
        _answer(asked[0], agree is not None and agree([asked[1]], output))
