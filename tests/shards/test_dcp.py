"""Distributed checkpoints that two ranks wrote, read without torch, a process group or an unpickler of theirs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from keepstep.formats.dcp_metadata import METADATA, UnreadableMetadata, parse_metadata, rank_of, read_metadata
from keepstep.formats.dcp_tensors import DcpTensors, Torn
from keepstep.formats.tensors import storage_over
from tests.shards.written import KINDS, STEPS, expected, parts

pytestmark = pytest.mark.training
MODEL = "pytorch_model_fsdp_0"


def read(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors, each in three pieces."""
    found: dict[str, torch.Tensor] = {}
    with DcpTensors(directory) as tensors:
        for name, tensor in tensors.tensors.items():
            memory = memoryview(bytearray(tensor.nbytes))
            size = tensor.nbytes // max(tensor.elements, 1)
            cuts = [0, tensor.elements // 3, tensor.elements // 2, tensor.elements]
            for begin, end in pairwise(cuts):
                tensors.read(name, memory[begin * size : end * size], begin)
            found[name] = as_tensor(memory, tensor.dtype, tensor.shape)
    return found


def as_tensor(memory: memoryview, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor over bytes."""
    from keepstep.formats.safetensors_file import stock_dtypes

    kind = next(kind for kind, known in stock_dtypes().items() if known.code == dtype)
    made: Any = torch.empty(0, dtype=kind)
    return made.set_(storage_over(memory), 0, shape)


def same(found: dict[str, torch.Tensor], due: dict[str, torch.Tensor]) -> None:
    """Raises where a name, a dtype, a shape or a byte differs."""
    assert found.keys() == due.keys()
    for name, tensor in due.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        one, other = (t.contiguous().flatten().view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_fsdp_are_read_as_they_are_gathered(shards: Path, kind: str) -> None:
    for step in STEPS:
        same(read(shards / kind / f"checkpoint-{step}" / MODEL), expected(shards, f"{kind}-{step}"))


@pytest.mark.parametrize("name", ["loose", "replicated"])
def test_every_dtype_and_way_of_sharding_is_read_as_it_was_saved(shards: Path, name: str) -> None:
    same(read(shards / name), expected(shards, name))


def test_the_metadata_says_what_each_rank_wrote(shards: Path) -> None:
    for home in (MODEL, "optimizer_0"):
        directory = shards / "llama" / "checkpoint-2" / home
        extents = read_metadata(directory).extents
        assert extents == {part.name: part.stat().st_size for part in parts(directory)}
        assert [rank_of(name) for name in extents] == [0, 1]
    assert rank_of("model.safetensors") is None


def test_pickles_among_the_items_are_named_and_not_opened(shards: Path) -> None:
    assert list(read_metadata(shards / "loose").objects) == ["note.by"]
    optimizer = read_metadata(shards / "llama" / "checkpoint-2" / "optimizer_0")
    assert optimizer.objects
    assert all("param_groups" in name for name in optimizer.objects)
    assert any(name.endswith("exp_avg") for name in optimizer.tensors)


def test_reading_needs_neither_torch_nor_the_modules_that_the_metadata_names(shards: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from keepstep.formats.dcp_tensors import DcpTensors\n"
        "with DcpTensors(pathlib.Path(sys.argv[1])) as found:\n"
        "    for name, one in found.tensors.items(): found.read(name, memoryview(bytearray(one.nbytes)))\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(shards / "loose")], check=True)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


def hostile(proof: Path) -> dict[str, bytes]:
    """Pickles that do harm where they are loaded, by what they name."""
    command = f"open({str(proof)!r}, 'w')"
    of_text = b"cbuiltins\n%s\n(V" + command.encode() + b"\ntR."
    return {
        "posix.system": pickle.dumps(Hostile(proof)),
        "builtins.eval": of_text % b"eval",
        "builtins.exec": of_text % b"exec",
        # By way of what is allowed: an attribute of a module of torch's, and one of a stand-in.
        "torch.os": b"ctorch\nos\n.",
        "torch.load": b"ctorch\nload\n(V" + str(proof).encode() + b"\ntR.",
        "torch.distributed.checkpoint.metadata.os.system":
            b"\x80\x04\x8c\x25torch.distributed.checkpoint.metadata\x8c\x09os.system\x93.",
        "torch.distributed.checkpoint.filesystem.pickle":
            b"ctorch.distributed.checkpoint.filesystem\npickle\n.",
        "pathlib.Path": b"cpathlib\nPath\n(V/tmp\ntR.",
        "collections.defaultdict": b"ccollections\ndefaultdict\n.",
    }  # fmt: skip


def test_hostile_pickles_are_refused_by_name_and_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "harm"
    pickle.loads(hostile(tmp_path / "shown")["posix.system"])
    assert (tmp_path / "shown").exists()
    for name, data in hostile(proof).items():
        with pytest.raises(UnreadableMetadata, match=name.replace(".", r"\.")):
            parse_metadata(data)
    assert not proof.exists()


def test_a_file_can_change_no_stand_in_for_the_next(shards: Path) -> None:
    """BUILD with attributes of a class sets them: what is set so must end with the load."""
    ordered = _stock(shards / "loose")
    ordered.storage_data = OrderedDict(ordered.storage_data)
    encoding = b"ctorch.distributed.checkpoint.metadata\n_MEM_FORMAT_ENCODING\n"
    with pytest.raises(UnreadableMetadata):
        parse_metadata(b"ccollections\nOrderedDict\n(N(dVitems\n" + encoding + b"stb.")
    assert parse_metadata(pickle.dumps(ordered)).tensors


def test_what_refers_outside_is_refused() -> None:
    for data in (b"Ptorch\n.", b"\x80\x04K\x01Q."):
        with pytest.raises(UnreadableMetadata, match="outside of it"):
            parse_metadata(data)


def test_damaged_metadata_is_said_to_be_so(shards: Path) -> None:
    data = (shards / "llama" / "checkpoint-2" / MODEL / METADATA).read_bytes()
    for cut in (0, 1, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(UnreadableMetadata):
            parse_metadata(data[:cut])
    for plain in (None, {}, [1], "text"):
        with pytest.raises(UnreadableMetadata):
            parse_metadata(pickle.dumps(plain))


@pytest.mark.parametrize("way", ["/etc/passwd", "../__0_0.distcp", "a/../../b", "./__0_0.distcp", ""])
def test_a_path_that_leads_out_of_the_directory_is_refused(shards: Path, way: str) -> None:
    found = _stock(shards / "loose")
    for info in found.storage_data.values():
        info.relative_path = way
    with pytest.raises(UnreadableMetadata, match="leads out of its directory"):
        parse_metadata(pickle.dumps(found))


def test_pieces_that_are_not_the_tensor_are_refused(shards: Path) -> None:
    """One too many, one too few, one twice, one outside: zeros would be read as weights."""

    def drop(chunks: list[Any]) -> None:
        chunks.pop()

    def shift(chunks: list[Any]) -> None:
        chunks[1].offsets = torch.Size([chunks[1].offsets[0] + 1, *chunks[1].offsets[1:]])

    def twice(chunks: list[Any]) -> None:
        chunks[1].offsets = torch.Size([chunks[1].offsets[0] - 1, *chunks[1].offsets[1:]])

    for change in (drop, shift, twice):
        found = _stock(shards / "loose")
        name = "of.torch.float32"
        change(found.state_dict_metadata[name].chunks)
        # Every place stays known, so that only the boxes are wrong.
        for index, info in list(found.storage_data.items()):
            if index.fqn == name:
                moved = [type(index)(name, chunk.offsets) for chunk in found.state_dict_metadata[name].chunks]
                found.storage_data |= dict.fromkeys(moved, info)
        with pytest.raises(UnreadableMetadata, match=r"float32"):
            parse_metadata(pickle.dumps(found))


def test_packed_items_are_refused_and_not_read_as_tensors(shards: Path) -> None:
    found = _stock(shards / "loose")
    for info in found.storage_data.values():
        info.transform_descriptors = ["stream.zstd"]
    with pytest.raises(UnreadableMetadata, match="packed"):
        parse_metadata(pickle.dumps(found))


def test_a_missing_cut_or_foreign_file_is_named_with_its_rank(copied: Callable[[str], Path]) -> None:
    directory = copied("loose")
    part = directory / "__1_0.distcp"
    data = part.read_bytes()
    part.write_bytes(data[: len(data) // 2])
    with pytest.raises(Torn, match=r"__1_0\.distcp \(of rank 1\)"):
        read(directory)
    part.write_bytes((directory / "__0_0.distcp").read_bytes())
    with pytest.raises(Torn, match=r"__1_0\.distcp \(of rank 1\)"):
        read(directory)
    part.unlink()
    with pytest.raises(Torn, match=r"__1_0\.distcp \(of rank 1\) is missing"):
        read(directory)


def test_a_place_that_holds_another_tensor_is_found(shards: Path, tmp_path: Path) -> None:
    found = _stock(shards / "loose")
    places = found.storage_data
    wrong, others = (sorted((i for i in places if i.fqn == f"of.torch.{one}"), key=str) for one in ("int16", "int8"))
    places |= {index: places[other] for index, other in zip(wrong, others, strict=True)}
    for part in parts(shards / "loose"):
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / METADATA).write_bytes(pickle.dumps(found))
    with pytest.raises(Torn, match=r"holds another tensor than of\.torch\.int16"):
        read(tmp_path)


def _stock(directory: Path) -> Any:
    return pickle.loads((directory / METADATA).read_bytes())
