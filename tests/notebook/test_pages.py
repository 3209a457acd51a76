"""What a notebook shows: in a real kernel, exported to HTML, with names that want to be markup."""

from __future__ import annotations

import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.model import Kind
from keepstep.notebook import pages, register
from keepstep.notebook.picture import Mark, draw
from keepstep.retention import Metric
from keepstep.run import History, Run
from tests.checkpoints import make_checkpoint
from tests.operations.runs import make_run, training, write
from tests.operations.test_receipts import EQUAL, resume

EVIL = "<script>alert(1)</script>"
ALLOWED = {
    "div", "b", "span", "br", "table", "thead", "tbody", "tr", "th", "td", "details", "summary",
    "svg", "g", "path", "circle", "polyline", "text", "title",
}  # fmt: skip


class Elements(HTMLParser):
    """Tags, attributes and texts of a page; nothing may be left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    path = tmp_path / "run"
    with training(path, "best:1,latest:1") as checkpointer:
        history = History(checkpointer.run.store)
        history.begin(max_steps=80)
        for step in (10, 20, 30, 40):
            loss = 0.5 + abs(step - 20) / 100
            history.log(step, None, {"loss": 9.0 - step / 10, "eval_loss": loss})
            checkpointer.save(Facts(step, metrics={"eval_loss": loss}), write)
        history.end("finished")
    return Run.open(path)


def sound(page: str) -> Elements:
    """The page's elements: known ones alone, without a handler, a link or a source."""
    found = Elements(page)
    assert set(found.tags) <= ALLOWED
    for name, value in found.attributes:
        assert not name.startswith("on") and name not in ("href", "src", "srcset")
        assert "url(" not in value
    return found


def test_a_notebook_shows_them(run: Run, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client, exporting = pytest.importorskip("nbclient"), pytest.importorskip("nbconvert")

    cells = [
        f"import keepstep, sys; run = keepstep.open_run({str(run.path)!r})",
        "run", "run.best", "run.plan(keepstep.Policy.from_spec('latest:1'))",
        "keepstep.Checkpointer(run.path, 'latest:1')",
        "run.policy",
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules",
    ]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    shown = [cell.outputs[0]["data"].get("text/html", "") if cell.outputs else "" for cell in notebook.cells]
    page, best, plan, checkpointer = map(sound, shown[1:5])
    for part in ("finished, step 40 of 80", "best 1 of 1 by eval_loss", "newest: the recovery point", "2 checkpoints"):
        assert part in page.text
    assert "weights-20" in best.text
    assert "removes 1" in plan.text
    assert "keeps the best by eval_loss" in checkpointer.text
    assert shown[5] == ""  # a policy is text

    document, _ = exporting.HTMLExporter().from_notebook_node(notebook)
    assert document.count('class="keepstep"') == 4
    assert "<title>step 20: best 1 of 1 by eval_loss (0.5, lower is better)</title>" in document


def test_the_receipt_of_the_last_resume(run: Run) -> None:
    assert "Resumed from" not in sound(pages.run_page(run)).text
    receipt = resume(run, 40, EQUAL)
    for page in (pages.run_page(run), pages.checkpointer_page(Checkpointer(run.path, "all"))):
        assert all(line in sound(page).text for line in receipt.lines())


def test_a_script_does_not_look_at_notebooks() -> None:
    code = "import keepstep, sys; print(sorted(m for m in sys.modules if 'IPython' in m or 'notebook' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_marks_on_the_curve(run: Run) -> None:
    found = sound(pages.run_page(run))
    svg = found.text
    for part in (
        "step 20: best 1 of 1 by eval_loss (0.5, lower is better)", "step 40: latest 1 of 1",
        "step 10: removed or set aside", "step 30: removed or set aside", "eval_loss",
    ):  # fmt: skip
        assert part in svg
    assert ("fill", "none") in found.attributes


def test_what_can_not_be_read_is_text(run: Run) -> None:
    class Formatter:
        def __init__(self) -> None:
            self.types: dict[str, object] = {}

        def for_type_by_name(self, module: str, name: str, function: object) -> None:
            self.types[f"{module}.{name}"] = function

    class Shell:
        def __init__(self) -> None:
            self.formatters = {"text/html": Formatter()}
            self.display_formatter = self

    shell = Shell()
    register(shell)
    register(object())
    functions = shell.formatters["text/html"].types
    assert [f"{type(one).__module__}.{type(one).__qualname__}" in functions for one in (run, run.best, run.plan())] == [
        True, True, True,
    ]  # fmt: skip
    draw_run = functions["keepstep.run.run.Run"]
    assert draw_run(run)  # type: ignore[operator]
    run.store.local_path(".keepstep/metrics.jsonl").unlink()
    run.store.local_path(".keepstep/metrics.jsonl").mkdir()
    assert draw_run(run) is None  # type: ignore[operator]


def test_names_are_text(tmp_path: Path) -> None:
    metric = Metric(EVIL, "min")
    path = tmp_path / 'a<b>"&'
    with training(path, "best:1,latest:3", metric) as checkpointer:
        history = History(checkpointer.run.store)
        history.begin()
        for step, value in ((1, 0.5), (2, 0.25), (3, math.nan)):
            history.log(step, None, {EVIL: value, "\x1b[2J": value})
            checkpointer.save(Facts(step, metrics={EVIL: value}), write)
        page = pages.checkpointer_page(checkpointer)
    run = Run.open(path)
    for text in (page, pages.checkpoint_page(run.checkpoints[0]), pages.plan_page(run.plan())):
        sound(text)
        assert "\x1b" not in text
    assert EVIL in sound(page).text


def test_a_run_without_anything(tmp_path: Path) -> None:
    assert "No checkpoint yet" in sound(pages.run_page(make_run(tmp_path / "run", {}))).text
    assert "no training yet" in sound(pages.checkpointer_page(Checkpointer(tmp_path / "new", "all"))).text


def test_long_lists_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST_ROWS", 2)
    page = sound(pages.run_page(make_run(tmp_path / "run", dict.fromkeys(range(1, 6), 0.5))))
    assert "and 3 older ones" in page.text
    assert page.tags.count("tr") == 3


@pytest.mark.parametrize(
    ("curve", "drawn"),
    [([], 0), ([(1, 1.0)], 0), ([(1, math.nan), (2, math.inf), (3, 1.0)], 0), ([(1, 1.0), (2, 1.0)], 1),
     ([(1, -1e300), (2, 1e300)], 1)],
)  # fmt: skip
def test_curves_of_any_shape(curve: list[tuple[int, float]], drawn: int) -> None:
    picture = draw("loss", curve, [Mark(0, "kept", "x"), Mark(9, "thinned", "y")])
    assert sound(picture).tags.count("polyline") == drawn
    assert "nan" not in picture and "inf" not in picture


def test_a_checkpoint_that_is_not_on_disk() -> None:
    found = sound(pages.checkpoint_page(make_checkpoint(3, metrics={"loss": math.nan}, kind=Kind.WEIGHTS)))
    assert "not on disk" in found.text
    assert "weights only" in found.text
    assert "NaN" in found.text


def test_a_run_says_how_sure_its_best_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {step: 0.5 + 0.01 * (-1) ** step for step in range(1, 11)})
    assert "checkpoint-1 leads by 0; evaluations next to each other differ by" in pages.run_page(run)
