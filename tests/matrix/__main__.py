"""`python -m tests.matrix`: the matrix, row by row; exit code 1 where a row is wrong or fails."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from keepstep.integrations.transformers.resuming import converted
from tests.matrix import table
from tests.matrix.courses import Course, course
from tests.matrix.features import FEATURES
from tests.matrix.playing import memory, row
from tests.matrix.subjects import GROUPS
from tests.matrix.verdict import Row, Verdict


def main(words: list[str] | None = None) -> int:
    """Play what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="rows or groups that contain this; repeatable")
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text")
    parser.add_argument("--features", action="store_true", help="the second table alone: data, settings, optimizers")
    parser.add_argument(
        "--without-converter", action="store_true", help="as where the library has no converter: a second model is read"
    )
    asked = parser.parse_args(words)
    if asked.without_converter:
        converted.core = None
    wanted = [
        (group, subject)
        for group, subjects in GROUPS.items()
        for subject in subjects
        if not asked.features
        and (not asked.only or any(word in one for word in asked.only for one in (group, subject.name)))
    ]
    features = [name for name in FEATURES if not asked.only or any(word in name for word in asked.only)]
    if not wanted and not features:
        parser.error(f"no row is called {' or '.join(asked.only)}")
    torch.set_num_threads(1)
    progress = sys.stdout if asked.format == "text" else sys.stderr
    rows: list[Row] = []
    for group, subject in wanted:
        rows.append(row(group, subject))
        print(table.line(rows[-1]), file=progress, flush=True)
    courses: list[Course] = []
    for name in features:
        with TemporaryDirectory(dir=memory(), ignore_cleanup_errors=True) as home:
            courses.append(course(name, Path(home)))
        print(table.course_line(courses[-1]), file=progress, flush=True)
    print(f"{len(wanted)} rows: {table.summary(rows)}. {table.control(rows)}", file=progress)
    if asked.format == "json":
        print(table.as_json(rows))
    elif asked.format == "markdown":
        print((table.as_markdown(rows) if rows else "") + table.courses_as_markdown(courses), end="")
    bad = (Verdict.WRONG, Verdict.DOUBTED, Verdict.FAILS)
    return 1 if any(not row.missing and row.verdict in bad for row in (*rows, *courses)) else 0


if __name__ == "__main__":
    sys.exit(main())
