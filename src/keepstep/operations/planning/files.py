"""Bytes of whole files: what the formats add to the bytes of the tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from keepstep.operations.planning.tensors import Tensor

_SAFETENSORS_DTYPES = {
    "i64": "I64", "fp64": "F64", "fp32": "F32", "i32": "I32", "bf16": "BF16", "fp16": "F16", "i16": "I16",
    "fp8": "F8_E4M3", "i8": "U8",
}  # fmt: skip
_ORDER = {dtype: place for place, dtype in enumerate(_SAFETENSORS_DTYPES)}
"""The file's order of dtypes, which is that of the table above."""
SHARD = 50 * 10**9
"""Bytes of the largest shard that transformers 5 writes; smaller files have one shard."""
_LOCAL_HEADER, _CENTRAL_HEADER, _DESCRIPTOR, _EXTRA = 30, 46, 16, 4
_ALIGNMENT = 64
_ZIP64 = 2**32 - 1
_END = 22 + 56 + 20
_PICKLED_FIRST, _PICKLED_TENSOR, _PICKLED_PARAMETER = 340, 70, 17
"""Bytes of the pickle for the parameter groups, for each tensor, and for each parameter's dictionary and id."""


def safetensors_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of a `.safetensors` file of these tensors, to the byte.

    Eight bytes of length, a JSON header padded to eight, the values: large dtypes first, then by name
    (https://github.com/huggingface/safetensors, `README.md` and `src/tensor.rs`).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (_ORDER[tensor.dtype], tensor.name)):
        begin, end = end, end + tensor.nbytes
        dtype = _SAFETENSORS_DTYPES[tensor.dtype]
        header[tensor.name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end


def weights_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of the weights as transformers writes them: one file, or shards with their index."""
    total = sum(tensor.nbytes for tensor in tensors)
    if total <= SHARD:
        return safetensors_bytes(tensors)
    index = sum(len(tensor.name) + len('    "": "model-00001-of-00002.safetensors",\n') for tensor in tensors)
    return safetensors_bytes(tensors) + index


def torch_bytes(sizes: Iterable[int], parameters: int, stem: str = "optimizer") -> int:
    """Bytes of a `torch.save` file with storages of these sizes for so many parameters.

    A zip archive of stored records, each aligned to 64 bytes (PyTorch, caffe2/serialize/inline_container.cc). The
    pickle is estimated, at about 80 bytes a tensor.
    """
    storages = list(sizes)
    pickle = _PICKLED_FIRST + _PICKLED_TENSOR * len(storages) + _PICKLED_PARAMETER * parameters
    records = [("data.pkl", pickle), (".format_version", 1), (".storage_alignment", 2), ("byteorder", 6)]
    records += [(f"data/{number}", size) for number, size in enumerate(storages)]
    records += [("version", 2), (".data/serialization_id", 40)]
    offset = directory = 0
    for name, size in records:
        length = len(stem) + 1 + len(name)
        far = 8 * (offset >= _ZIP64) + 16 * (size >= _ZIP64)
        start = offset + _LOCAL_HEADER + length + _EXTRA + (far and far + 4)
        offset = -(-start // _ALIGNMENT) * _ALIGNMENT + size + _DESCRIPTOR + 8 * bool(size >= _ZIP64)
        directory += _CENTRAL_HEADER + length + (far and far + 4)
    return offset + directory + _END
