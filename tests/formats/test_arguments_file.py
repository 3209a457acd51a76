"""`training_args.bin` as plain values: what the Trainer writes, and what a stranger may put in its place."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from keepstep.formats.arguments_file import (
    CLASS,
    DEEPER,
    HIDDEN,
    UnreadableArguments,
    is_secret,
    read_training_arguments,
    without_secrets,
)

PROTO = b"\x80\x02"
TOKEN = "hf_" + "a" * 30


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _zipped(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, names: tuple[str, ...] = ("a",)) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(f"{name}/data.pkl", data)
    return path


def _arguments(fields: bytes, module: bytes = b"__main__", name: bytes = b"MyArgs") -> bytes:
    """The pickle of an object with that state, as protocol 2 writes it."""
    return PROTO + b"c" + module + b"\n" + name + b"\n)\x81" + fields + b"b."


def _state(**values: Any) -> bytes:
    """The pickle of a dict, without its frame."""
    return pickle.dumps(values, protocol=2)[2:-1]


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._mark}",)


# -- what the Trainer writes --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("kind", ["TrainingArguments", "SFTConfig", "Mine"])
def test_what_the_trainer_writes_is_read(tmp_path: Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    import transformers
    import trl

    class Mine(transformers.TrainingArguments):
        pass

    Mine.__qualname__, Mine.__module__ = "Mine", __name__
    globals()["Mine"] = Mine
    make = {"SFTConfig": trl.SFTConfig, "Mine": Mine}.get(kind, transformers.TrainingArguments)
    args = make(
        str(tmp_path / "out"), report_to="none", use_cpu=True, bf16=False, save_steps=50, eval_strategy="steps",
        eval_steps=25, save_total_limit=3, hub_token=TOKEN, load_best_model_at_end=True,
    )  # fmt: skip
    torch.save(args, tmp_path / "training_args.bin")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(args))

    for name in ("training_args.bin", "bare.bin"):
        read = read_training_arguments(tmp_path / name)
        assert read[CLASS].endswith(kind)
        assert {key: read[key] for key in ("save_steps", "eval_steps", "save_total_limit", "seed")} == {
            "save_steps": 50, "eval_steps": 25, "save_total_limit": 3, "seed": 42,
        }  # fmt: skip
        assert (read["eval_strategy"], read["load_best_model_at_end"]) == ("steps", True)
        assert (read["output_dir"], read["metric_for_best_model"]) == (str(tmp_path / "out"), "loss")
        assert read["accelerator_config"]["split_batches"] is False
        assert read["hub_token"] == HIDDEN
        assert TOKEN not in json.dumps(read, allow_nan=False)
        assert not any(key.startswith("_") for key in read if key != CLASS)


def test_torch_is_not_needed(tmp_path: Path) -> None:
    path = _written(tmp_path / "training_args.bin", _arguments(_state(save_steps=5)))
    code = (
        "import sys; from keepstep.formats.arguments_file import read_training_arguments as r; "
        f"print(r({str(path)!r})['save_steps'], 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "5 False False\n"
    )


def test_a_class_that_nobody_has_is_read_by_its_name(tmp_path: Path) -> None:
    read = read_training_arguments(_written(tmp_path / "a.bin", _arguments(_state(save_steps=5, mine="x"))))
    assert read == {CLASS: "__main__.MyArgs", "save_steps": 5, "mine": "x"}


def test_members_of_enumerations_in_all_their_forms(tmp_path: Path) -> None:
    by_value = b"ctransformers.trainer_utils\nIntervalStrategy\nX\x05\x00\x00\x00steps\x85R"
    by_name = b"cbuiltins\ngetattr\nctransformers.trainer_utils\nIntervalStrategy\nX\x05\x00\x00\x00EPOCH\x86R"
    fields = b"}(X\x01\x00\x00\x00a" + by_value + b"X\x01\x00\x00\x00b" + by_name + b"u"
    read = read_training_arguments(_written(tmp_path / "a.bin", _arguments(fields)))
    assert (read["a"], read["b"]) == ("steps", "epoch")


# -- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("hub_token", True), ("push_to_hub_token", True), ("wandb_api_key", True), ("password", True), ("token", True),
        ("client_secret", True), ("pad_token", False), ("eos_token", False), ("output_dir", False),
        ("average_tokens_across_devices", False), ("label_names", False),
    ],
)  # fmt: skip
def test_what_is_a_secret_by_its_name(name: str, *, secret: bool) -> None:
    assert is_secret(name) is secret


def test_secrets_are_hidden_wherever_they_stand(tmp_path: Path) -> None:
    deep = {"model_init_kwargs": {"token": "mine", "url": "https://me:pass@host/x"}, "tags": [TOKEN], "hub_token": None}
    read = read_training_arguments(_written(tmp_path / "a.bin", _arguments(_state(**deep))))
    assert read["model_init_kwargs"] == {"token": HIDDEN, "url": f"https://{HIDDEN}@host/x"}
    assert (read["tags"], read["hub_token"]) == ([HIDDEN], None)
    assert without_secrets(f"--hub_token {TOKEN}") == f"--hub_token {HIDDEN}"


# -- what a stranger may put there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "bare", "inside"])
def test_nothing_is_run(tmp_path: Path, form: str) -> None:
    mark = tmp_path / "ran"
    evil = Evil(mark)
    value: Any = {"save_steps": 1, "x": evil} if form != "bare" else evil
    data = pickle.dumps(value)
    path = _zipped(tmp_path / "a.bin", data) if form == "zip" else _written(tmp_path / "a.bin", data)

    if form == "bare":
        with pytest.raises(UnreadableArguments, match="holds no training arguments"):
            read_training_arguments(path)
    else:
        read = read_training_arguments(path)
        assert read["x"] == {CLASS: f"{os.system.__module__}.system"}
        assert "touch" not in json.dumps(read)
    assert not mark.exists()


def test_a_call_with_one_argument_is_no_value(tmp_path: Path) -> None:
    fields = b"}X\x01\x00\x00\x00acos\nsystem\nX\x04\x00\x00\x00true\x85Rs"
    assert read_training_arguments(_written(tmp_path / "a.bin", _arguments(fields)))["a"] == {CLASS: "os.system"}


SHARED = PROTO + b"K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(30))
TEXT = b"X" + struct.pack("<I", 900_000) + b"a" * 900_000
HOSTILE = {
    "deeply nested": b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b".",
    "nested under the limit": b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".",
    "a length that lies": b"\x80\x02X\xff\xff\xff\x7f" + b"a" * 100 + b".",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "only a stop": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "nothing in the memo": b"\x80\x02h\x05.",
    "no instruction": b"\x80\x02\xff.",
    "an extension": b"\x80\x02\x82\x01.",
    "too large": b"\x80\x02" + b"X" + struct.pack("<I", 3_000_000) + b"a" * 3_000_000 + b".",
    "a number without end": b"\x80\x02I" + b"9" * 100_000 + b"\n.",
    "text": b"save_steps: 5\n",
    "shared tuples": SHARED + b".",
    "shared tuples in a field": _arguments(b"}X\x01\x00\x00\x00a" + SHARED[2:] + b"s"),
    "a long text many times": _arguments(b"}X\x01\x00\x00\x00a](" + TEXT + b"q\x01" + b"h\x01" * 50_000 + b"es"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
@pytest.mark.parametrize("form", ["zip", "bare"])
def test_what_is_no_arguments_is_refused(tmp_path: Path, name: str, form: str) -> None:
    write = _zipped if form == "zip" else _written
    with pytest.raises(UnreadableArguments):
        read_training_arguments(write(tmp_path / "a.bin", HOSTILE[name]))


def test_keys_that_take_for_ever_to_hash_are_no_keys(tmp_path: Path) -> None:
    fields = b"}(" + SHARED[2:] + b"K\x01X\x01\x00\x00\x00aK\x02u"
    read = read_training_arguments(_written(tmp_path / "a.bin", _arguments(fields)))
    assert read == {CLASS: "__main__.MyArgs", "a": 2}


def test_a_cycle_ends(tmp_path: Path) -> None:
    fields = b"}X\x01\x00\x00\x00a]q\x00h\x00as"
    found = read_training_arguments(_written(tmp_path / "a.bin", _arguments(fields)))["a"]
    assert json.dumps(found).strip('[]"') == DEEPER


def test_numbers_and_texts_that_json_does_not_take(tmp_path: Path) -> None:
    fields = _state(a=1 << 5000, b=b"\x00\xff", c={1: "one", None: 2}, d={3, 4}, e=(1, 2))
    fields = fields[:-1] + b"X\x01\x00\x00\x00fX\x03\x00\x00\x00\xed\xa0\x80u"
    read = read_training_arguments(_written(tmp_path / "a.bin", _arguments(fields)))
    assert read["a"] == {CLASS: "int"}
    assert (read["c"], read["d"], read["e"]) == ({"1": "one", "None": 2}, {CLASS: "__builtin__.set"}, [1, 2])
    json.dumps(read).encode()


def test_zips_that_are_none_of_torch(tmp_path: Path) -> None:
    good = _arguments(_state(save_steps=5))
    bomb = _zipped(tmp_path / "bomb.bin", b"\0" * 100_000_000, zipfile.ZIP_DEFLATED)
    deflated = _zipped(tmp_path / "deflated.bin", good, zipfile.ZIP_DEFLATED)
    twice = _zipped(tmp_path / "twice.bin", good, names=("a", "b"))
    empty = _zipped(tmp_path / "empty.bin", b"", names=())
    whole = _zipped(tmp_path / "whole.bin", good).read_bytes()
    torn = _written(tmp_path / "torn.bin", whole[: len(whole) // 2])
    changed = _written(tmp_path / "changed.bin", whole.replace(b"save_steps", b"save_stepz", 1))
    for path in (bomb, deflated, twice, torn, changed):
        with pytest.raises(UnreadableArguments):
            read_training_arguments(path)
    with pytest.raises(UnreadableArguments):
        read_training_arguments(empty)
    assert read_training_arguments(tmp_path / "whole.bin")["save_steps"] == 5


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableArguments, match="no regular file"):
        read_training_arguments(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_training_arguments(tmp_path / "none")


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(tmp_path: Path, seed: int) -> None:
    import random

    chance = random.Random(seed)
    whole = _arguments(_state(save_steps=5, eval_strategy="steps", nested={"a": [1, 2.5, None]}, text="x" * 50))
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            json.dumps(read_training_arguments(_written(tmp_path / "a.bin", bytes(data))))
        except UnreadableArguments:
            continue


def test_the_form_that_pickle_writes_is_the_one_that_is_read() -> None:
    """The hand-made pickles above are what Python's own writes."""
    assert pickle.load(io.BytesIO(PROTO + _state(a=1) + b".")) == {"a": 1}
