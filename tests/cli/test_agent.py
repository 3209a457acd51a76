"""`--format agent`: tab-separated lines, the same columns every time, whatever is in the cells."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from keepstep.cli.commands.ls import COLUMNS
from keepstep.cli.drawing import tsv
from keepstep.operations.seeing.listing import list_checkpoints
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import flip, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.5, 2: 0.25}, keep="latest:2")


def table(text: str) -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len({len(row) for row in rows}) == 1
    return rows


def test_a_list_has_the_columns_of_its_documents(run: Run, call: Call) -> None:
    heading, first, second = table(call("ls", run.path, "--format", "agent").stdout)
    assert tuple(heading) == COLUMNS == tuple(list_checkpoints(run).rows[0].to_json())
    row = dict(zip(heading, second, strict=True))
    assert (row["step"], row["metrics"], row["size_bytes"]) == ("2", "eval_loss=0.25; eval_runtime=1.5", "1000")
    assert row["kept_because"] == "latest 1 of 2; newest: the recovery point"
    assert (row["pinned"], row["parent"], first[0]) == ("false", "1", "1")


def test_an_empty_list_has_its_heading(tmp_path: Path, call: Call) -> None:
    result = call("ls", make_run(tmp_path / "run", {}).path, "--format", "agent")
    assert result.stdout == "\t".join(COLUMNS) + "\n"


def test_one_thing_is_fields_and_values(run: Run, call: Call) -> None:
    rows = table(call("show", run.path, "2", "--format", "agent").stdout)
    assert rows[0] == ["field", "value"]
    fields = dict(rows[1:])
    assert (fields["metrics.eval_loss"], fields["files.1.path"], fields["tags"]) == ("0.25", "optimizer.pt", "")


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        (
            ["verify", "RUN"],
            [
                *("step", "generation", "path", "size_bytes", "ok", "problems", "moved_to"),
                "resumable",
                "missing",
                "added",
            ],
        ),
        (["prune", "RUN", "--keep", "latest:1"], ["step", "generation", "action", "keep", "reasons", "size_bytes"]),
        (["events", "RUN"], ["time", "event", "step", "generation", "detail"]),
        (["best", "RUN"], ["field", "value"]),
        (["resume", "RUN"], ["field", "value"]),
        (["pin", "RUN", "2"], ["field", "value"]),
    ],
    ids=lambda value: value[0],
)
def test_columns_of_other_commands(run: Run, call: Call, arguments: list[str], columns: list[str]) -> None:
    given = [str(run.path) if argument == "RUN" else argument for argument in arguments]
    rows = table(call(*given, "--format", "agent").stdout)
    assert rows[0] == columns
    assert len(rows) > 2


def test_a_prune_for_programs_asks_nobody_and_removes_nothing(run: Run, call: Call) -> None:
    call("prune", run.path, "--keep", "latest:1", "--format", "agent")
    assert len(run.checkpoints) == 2


def test_damage_is_told_in_one_cell(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "optimizer.pt")
    result = call("verify", run.path, "--format", "agent")
    assert result.exit_code == 1
    assert '"path":"optimizer.pt"' in table(result.stdout)[2][5]


def test_events_of_any_shape(run: Run, call: Call) -> None:
    with (run.path / ".keepstep" / "events.jsonl").open("a") as file:
        file.write('{"event": "lat\\ter", "step": "x", "note": "a\\tb\\nc\\u001b[2J\\\\", "list": [1, "b"]}\n')
    last = table(call("events", run.path, "--format", "agent").stdout)[-1]
    assert last == ["", "lat\\ter", "x", "", "note a\\tb\\nc\\x1b[2J\\\\, list 1, b"]


def test_cells() -> None:
    assert tsv.line([None, True, 1.5, "a\tb\nc\\", ["x", "y"], {"a": 1}, [{"a": 1}], "ü\r"]) == (
        '\ttrue\t1.5\ta\\tb\\nc\\\\\tx; y\ta=1\t{"a":1}\tü\\r'
    )
    assert list(tsv.lines([])) == []
    assert list(tsv.lines([{"a": 1}, {"b": 2}])) == ["a\tb", "1\t", "\t2"]
    assert list(tsv.lines({"rows": [{"a": 1}], "more": 3}, rows="rows")) == ["a", "1"]


def test_disk_use_is_a_line_for_each_checkpoint(call: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 1.0, 2: 2.0})
    rows = table(call("du", run.path, "--format", "agent").stdout)
    assert rows[0][:3] == ["run", "step", "generation"]
    assert [row[1] for row in rows[1:]] == ["1", "2", "", ""]
    assert [row[3:5] for row in rows[1:]] == [["full", "1000"], ["full", "1000"], ["litter", "0"], ["unmanaged", "0"]]


def test_findings_are_lines(call: Call, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text('from trl import SFTConfig\nargs = SFTConfig("runs", load_best_model_at_end=True)\n')
    rows = table(call("doctor", script, "--format", "agent").stdout)
    assert rows[0][:3] == ["id", "severity", "title"]
    assert "E101" in [row[0] for row in rows[1:]]
    (tmp_path / "empty.py").write_text("")
    assert table(call("doctor", tmp_path / "empty.py", "--format", "agent").stdout)[0][:2] == ["id", "severity"]
