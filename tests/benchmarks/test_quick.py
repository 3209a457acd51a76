"""The harness itself, for real, with a small model and what is installed here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("transformers")


@pytest.mark.training
@pytest.mark.long
def test_the_harness_works_and_says_what_is_not_installed(tmp_path: Path) -> None:
    only = [word for name in ("keepstep", "dcp-staged", "moonclip") for word in ("--only", name)]
    options = ["--quick", "--no-resumes", "--no-limits", "--saves", "1", *only]
    places = ["--output", str(tmp_path / "out"), "--directory", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.saves", *options, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    records = {record["method"]: record for record in results["records"]}
    assert [save["counts"] for save in records["keepstep"]["saves"]] == [False, True]
    assert records["keepstep"]["saves"][1]["size"] > records["keepstep"]["state_bytes"]
    # Staged beside the step: what the copy still needs is waited for before the optimizer, and counts.
    assert records["dcp-staged"]["saves"][1]["size"] > records["dcp-staged"]["state_bytes"]
    assert records["dcp-staged"]["saves"][1]["held"] > 0
    if importlib.util.find_spec("moonclip") is None:
        assert records["moonclip"] == {"leg": results["records"][0]["leg"], "kind": "course", "round": 0,
                                       "method": "moonclip", "refused": "not installed"}  # fmt: skip
        assert "| Moonclip 0.3.1 | refused: not installed |" in done.stdout
    assert "keepstep, fast engine" in (tmp_path / "out" / "report.md").read_text("utf-8")
    assert not list(tmp_path.glob("saves-*"))
