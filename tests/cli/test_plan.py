"""Tests of `keepstep plan`: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.conftest import Call

NUMBERS = ["--params", "13B", "--optimizer", "adamw"]
SCHEDULE = ["--steps", "10000", "--save-every", "500", "--eval-every", "500", "--limit", "3"]


def _llama(directory: Path) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
        "tie_word_embeddings": False,
    }  # fmt: skip
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _parameters_by_hand() -> int:
    layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128 + 2 * 64
    return 2 * 500 * 64 + 2 * layer + 64


def test_numbers_say_bytes_disk_time_and_interval(call: Call) -> None:
    timed = ["--bandwidth", "2GB/s", "--mtbf", "8h", "--step-time", "2.5s"]
    shown = call("plan", *NUMBERS, *SCHEDULE, *timed).stdout
    assert "total      78.0 GB" in shown
    assert "rule of thumb" in shown
    assert "the best 3 by eval_loss (lower is better), plus the newest: at most 4 checkpoints, 312 GB." in shown
    assert "20 saves: 1.6 TB written in all." in shown
    assert "One save takes 39 s to be durable at 2.0 GB/s." in shown
    assert "Young 1974" in shown and "Daly 2006" in shown


def test_json_has_bytes_and_seconds(call: Call) -> None:
    options = ["--bandwidth", "1GB", "--mtbf", "8h", "--step-time", "2s", "--restart-time", "5min", "--grace", "2min"]
    found = json.loads(call("plan", *NUMBERS, *SCHEDULE, *options, "--format", "json").stdout)
    total = found["checkpoint_bytes"]["total"]
    assert found["disk"]["kept_bytes"] == 4 * total
    assert found["disk"]["peak_bytes"] == 6 * total
    assert found["disk"]["written_bytes"] == 20 * total
    assert found["write_seconds"] == pytest.approx(total / 1e9)
    assert found["interval"]["scheduled"]["seconds"] == 1000
    assert found["interval"]["restart"] == 300
    assert found["grace"]["enough"] and not found["grace"]["always_enough"]


def test_options_change_the_figures(call: Call) -> None:
    def total(*options: str) -> int:
        return json.loads(call("plan", "--params", "1B", *options, "--format", "json").stdout)["checkpoint_bytes"][
            "total"
        ]

    plain = total()
    assert total("--dtype", "fp32") == pytest.approx(2 * plain, rel=0.01)
    assert total("--master-weights", "fp32") == pytest.approx(14e9, rel=0.01)
    assert total("--optimizer", "adamw-8bit") < total("--optimizer", "lion") < total("--optimizer", "paged-adamw")
    assert total("--weights-only") == pytest.approx(2e9, rel=0.01)
    assert total("--lora-r", "16") > total("--lora-r", "16", "--qlora") > 0
    assert total("--lora-r", "16", "--lora-target", "all-linear") > total("--lora-r", "16")
    assert total("--world-size", "8") > plain


def test_a_disk_that_is_too_small_is_exit_code_1(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = "keepstep.operations.planning.disk.shutil.disk_usage"
    monkeypatch.setattr(free, lambda _: SimpleNamespace(free=100 * 10**9))
    result = call("plan", *NUMBERS, *SCHEDULE, "--disk", tmp_path / "not" / "yet")
    assert result.exit_code == 1
    assert "does not fit: 368 GB are missing" in result.stdout
    monkeypatch.setattr(free, lambda _: SimpleNamespace(free=10**15))
    result = call("plan", *NUMBERS, *SCHEDULE, "--disk", tmp_path)
    assert result.exit_code == 0
    assert "The peak of 468 GB fits" in result.stdout


@pytest.mark.parametrize(
    ("grace", "code", "part"),
    [("30s", 1, "too short to save"), ("45s", 0, "only while no other save"), ("90s", 0, "is long enough:")],
)
def test_the_grace_period(call: Call, grace: str, code: int, part: str) -> None:
    result = call("plan", *NUMBERS, "--bandwidth", "2GB/s", "--step-time", "2s", "--grace", grace)
    assert result.exit_code == code
    assert part in result.stdout


def test_a_probe_is_a_real_write(call: Call, tmp_path: Path) -> None:
    result = call("plan", "--params", "1M", "--probe", tmp_path, "--probe-size", "1MB")
    assert "One save takes" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_model_directory_is_exact(call: Call, tmp_path: Path) -> None:
    for source in (_llama(tmp_path / "m"), tmp_path / "m" / "config.json"):
        found = json.loads(call("plan", source, "--dtype", "fp32", "--format", "json").stdout)
        assert found["model"]["exact"]
        assert found["model"]["parameters"] == _parameters_by_hand()
        header = found["checkpoint_bytes"]["weights"] - 4 * _parameters_by_hand()
        assert 0 < header < 4000


def test_lora_takes_the_targets_that_peft_chooses(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    shown = json.loads(call("plan", _llama(tmp_path / "m"), "--lora-r", "8", "--format", "json").stdout)
    assert shown["model"]["trained_parameters"] == 2 * 8 * ((64 + 64) + (64 + 32))
    wrong = call("plan", tmp_path / "m", "--lora-r", "8", "--lora-target", "nothing_like_it")
    assert wrong.exit_code == 2
    assert "this LoRA does not fit the model" in wrong.stderr


YAML = """
model_name_or_path: {model}
dtype: bfloat16
optim: adamw_torch_fused
max_steps: 1000
save_steps: 0.1
eval_strategy: steps
eval_steps: 100
save_total_limit: 2
metric_for_best_model: eval_loss
output_dir: {model}/out
"""


def test_a_training_file_of_trl(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text(YAML.format(model=_llama(tmp_path / "m")))
    found = json.loads(call("plan", file, "--format", "json").stdout)
    assert found["disk"]["policy"] == "best:2:full,latest:1"
    assert (found["disk"]["saves"], found["disk"]["kept"]) == (10, 3)
    assert found["disk"]["free_bytes"] > 0
    assert found["checkpoint_bytes"]["optimizer"] == pytest.approx(4 * _parameters_by_hand(), rel=0.1)
    overridden = json.loads(call("plan", file, "--save-every", "50", "--limit", "1", "--format", "json").stdout)
    assert (overridden["disk"]["saves"], overridden["disk"]["kept"]) == (20, 2)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("a: [1\n", "it is no YAML"),
        ("!!python/object/apply:os.system ['true']\n", "it is no YAML"),
        ("save_steps: 5\n", "names no model"),
        ("model_name_or_path: m\nsave_steps: many\n", "save_steps is 'many'"),
        ("model_name_or_path: m\nsave_steps: 1.5\nmax_steps: 10\n", "save_steps is 1.5"),
        ("model_name_or_path: m\nsave_steps: -5\nmax_steps: 10\n", "save_steps is -5"),
        ("model_name_or_path: m\nsave_strategy: sometimes\n", "one of no, steps"),
        ("model_name_or_path: m\n", "counts epochs"),
        ("model_name_or_path: m\nsave_strategy: epoch\nmax_steps: 10\n", "saves by epoch"),
        ("model_name_or_path: [1]\n", "not a text"),
        ("model_name_or_path: m\nuse_peft: maybe\n", "true or false"),
        ("model_name_or_path: m\noptim: unheard_of\nmax_steps: 10\n", "is not known"),
        ("model_name_or_path: m\nlora_target_modules: {a: 1}\n", "a list of names"),
        ("model_name_or_path: m\nmax_steps: .inf\n", "max_steps"),
    ],
)
def test_training_files_that_make_no_sense(call: Call, tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "sft.yml").write_text(text)
    result = call("plan", tmp_path / "sft.yml")
    assert result.exit_code == 2
    assert part in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("config.json", "{", "can't be read"),
        ("config.json", "[]", "can't be read"),
        ("config.json", "{}", "can't be read"),
        ("config.json", '{"model_type": "no-such-model"}', "can't be read"),
        ("other.txt", "", "has no config.json"),
    ],
)
def test_models_that_are_none(call: Call, tmp_path: Path, name: str, content: str, part: str) -> None:
    (tmp_path / name).write_text(content)
    result = call("plan", tmp_path)
    assert result.exit_code == 2
    assert part in result.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--params"),
        (["nowhere.yaml"], "No such file"),
        (["nowhere"], "neither here nor in the hub's cache"),
        (["model", "--params", "1B"], "one of them"),
        (["--params", "13"], "a bare number is not"),
        (["--params", "0B"], "zero"),
        (["--params", "-13B"], "is not a number of parameters"),
        (["--params", "999999999T"], "more than anybody trains"),
        ([*NUMBERS, "--optimizer", "adamz"], "Did you mean 'adamw'?"),
        ([*NUMBERS, "--dtype", "int4"], "no dtype 'int4'"),
        ([*NUMBERS, "--lora-target", "q_proj"], "needs --lora-r"),
        ([*NUMBERS, "--qlora"], "needs --lora-r"),
        ([*NUMBERS, "--lora-r", "0"], "not in the range"),
        ([*NUMBERS, "--bandwidth", "200"], "a bare number is not a size"),
        ([*NUMBERS, "--bandwidth", "1GB", "--probe", "."], "give one"),
        ([*NUMBERS, "--probe", "./nowhere"], "no directory to probe"),
        ([*NUMBERS, "--probe-size", "1GB"], "needs --probe"),
        ([*NUMBERS, "--mtbf", "8h"], "--mtbf needs"),
        ([*NUMBERS, "--save-cost", "1s"], "need --mtbf"),
        ([*NUMBERS, "--grace", "30s"], "--grace needs"),
        ([*NUMBERS, "--limit", "3"], "need --save-every"),
        ([*NUMBERS, "--save-every", "3"], "needs --steps"),
        ([*NUMBERS, *SCHEDULE, "--keep", "latest:1"], "give one"),
        ([*NUMBERS, "--steps", "100", "--save-every", "10", "--keep", "best:2"], "add --eval-every"),
        ([*NUMBERS, "--steps", "100", "--save-every", "10", "--keep", "bets:2"], "Did you mean 'best'?"),
        ([*NUMBERS, "--steps", "100", "--save-every", "10", "--keep", "daily:2"], "how long a step takes"),
        ([*NUMBERS, "--steps", "100000", "--save-every", "1"], "make the interval longer"),
    ],
)
def test_wrong_usage_is_2(call: Call, arguments: list[str], part: str) -> None:
    result = call("plan", *arguments)
    assert result.exit_code == 2
    assert part in result.stderr


def test_missing_libraries_are_named(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.integrations.transformers.exporting.blueprint.find_spec", lambda _: None)
    result = call("plan", _llama(tmp_path / "m"), "--lora-r", "8")
    assert result.exit_code == 2
    assert "needs torch, transformers, peft" in result.stderr
    assert 'pip install "keepstep[hf]" peft. Or' in result.stderr and "keepstep plan --params 7B" in result.stderr


ADAPTED = YAML + "use_peft: true\nlora_r: 8\nlora_target_modules: [q_proj, down_proj]\n"


def _sft(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sft.yaml"
    file.write_text(text.format(model=_llama(tmp_path / "m")))
    return file


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_has_the_bytes_that_peft_writes(call: Call, tmp_path: Path, dora: bool) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    file = _sft(tmp_path, ADAPTED + f"use_dora: {str(dora).lower()}\n")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "m"))
    settings = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "down_proj"], use_dora=dora)
    get_peft_model(model, settings).save_pretrained(tmp_path / "real")

    found = json.loads(call("plan", file, "--format", "json").stdout)

    real = (tmp_path / "real" / "adapter_model.safetensors").stat().st_size
    assert found["checkpoint_bytes"]["weights"] == real
    assert ("DoRA" in found["model"]["description"]) == dora


def test_a_setting_that_nobody_reads_is_said(call: Call, tmp_path: Path) -> None:
    known = "packing: true\nbeta: 0.1\ndataset_name: a/b\nlearning_rate: 1.0e-4\nload_in_4bit: false\n"
    quiet = call("plan", _sft(tmp_path, YAML + known))
    assert quiet.stderr == ""

    shown = call("plan", _sft(tmp_path, YAML + known + "save_step: 7\nzzqx: 1\n"), "--format", "json")

    assert "save_step is no setting of transformers or TRL; is it save_steps?" in shown.stderr
    assert [note.partition(": ")[2] for note in json.loads(shown.stdout)["notes"]] == [
        "save_step is no setting of transformers or TRL; is it save_steps?",
        "zzqx is no setting of transformers or TRL",
    ]


def test_qlora_by_option_over_the_adapter_of_a_file(call: Call, tmp_path: Path) -> None:
    file = _sft(tmp_path, ADAPTED)
    plain, quantized = (
        json.loads(call("plan", file, *more, "--format", "json").stdout)["checkpoint_bytes"]["weights"]
        for more in ((), ("--qlora",))
    )
    assert quantized < plain < 2 * quantized + 10_000


@pytest.mark.parametrize(
    ("text", "options", "part"),
    [
        (YAML + "load_in_4bit: true\n", [], "a quantized model can't be trained in full"),
        (YAML, ["--qlora"], "a quantized model can't be trained in full"),
        (YAML, ["--lora-target", "q_proj"], "trains no LoRA"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Call, tmp_path: Path, text: str, options: list[str], part: str) -> None:
    result = call("plan", _sft(tmp_path, text), *options)
    assert result.exit_code == 2
    assert part in result.stderr


def test_what_is_thinned_counts_its_weights(call: Call) -> None:
    found = json.loads(call("plan", *NUMBERS, *SCHEDULE[:-2], "--keep", "best:3,latest:2", "--format", "json").stdout)
    size, disk = found["checkpoint_bytes"], found["disk"]
    assert (disk["kept"], disk["kept_thinned"]) == (5, 3)
    assert disk["kept_bytes"] == 2 * size["total"] + 3 * (size["weights"] + size["other"])
    shown = call("plan", *NUMBERS, *SCHEDULE[:-2], "--keep", "best:3,latest:2").stdout
    assert "at most 5 checkpoints, 3 of them thinned to weights" in shown
