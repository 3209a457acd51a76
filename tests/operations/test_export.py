"""What an export is planned to be, where it may go, and what is said of it: without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.errors import CheckpointCorrupt, DiskFull, SettingsError
from keepstep.formats.safetensors_header import tensors_in
from keepstep.model import Kind
from keepstep.operations.adopting import adopt, plan_adoption
from keepstep.operations.export.card import card
from keepstep.operations.export.choosing import verify
from keepstep.operations.export.configs import adjust, is_local
from keepstep.operations.export.copying import copy_files
from keepstep.operations.export.errors import ExportRefused, Unreadable
from keepstep.operations.export.facts import command_of
from keepstep.operations.export.files import model_files
from keepstep.operations.export.marker import read_marker, seal, write_marker
from keepstep.operations.export.plan import plan_export
from keepstep.operations.export.report import Check, Export
from keepstep.operations.export.request import Request
from keepstep.operations.export.target import Target
from keepstep.run import Run, open_run
from keepstep.units import parse_size
from tests.operations.runs import training
from tests.stock.written import checkpoint


def weights(dtype: str = "F32", elements: int = 4) -> bytes:
    """A safetensors file of one tensor."""
    size = elements * {"F32": 4, "BF16": 2}[dtype]
    header = json.dumps({"w": {"dtype": dtype, "shape": [elements], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def _save(path: Path, files: dict[str, bytes], step: int = 10, **facts: object) -> Run:
    def write(directory: Path) -> None:
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)

    with training(path) as checkpointer:
        checkpointer.save(Facts(step, metrics={"eval_loss": 0.5}, **facts), write)  # type: ignore[arg-type]
    return Run.open(path)


MODEL = {"config.json": b"{}", "model.safetensors": weights(), "optimizer.pt": b"o"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return _save(tmp_path / "run", MODEL)


# -- which files --------------------------------------------------------------------------------------------------


def test_model_files_are_told_from_those_of_the_training(tmp_path: Path) -> None:
    model = (
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
        *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
        *(
            "additional_chat_templates/tool_use.jinja",
            "preprocessor_config.json",
            "processor_config.json",
            "spiece.model",
        ),
        *("modeling_mine.py", "model.safetensors", "1_Pooling/config.json", "modules.json", "second/model.safetensors"),
    )
    training_files = (
        *("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "training_args.bin", "scaler.pt"),
        *("keepstep_state.json", "README.md", "notes.txt", "value_head.bin", "global_step5/zero.pt", "secrets.env"),
    )
    run = _save(tmp_path / "run", dict.fromkeys((*model, *training_files), weights()))
    found = model_files(run.find(10))
    assert {entry.path for entry in found.copied} == set(model)
    assert set(found.left) == set(training_files)
    assert found.left["optimizer.pt"] == "of the training"
    assert found.left["notes.txt"] == "not known as a file of a model"
    assert "notes.txt" in {entry.path for entry in model_files(run.find(10), ["notes.*"]).others}
    with pytest.raises(ExportRefused, match="has no file called nothing"):
        model_files(run.find(10), ["nothing"])


def test_what_others_put_there_stays_behind_and_is_said(run: Run, tmp_path: Path) -> None:
    directory = run.path / "checkpoint-10"
    (directory / "ema.safetensors").write_bytes(weights())
    (directory / "tokenizer.json").write_text("{}")
    with run.writing():
        run.seal(run.find(10), by=("Ema",))
    (directory / "late.pt").write_bytes(b"never sealed")
    plan = plan_export(run, Request(directory=tmp_path / "out", reference=10))
    assert {entry.path for entry in plan.files.copied} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert {path: why for path, why in plan.left.items() if "others" in why} == {
        "ema.safetensors": "of others, and no loader reads it",
        "late.pt": "of others, and no loader reads it",
    }
    found = model_files(run.find(10), ["ema.*"])
    assert "ema.safetensors" in {entry.path for entry in found.others}
    assert [entry.path for entry in found.weights] == ["model.safetensors"]


def test_what_only_a_resume_needs_may_be_gone_and_not_damaged(run: Run) -> None:
    (run.path / "checkpoint-10" / "optimizer.pt").unlink()
    found = run.find(10)
    verify(run, (found,), [model_files(found).read])
    (run.path / "checkpoint-10" / "optimizer.pt").write_bytes(b"cut")
    with pytest.raises(CheckpointCorrupt, match=r"optimizer\.pt .*Nothing was exported"):
        verify(run, (found,), [model_files(found).read])


def test_what_is_exported_is_read_and_the_rest_is_looked_at(run: Run) -> None:
    found, read = run.find(10), list[int]()
    verify(run, (found,), [model_files(found).read], on_bytes=read.append)
    assert sum(read) == sum(len(MODEL[name]) for name in ("config.json", "model.safetensors"))
    assert not run.events.verified()
    verify(run, (found,), [found.files])
    assert set(run.events.verified()) == {found.generation}


def test_a_changed_config_is_not_exported_and_the_way_out_is_named(run: Run) -> None:
    (run.path / "checkpoint-10" / "config.json").write_bytes(b"[]")
    found = run.find(10)
    with pytest.raises(CheckpointCorrupt, match=r"config\.json") as raised:
        verify(run, (found,), [model_files(found).read])
    assert f"keepstep reseal {run.path} 10" in raised.value.hint


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"config.json": b"{}"}, "no weights that can be exported"),
        ({"config.json": b"{}", "a/model.safetensors": b""}, r"in subdirectories \(a/model.safetensors\)"),
        ({"model.safetensors": weights()}, "weights but no config.json"),
        ({"adapter_model.safetensors": weights()}, "no adapter_config.json"),
        ({"config.json": b"{}", "model.safetensors": b"not one"}, "is no safetensors file|has a header"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "adapter in a file of torch.save"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    run = _save(tmp_path / "run", files)
    with pytest.raises(ExportRefused, match=why):
        plan_export(run, Request(directory=tmp_path / "out", reference=10))


def test_a_plan_counts_bytes_and_reads_no_weights(run: Run, tmp_path: Path) -> None:
    plan = plan_export(run, Request(directory=tmp_path / "out", reference="best", dtype="bf16"))
    assert plan.bytes_written == 2 + 4 * 2 + 64 * 1024
    assert not plan.copies
    shown = plan.to_json()
    assert (shown["kind"], shown["steps"], shown["weights"]) == ("model", [10], "written anew")
    assert json.loads(json.dumps(shown))["left_out"] == {"optimizer.pt": "of the training"}
    assert not (tmp_path / "out").exists()
    assert tensors_in(run.path / "checkpoint-10" / "model.safetensors")["w"].elements == 4


def test_more_than_the_disk_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _save(tmp_path / "run", MODEL)
    monkeypatch.setattr("keepstep.operations.export.target.MARGIN", 10**19)
    with pytest.raises(DiskFull, match=r"takes .* and .* are free there"):
        plan_export(run, Request(directory=tmp_path / "a" / "b" / "out", reference=10))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "nothing to export"),
        ({"reference": 1, "dtype": "int8"}, "dtype is 'int8'"),
        ({"reference": 1, "soup": "greedy"}, "made of several"),
        ({"average": "best:3", "soup": "greedy"}, "needs something to measure by"),
        ({"reference": 1, "eval_data": Path("x")}, "only an average is evaluated"),
        ({"average": "best:3", "eval_data": Path("x"), "evaluate": float}, "two ways to say one thing"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Request(directory=Path("out"), **options)  # type: ignore[arg-type]


# -- where to -----------------------------------------------------------------------------------------------------


def _publish(directory: Path, files: dict[str, str], *, force: bool = False) -> None:
    target = Target.of(directory, directory.parent / "run", force=force)
    with target.staged() as staging:
        for name, text in files.items():
            (staging / name).write_text(text)
        write_marker(staging, {"facts": 1}, seal(staging, sorted(files)))


def _rename_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.operations.export.target.exchange_names", lambda one, other: False)


@pytest.mark.parametrize("before", [lambda m: None, _rename_alone])
def test_force_replaces_an_export_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Callable[[pytest.MonkeyPatch], None]
) -> None:
    before(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    _publish(out, {"a": "1", "b": "2"})
    with pytest.raises(ExportRefused, match="is not empty"):
        _publish(out, {"a": "3"})
    _publish(out, {"a": "3"}, force=True)
    assert sorted(path.name for path in out.iterdir()) == ["a", "keepstep_export.json"]
    assert (out / "a").read_text() == "3"
    (out / "mine").write_text("keep me")
    with pytest.raises(ExportRefused, match="did not write: mine"):
        _publish(out, {"a": "4"}, force=True)
    (out / "mine").unlink()
    (out / "a").write_text("4")
    with pytest.raises(ExportRefused, match="did not write: a"):
        _publish(out, {"a": "5"}, force=True)
    (out / "keepstep_export.json").write_text("[" * 100_000)
    assert read_marker(out) is None
    with pytest.raises(ExportRefused, match="no export of keepstep made it"):
        _publish(out, {"a": "5"}, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_what_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    _publish(tmp_path / "out", {"a": "1"})

    def fail() -> None:
        with Target.of(tmp_path / "out", tmp_path / "run", force=True).staged() as staging:
            (staging / "half").write_text("")
            raise error

    with pytest.raises((KeyboardInterrupt, ValueError, OSError)):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_a_directory_that_filled_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def race() -> None:
        with Target.of(tmp_path / "out", tmp_path / "run", force=False).staged():
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("")

    with pytest.raises(OSError, match="out"):
        race()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "theirs"]


def test_places_of_the_run_are_refused(run: Run, tmp_path: Path) -> None:
    for place in (run.path, run.path.parent, run.path / "checkpoint-30", run.path / ".keepstep" / "x"):
        with pytest.raises(SettingsError):
            Target.of(place, run.path, force=True)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ExportRefused, match="is a file"):
        Target.of(file, run.path, force=True)
    assert Target.of(run.path / "release", run.path, force=False).path == run.path / "release"


@pytest.mark.parametrize("refused", [False, True])
def test_copies_are_read_back_and_share_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    if refused:

        def unsupported(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", unsupported)
    source, counted = run.path / "checkpoint-10", []
    entries = run.find(10).files
    (tmp_path / "out").mkdir()
    copy_files(source, entries, tmp_path / "out", counted.append)
    assert sum(counted) == sum(entry.size for entry in entries)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").stat().st_nlink == 1


# -- what is said -------------------------------------------------------------------------------------------------


def test_paths_of_the_machine_leave_the_configs(tmp_path: Path) -> None:
    config = {"_name_or_path": "/home/me/models/x", "dtype": "float32", "text_config": {"torch_dtype": "float32"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/models/x", "r": 4}')
    notes = adjust(tmp_path, dtype="bfloat16", base_name=None)
    wanted = {"dtype": "bfloat16", "text_config": {"torch_dtype": "bfloat16"}}
    assert json.loads((tmp_path / "config.json").read_text()) == wanted
    assert len(notes) == 1 and "--base-name" in notes[0]
    assert adjust(tmp_path, dtype=None, base_name="me/x") == []
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/x"
    assert [is_local(name) for name in ("gpt2", "me/x", "./x", "~/x", "/x", "a/b/c", "", None)] == [
        False, False, True, True, True, True, False, False
    ]  # fmt: skip


def test_how_a_tokenizer_was_loaded_leaves_its_config(tmp_path: Path) -> None:
    config = {"is_local": True, "local_files_only": True, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    adjust(tmp_path, dtype=None, base_name=None)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"eos_token": "</s>"}


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("20MB", "20MB"), ("20MiB", "20MiB"), ("1.5GiB", "1536MiB"), ("5GB", "5GB"), ("0.01MB", "0.01MB"),
        ("0.5MiB", "0.524288MB"),
    ],
)  # fmt: skip
def test_the_command_on_a_card_asks_for_the_same_size(run: Run, tmp_path: Path, size: str, said: str) -> None:
    asked = Request(directory=tmp_path / "out", reference=10, max_shard_size=parse_size(size))
    command = command_of(plan_export(run, asked))
    assert command.endswith(f"--max-shard-size {said}")
    assert parse_size(command.split()[-1]) == asked.max_shard_size


def test_a_merge_leaves_the_adapter_s_config_behind(tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights(), "tokenizer.json": b"{}"}
    run = _save(tmp_path / "run", files)
    merged = plan_export(run, Request(directory=tmp_path / "out", reference=10, merge=True)).to_json()
    kept = plan_export(run, Request(directory=tmp_path / "out", reference=10)).to_json()
    assert ["adapter_config.json" in {f["path"] for f in plan["files"]} for plan in (merged, kept)] == [False, True]
    assert merged["left_out"] == {"adapter_config.json": "of the adapter; the merged model has a config.json"}


def test_a_card_tells_how_to_load_it_and_what_it_comes_from(tmp_path: Path) -> None:
    run = _save(tmp_path / "run", {**MODEL, "tokenizer.json": b"{}"})
    plan = plan_export(run, Request(directory=tmp_path / "out", reference=10, base_name="me/base"))
    check = Check("LlamaForCausalLM", 1, "equal")
    text = card(plan, Export(tmp_path, plan.members, (), "model", "float32", 4, check, None))
    assert 'model = LlamaForCausalLM.from_pretrained("DIR_OR_REPOSITORY")' in text
    assert "import AutoTokenizer" in text
    assert 'base_model: "me/base"' in text and "base_model_relation: finetune" in text
    adapter = replace(check, loaded_by="PeftModelForCausalLM")
    text = card(plan, Export(tmp_path, plan.members, (), "adapter", "float32", 4, adapter, None))
    assert "from peft import AutoPeftModelForCausalLM" in text
    assert "## Use" not in card(plan, Export(tmp_path, plan.members, (), "model", "float32", 4, None, None))


def test_a_card_is_not_written_by_the_checkpoint(tmp_path: Path) -> None:
    hostile = {"torch": "2.0\n---\n<script>x</script>", "user": "nobody-should-see-this"}
    run = _save(tmp_path / "run", {**MODEL, "a]\x1b[31m.txt": b""}, kind=Kind.FULL, written_by=hostile)
    plan = plan_export(run, Request(directory=tmp_path / "out", reference=10))
    left = tuple(plan.files.left)
    text = card(plan, Export(tmp_path, plan.members, (), "model", "float32", 4, None, None, (), left))
    assert text.count("\n---\n") == 1
    assert "<script>" not in text and "\x1b" not in text and "nobody-should-see-this" not in text


def test_nothing_of_it_imports_torch(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from keepstep.cli.main import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, "export", str(run.path), "10", str(tmp_path / "out"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "transformers", "numpy", "huggingface_hub", "peft"} & set(done.stdout.splitlines()[-1].split())
    assert "model of step 10 would be written" in done.stdout


@pytest.mark.parametrize("inside", ["checkpoint-10/release", "checkpoint-900/release", "weights-10/a/b"])
def test_no_export_goes_into_a_checkpoint(run: Run, inside: str) -> None:
    with pytest.raises(SettingsError, match="place of the run's own"):
        Target.of(run.path / inside, run.path, force=True)


def test_no_export_goes_into_another_run_s_checkpoint(run: Run, tmp_path: Path) -> None:
    other = _save(tmp_path / "other", MODEL)
    with pytest.raises(SettingsError, match="place of the run's own"):
        Target.of(other.path / "checkpoint-10" / "release", run.path, force=False)


def test_a_mount_point_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="mount point") as error:
        Target.of(Path("/proc"), tmp_path / "run", force=False)
    assert "/proc/model" in error.value.hint


def test_no_pattern_takes_the_weights_away(tmp_path: Path) -> None:
    run = _save(tmp_path / "run", MODEL | {"notes.txt": b"n"})
    found = model_files(run.checkpoints[0], ["*"])
    assert [entry.path for entry in found.weights] == ["model.safetensors"]
    assert {"notes.txt", "optimizer.pt"} <= {entry.path for entry in found.others}


def test_a_base_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n")
    adapter = {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": weights()}
    run = _save(tmp_path / "run", adapter)
    with pytest.raises(ExportRefused, match=r"base/model\.safetensors") as error:
        plan_export(run, Request(directory=tmp_path / "out", reference=10, merge=True, base=str(base)))
    assert "git lfs pull" in error.value.hint


def test_a_marker_with_a_size_that_is_none_is_no_marker(tmp_path: Path) -> None:
    (tmp_path / "keepstep_export.json").write_text('{"files": [{"path": "a", "size_bytes": Infinity, "digest": ""}]}')
    assert read_marker(tmp_path) is None


def test_an_export_of_the_best_says_that_a_better_one_does_not_hold(tmp_path: Path) -> None:
    _save(tmp_path / "run", MODEL)
    run = _save(tmp_path / "run", MODEL, 20)
    run.record_metrics(run.find(20).generation, {"eval_loss": 0.9})
    (run.path / "checkpoint-10" / "model.safetensors").write_bytes(b"cut")
    run.note_verified(run.verify(run.find(10)))

    plan = plan_export(run, Request(directory=tmp_path / "out", reference="best"))

    said = "the best of those that hold: step 10 (0.5) ranks before by eval_loss, but was found damaged"
    assert (plan.source.step, plan.not_the_best) == (20, said)
    assert plan.to_json()["passed_over"] == [10]
    text = card(plan, Export(tmp_path, plan.members, (), "model", "float32", 4, None, None))
    assert f"This is {said.replace('_', chr(92) + '_')}." in text
    assert plan_export(run, Request(directory=tmp_path / "out", reference=20)).not_the_best == ""


def test_what_deepspeed_s_ranks_hold_is_refused_with_the_script_that_puts_it_together(tmp_path: Path) -> None:
    home = checkpoint(tmp_path / "run", 4, "deepspeed")
    with pytest.raises(ExportRefused, match="no weights that can be exported") as refused:
        plan_export(open_run(home.parent), Request(directory=tmp_path / "out", reference="latest"))
    assert "zero_to_fp32.py" in str(refused.value.hint) and "keepstep adopt" in str(refused.value.hint)


STATES = "global_step4/bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
MODELS = "global_step4/zero_pp_rank_{}_mp_rank_00_model_states.pt"


@pytest.mark.parametrize("lacking", [STATES.format(1), STATES.format(2), MODELS.format(0), MODELS.format(2)])
def test_a_rank_of_deepspeed_s_whose_file_is_missing_is_named(tmp_path: Path, lacking: str) -> None:
    def write(directory: Path) -> None:
        (directory / "global_step4").mkdir()
        for rank in range(3):
            for name in (STATES.format(rank), MODELS.format(rank)):
                (directory / name).write_bytes(b"x" * 100)
        (directory / "config.json").write_text("{}")
        (directory / lacking).unlink()

    with training(tmp_path / "run", "all") as checkpointer:
        checkpointer.save(Facts(4, written_by={"world_size": 3}), write)
    with pytest.raises(Unreadable, match=f"step 4 is incomplete: {lacking} is missing, which rank . of 3 wrote"):
        plan_export(open_run(tmp_path / "run"), Request(directory=tmp_path / "out", reference=4))


def test_what_deepspeed_s_ranks_wrote_under_a_manifest_is_read_and_nothing_else_of_it_goes_out(tmp_path: Path) -> None:
    home = checkpoint(tmp_path / "run", 4, "deepspeed")
    adopt(plan_adoption(home.parent))
    plan = plan_export(open_run(home.parent), Request(directory=tmp_path / "out", reference="latest"))
    assert plan.files.zero == "global_step4" and not plan.copies
    assert {entry.path for entry in plan.files.weights} == {
        "global_step4/mp_rank_00_model_states.pt", STATES.format(0).replace("bf16_", "")
    }  # fmt: skip
    assert [entry.path for entry in plan.others] == ["config.json"]
