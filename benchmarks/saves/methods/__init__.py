"""The methods that are compared, in the order of the tables."""

from __future__ import annotations

from benchmarks.saves.methods.base import Method
from benchmarks.saves.methods.dcp import (
    DcpAsync,
    DcpAsyncCached,
    DcpProcess,
    DcpStaged,
    DcpStagedProcess,
    DcpSync,
)
from benchmarks.saves.methods.lightning_io import LightningAsync, LightningSync
from benchmarks.saves.methods.moonclip_manager import Moonclip
from benchmarks.saves.methods.orbax_async import Orbax
from benchmarks.saves.methods.ours import KeepstepFast, KeepstepStock
from benchmarks.saves.methods.stock import NoSave, StockTrainer, TorchSave
from benchmarks.saves.methods.torch_checkpointing_manager import TorchCheckpointing

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        NoSave,
        KeepstepFast,
        KeepstepStock,
        StockTrainer,
        TorchSave,
        DcpSync,
        DcpAsync,
        DcpAsyncCached,
        DcpProcess,
        DcpStaged,
        DcpStagedProcess,
        TorchCheckpointing,
        LightningSync,
        LightningAsync,
        Moonclip,
        Orbax,
    )
}
"""By name. Importing this imports no peer."""
