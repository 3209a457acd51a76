"""The health view: events as sentences, and attempts by their steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from holdfast.operations.export.choosing import note_exported
from tests.web import runs
from tests.web.browser import Eyes, Ui, serving

Look = Callable[..., Eyes]


def test_an_export_is_a_sentence_with_its_kind_and_place(look: Look, tmp_path: Path) -> None:
    run = runs.finished(tmp_path / "sft", steps=400)
    newest = run.checkpoints[-1]
    others = tuple(replace(newest, step=step) for step in (1_600, 24))
    note_exported(run, (newest,), Path("/exports/one"), "adapter")
    note_exported(run, (newest, *others), Path("/exports/two"), "model")
    with serving(tmp_path) as ui:
        eyes = look(ui)
        page = eyes.visit(f"#/run/{ui.keys()['sft']}/health")
        page.get_by_label("Search events").fill("/exports/")
        said = page.locator("table.grid td[data-column=text]").all_inner_texts()
        assert [text for text in said if text] == [
            "Average of steps 400, 1,600, 24 exported as a model to /exports/two",
            "Step 400 exported as an adapter to /exports/one",
        ]


def test_an_attempt_says_its_steps_and_its_end_once(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    for name, expected in {
        "sft": ["finished steps 0 to 2,000"],
        "dpo": ["failed steps 700 to 1,200, rewound", "killed steps 0 to 900"],
    }.items():
        page = eyes.visit(f"#/run/{shown.keys()[name]}/health")
        said = page.locator(".attempt p:first-child").all_inner_texts()
        assert [" ".join(text.split()) for text in said] == expected
    page = eyes.visit(f"#/run/{shown.keys()['dpo']}")
    page.wait_for_selector(".lane-text")
    bars = page.locator(".lane-text").all_inner_texts()
    assert [text.partition(" · ")[0] for text in bars] == ["steps 0 to 900, killed", "rewound to 700, failed at 1,200"]
