"""The public surface is this list: the names of the package and of its faces, each of which leads somewhere."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import keepstep

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
HOME = Path(keepstep.__file__).parent
PUBLIC = """
    All Best Checkpoint Checkpointer Daily Every Exactness Facts FileEntry Hourly KeepstepError Kind Latest Metric
    Pending Pinned Plan Policy Preempted Receipt ResumePoint Run State Within attach export open_run transformers
"""
FACES = {
    "checkpointer": (
        "HEARD MIRROR_WAIT BackPressure BackgroundWriter Checkpointer Facts Fresh Headroom OnCommit Opened Preemption "
        "Signals Stopping Told as_storage_error lower_priority"
    ),
    "engine": (
        "CHECK DcpSave FastEngine HeldFiles IMPRINT_NAME Impression Imprint Mark Marks Memory Place Recorded "
        "ShardPlans Written mark_of marks_of measure memory_of noting one_thread recording recording_dcp served"
    ),
    "mirror": """
        BucketObjects BucketState CommitName DirectoryObjects HubObjects Mirror MirrorRun NotesSender Object ObjectStore
        OnBytes Orphan Pace Patience Progress Record RecordCache Writer bucket_state check drop home_in is_address
        is_mirror open_anywhere open_mirror orphans plain pull push read_notes settle thin
    """,
    "operations.doctor": """
        COMMAND_LINE GROUPS RULES Finding Gap Options Report Rule Severity Where examine examine_run examine_together
        judge rule_named rules_of
    """,
    "operations.many": "BestRow Resumable RunRow Survey",
    "operations.repairing": "Repair RepairChanged plan_repair repair",
    "operations.restoring": """
        Aside CourseBack Part Restoration RestoreChanged RestoreRefused RunBack lying_aside plan_restore restore
    """,
    "operations.tree": """
        Budget Lack LocksRefused Member NoTreeBudget Planned Share TreeLimit TreeReport TreeRoom Way ask_by_hand
        clear_budget in_order limits_of must_have_budget new_budget report set_budget shares tree_above way_for
    """,
    "operations.usage": """
        LEFTOVERS Kinds Litter Share Stock TreeUsage Unmanaged Usage share_of usage usage_of_tree
    """,
    "prometheus": "Address Exporter parse_target registry serve text_of write_file",
    "repository": """
        MANIFEST_NAME Changes Check Dispose Findings Finish Foreign Listing Loaders Look Need OnBytes PreviousRun
        Problem Repository Rewritten Staging Verification check_file copy_file decode_manifest digest_of
        encode_manifest file_digest is_directory is_litter lack_of missing_files need_of need_of_path only_records
        previous_runs sealed verify_files
    """,
    "retention": """
        DAMAGED FEWEST_EVALUATIONS PINNED All Before Best Certainty Context Daily Decision Every Hold Hourly Latest
        Measure Metric Mode Outcome Pending Pinned Plan Policy Rule Within certainty_of default_policy entries fit
        format_spec known_mode make_plan nearest noise_of parse rank rule_table size without_aside
    """,
    "run": """
        BRANCHED DAMAGED HUB_NAME Attempt Beat Brought Course Damaged Difference Ending Event EventLog Evidence
        Exactness History Hook Hooks Limits Lineage MirrorNote MirrorNotes Notes Observer OnDiskFull Origin PinBoard
        Pins Point Pulse Readers Reason Rebuilt Receipt Reference Request Requests Resume ResumePoint Return Run
        RunFile RunLock StockRun Tail Wish arrive begin_branch brought_lines commit_fields course_line examine
        external_path fingerprint_differences finish_pending has_ended holds_manifest holds_run is_run
        late_metrics_of logged_beyond meant mend open_external open_run parse_lines pins_bytes pins_from
        policy_facts policy_said read_note receipt_lines rescue trashed travelling way_back
    """,
    "stock": """
        LOADER NOTES STATE_NAME UNMANAGED USUAL_METRIC Contents Courses Glance Layout Other Place Settings
        StockRepository TrainerState Verdict bytes_by_rank examine flaw_of glance is_other is_unread named_by_newest
        other_layout places_of read_state settings_of writer_of
    """,
    "stores": """
        MOUNTS SHARED_BY_MACHINES TEMPORARY_SUFFIX CacheFiles Entry EntryKind HubSnapshot LocalStore MemoryStore Room
        Stamp Store denied exchange_names file_system_of in_words is_leftover_of key_of open_as_directory read_only
        rename_without_replacing require_writable store_at write_all
    """,
    "transformers": "ManagedTrainer attach verified",
}
"""By the module below keepstep."""
WITH_TORCH = ("keepstep.engine", "keepstep.integrations", "keepstep.transformers")
"""Read here and not imported: that takes seconds."""
HEAVY = {"torch", "transformers", "numpy", "msgspec", "rich", "click"}


def _body(module: str) -> list[ast.stmt]:
    """The source of a module, whose imports do not run."""
    path = HOME.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")).body


def _handed_on(body: list[ast.stmt]) -> list[str]:
    """`__all__`; empty without one."""
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _imported(body: list[ast.stmt]) -> dict[str, str]:
    """The module that each name is imported from."""
    return {
        alias.asname or alias.name: node.module or ""
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _leads_somewhere(module: str, name: str) -> bool:
    """Whether a module has the name: looked up in it, or, where that would import torch, read in its source."""
    if not module.startswith(WITH_TORCH):
        return hasattr(import_module(module), name)
    body = _body(module)
    for node in list(body):  # what a face loads when it is asked for, as type checkers see it
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            body += node.body
    if name in (imported := _imported(body)):
        return _leads_somewhere(imported[name], name)
    made = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    return name in made | {ast.unparse(node.targets[0]) for node in body if isinstance(node, ast.Assign)}


def test_the_package_hands_on_these_names_and_no_others() -> None:
    assert sorted(keepstep.__all__) == sorted(PUBLIC.split())
    assert set(keepstep.__all__) <= set(dir(keepstep))


def test_every_public_name_has_a_home_that_has_it() -> None:
    homes = keepstep._HOMES  # pyright: ignore[reportPrivateUsage]
    named = [name for names in homes.values() for name in names]
    assert sorted([*named, "open_run", "transformers"]) == sorted(PUBLIC.split())
    for module, names in homes.items():
        for name in names:
            assert _leads_somewhere(module, name), f"{module} has no {name}"
            if not module.startswith(WITH_TORCH):
                assert getattr(keepstep, name) is getattr(import_module(module), name)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = keepstep.Nothing


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    (block,) = (node for node in _body("keepstep") if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node))
    homes = keepstep._HOME_OF  # pyright: ignore[reportPrivateUsage]
    assert _imported(block.body) == {**homes, "transformers": "keepstep"}


LAZY = [face for face in FACES if "handing_on" in ast.unparse(ast.Module(_body(f"keepstep.{face}"), []))]


@pytest.mark.parametrize("face", LAZY)
def test_a_lazy_face_has_each_name_from_where_type_checkers_see_it(face: str) -> None:
    module = f"keepstep.{face}"
    body = _body(module)
    (block,) = (node for node in body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node))
    homes = import_module(module)._HOMES
    assert {name: f"{module}.{home}" for home, names in homes.items() for name in names} == _imported(block.body)
    assert sorted(_handed_on(body)) == sorted(_imported(block.body))
    for name, home in _imported(block.body).items():
        kept = next(a.name for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names
                    if (a.asname or a.name) == name)  # fmt: skip
        assert getattr(import_module(module), name) is getattr(import_module(home), kept)
    assert set(_handed_on(body)) <= set(dir(import_module(module)))
    with pytest.raises(AttributeError, match="Nothing"):
        _ = import_module(module).Nothing


@pytest.mark.parametrize("face", FACES)
def test_a_face_hands_on_these_names_and_no_others(face: str) -> None:
    module = f"keepstep.{face}"
    names = _handed_on(_body(module))
    assert sorted(names) == sorted(FACES[face].split())
    assert [name for name in names if not _leads_somewhere(module, name)] == []


def test_every_face_is_listed_here() -> None:
    rooms = {path.parent.relative_to(HOME).as_posix().replace("/", ".") for path in HOME.rglob("*/__init__.py")}
    assert {room for room in rooms if _handed_on(_body(f"keepstep.{room}"))} <= FACES.keys()
    contracts = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    guarded = {name for one in contracts if one["type"] == "protected" for name in one["protected_modules"]}
    assert guarded <= {f"keepstep.{face}.*" for face in FACES}


def _modules_after(code: str) -> set[str]:
    report = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert _modules_after("import keepstep").isdisjoint(HEAVY)


def test_names_without_a_trainer_import_no_torch() -> None:
    light = sorted(set(PUBLIC.split()) - {"attach", "export", "transformers"})
    modules = _modules_after(f"from keepstep import {', '.join(light)}")
    assert "msgspec" in modules
    assert modules.isdisjoint({"torch", "transformers", "numpy"})
