"""docs/events.md and docs/metrics.md name what there is, all of it, as real runs write it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from keepstep.operations import pinning
from keepstep.prometheus import registry, text_of
from keepstep.run.hooks import _HEARD_BY  # pyright: ignore[reportPrivateUsage]
from tests.operations.runs import make_run

ROOT = Path(__file__).parents[2]
ROWS = re.compile(r"^\| `(\w+)` \|(.*)\|(.*)\|$", re.MULTILINE)


def _documented() -> dict[str, set[str]]:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8").split("## Hooks")[0]
    return {name: set(re.findall(r"`(\w+)`", fields)) for name, _, fields in ROWS.findall(page)}


def _written() -> set[str]:
    """The names of events in the source: first arguments of `events.append`, and what pinning passes on."""
    found = {"pinned", "unpinned", "tagged"}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
                owner = ast.unparse(node.func.value)
                if owner.endswith("events") and node.args and isinstance(node.args[0], ast.Constant):
                    found.add(str(node.args[0].value))
    return found


def test_every_event_is_documented_and_every_documented_one_is_written() -> None:
    assert set(_documented()) == _written()


def test_fields_of_real_events_are_documented(tmp_path: Path) -> None:
    run = make_run(tmp_path, {1: 1.0, 2: 1.5, 3: 1.7}, keep="best:1,latest:1")
    pinning.pin(run, "3")
    pinning.tag(run, "3", "release")
    pinning.unpin(run, "3")
    make_run(tmp_path, {4: None})
    documented, seen = _documented(), set[str]()
    for event in run.events.read():
        assert set(event) - {"time", "event"} <= documented[event["event"]] | {"step"}, event
        seen.add(event["event"])
    assert seen >= {"run", "committed", "kept", "removed", "thinned", "pinned", "tagged", "unpinned"}


def test_the_table_of_hooks_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8").split("## Hooks")[1]
    rows = re.findall(r"^\| `(on_\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert {(event, hook) for hook, events in rows for event in re.findall(r"`(\w+)`", events)} == set(
        _HEARD_BY.items()
    )


def test_the_table_of_metrics_is_that_of_the_code(tmp_path: Path) -> None:
    make_run(tmp_path, {1: 1.0})
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    families = text_string_to_metric_families(text_of(registry(lambda: [tmp_path])))
    found = {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for family in families
    }
    rows = {
        name: (kind, text) for name, kind, text in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    }
    assert rows == found
