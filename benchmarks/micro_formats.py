"""Micro-benchmarks of `keepstep.formats`: interleaved methods, medians and ratios, no trainer.

python benchmarks/micro_formats.py write --directory /path/on/the/disk --rounds 8
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch
import xxhash
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.engine import holding
from keepstep.engine.holding import HeldFiles
from keepstep.engine.loading import serving
from keepstep.formats import assembly, direct
from keepstep.formats.chunks import ChunkedFile
from keepstep.formats.digests import Digester, crc32
from keepstep.formats.direct import DirectWriter, Written
from keepstep.formats.layout import FileLayout
from keepstep.formats.memory import aligned_buffer, copy, touch
from keepstep.formats.reading import load_safetensors_into, load_torch, verify_file
from keepstep.formats.safetensors_file import TensorSpec, plan_safetensors
from keepstep.formats.sink import FileSink
from keepstep.formats.tensors import storage_bytes, tensor_bytes
from keepstep.formats.torch_file import plan_torch
from keepstep.formats.torch_planner import TorchPlanner
from keepstep.repository import verify_files
from keepstep.stores import LocalStore

MIB = 2**20
Sources = dict[str, memoryview]
Timed = Callable[[], object]


def gpt2_like(layers: int) -> dict[str, torch.Tensor]:
    """Names and shapes of GPT-2 small (124M parameters with 12 layers), fp32, random."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (50257, 768), "wpe.weight": (1024, 768)}
    for layer in range(layers):
        block = {
            "attn.c_attn": (768, 2304),
            "attn.c_proj": (768, 768),
            "mlp.c_fc": (768, 3072),
            "mlp.c_proj": (3072, 768),
        }
        for name, shape in block.items():
            shapes |= {f"h.{layer}.{name}.weight": shape, f"h.{layer}.{name}.bias": shape[1:]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{name}.weight": (768,), f"h.{layer}.{name}.bias": (768,)}
    shapes |= {"ln_f.weight": (768,), "ln_f.bias": (768,)}
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def adamw_like(model: dict[str, torch.Tensor]) -> dict:
    """A state dict as AdamW has it for these parameters."""
    state = {
        index: {"step": torch.tensor(7.0), "exp_avg": torch.rand(p.shape), "exp_avg_sq": torch.rand(p.shape)}
        for index, p in enumerate(model.values())
    }
    return {"state": state, "param_groups": [{"lr": 2e-5, "betas": (0.9, 0.999), "params": list(state)}]}


class Workload:
    """A model and its optimizer, planned, with sources where they lie and sources in congruent arenas."""

    def __init__(self, layers: int, *, huge: bool = False) -> None:
        self.model = gpt2_like(layers)
        self.optimizer = adamw_like(self.model)
        weights = plan_safetensors({name: TensorSpec.of(tensor) for name, tensor in self.model.items()})
        plan = plan_torch(self.optimizer)
        scattered = [
            {name: tensor_bytes(tensor) for name, tensor in self.model.items()},
            {name: storage_bytes(storage) for name, storage in plan.storages.items()},
        ]
        self.names = ("model.safetensors", "optimizer.pt")
        self.layouts: tuple[FileLayout, ...] = (weights, plan.layout)
        self.size = sum(layout.size for layout in self.layouts)
        self.scattered = scattered
        self.arenas = [arena(layout, sources, huge) for layout, sources in zip(self.layouts, scattered, strict=True)]


def arena(layout: FileLayout, sources: Sources, huge: bool) -> Sources:
    """Copies of the sources in one touched buffer, each at its file offset."""
    buffer = aligned_buffer(layout.size, huge=huge)
    touch(buffer)
    placed = {name: buffer[at : at + layout.lengths[name]] for name, at in layout.offsets.items()}
    for name, view in placed.items():
        copy(view, sources[name])
    return placed


def write_ours(work: Workload, sources: list[Sources], writer: DirectWriter, directory: Path) -> list[Written]:
    return [
        writer.write(directory / name, layout, given)
        for name, layout, given in zip(work.names, work.layouts, sources, strict=True)
    ]


def write_without_digests(work: Workload, writer: DirectWriter, directory: Path) -> None:
    with mock.patch.object(direct, "_digest", return_value=None):
        write_ours(work, work.arenas, writer, directory)


def write_with_zlib(work: Workload, writer: DirectWriter, directory: Path) -> None:
    with mock.patch.object(assembly, "crc32", zlib.crc32):
        write_ours(work, work.arenas, writer, directory)


def hash_then_write(work: Workload, writer: DirectWriter, directory: Path) -> None:
    """The same digests, but in a pass of their own before the write."""
    for sources in work.arenas:
        digester = Digester()
        for view in sources.values():
            digester.update(view)
    write_without_digests(work, writer, directory)


def write_stock(work: Workload, directory: Path) -> None:
    """What transformers does, and an fsync of each file."""
    save_file(work.model, directory / work.names[0], metadata={"format": "pt"})
    torch.save(work.optimizer, directory / work.names[1])
    for name in work.names:
        fd = os.open(directory / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def write_raw(work: Workload, buffer: memoryview, request: int, threads: int, directory: Path) -> None:
    """The floor: the same number of bytes from aligned memory, no format, no digest."""
    with ThreadPoolExecutor(threads) as pool:
        for name, layout in zip(work.names, work.layouts, strict=True):
            sink = FileSink(directory / name, layout.size)
            end = -(-layout.size // 4096) * 4096
            writes = [
                pool.submit(sink.write, [buffer[at : min(at + request, end)]], at) for at in range(0, end, request)
            ]
            for write in writes:
                write.result()
            sink.finish()


def read_raw(
    path: Path,
    target: memoryview,
    *,
    threads: int,
    block: int = 16 * MIB,
    around: bool = False,
    advice: int | None = None,
) -> None:
    """One file in blocks into touched memory, each block hashed after it was read; no format."""
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if around else 0))
    end = path.stat().st_size // 4096 * 4096
    if advice is not None:
        os.posix_fadvise(fd, 0, 0, advice)

    def read(at: int) -> None:
        position, stop = at, min(at + block, end)
        while position < stop:
            position += os.preadv(fd, [target[position:stop]], position)
        xxhash.xxh3_128_digest(target[at:stop])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(0, end, block)))
    os.close(fd)


def timed(run: Timed) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleave(methods: dict[str, Timed], rounds: int, before: Callable[[], object] = lambda: None) -> None:
    """Run all methods once per round in random order after a warm-up; print medians, spreads, ratios to the first."""
    order, results = list(methods), {name: [] for name in methods}
    for index in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            before()
            result = timed(methods[name])
            if index:
                results[name].append(result)
    base = statistics.median(wall for wall, _ in results[next(iter(methods))])
    print(f"{'method':44} {'median s':>9} {'min':>7} {'max':>7} {'CPU s':>7} {'ratio':>6}   rounds: {rounds}")
    for name, values in results.items():
        walls = sorted(wall for wall, _ in values)
        median, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in values)
        print(f"{name:44} {median:9.4f} {walls[0]:7.4f} {walls[-1]:7.4f} {cpu:7.3f} {median / base:6.2f}")
    print("load average:", os.getloadavg())


def bench_write(args: argparse.Namespace, directory: Path) -> None:
    work, pages = Workload(args.layers), Workload(args.layers, huge=True)
    small, large = (
        aligned_buffer(max(layout.size for layout in work.layouts) + 4096, huge=huge) for huge in (False, True)
    )
    touch(small)
    touch(large)
    methods: dict[str, Timed] = {
        "floor: raw, 8 MiB, 3 in flight, 2 MiB pages": partial(write_raw, work, large, 8 * MIB, 3, directory),
        "raw, 8 MiB, 2 in flight": partial(write_raw, work, small, 8 * MIB, 2, directory),
        "raw, 64 MiB, 1 in flight": partial(write_raw, work, small, 64 * MIB, 1, directory),
    }
    with contextlib.ExitStack() as stack:
        for request, flight in ((8, 2), (8, 1), (8, 3), (4, 2), (16, 2), (64, 1)):
            writer = stack.enter_context(DirectWriter(request_bytes=request * MIB, in_flight=flight))
            methods[f"ours, {request} MiB, {flight} in flight"] = partial(
                write_ours, work, work.arenas, writer, directory
            )
        for flight in (2, 3, 4):
            writer = stack.enter_context(DirectWriter(in_flight=flight))
            label = f"ours, 8 MiB, {flight} in flight, 2 MiB pages"
            methods[label] = partial(write_ours, pages, pages.arenas, writer, directory)
        writer = stack.enter_context(DirectWriter())
        methods["ours, 2 MiB pages, no digests"] = partial(write_without_digests, pages, writer, directory)
        methods["ours, 2 MiB pages, hash, then write"] = partial(hash_then_write, pages, writer, directory)
        methods["ours, 2 MiB pages, CRC by zlib"] = partial(write_with_zlib, pages, writer, directory)
        methods["ours, tensors anywhere (bounced)"] = partial(write_ours, work, work.scattered, writer, directory)
        buffered = stack.enter_context(DirectWriter(open_sink=partial(FileSink, direct=False)))
        methods["ours, buffered with write-behind"] = partial(write_ours, work, work.arenas, buffered, directory)
        methods["stock torch.save + save_file + fsync"] = partial(write_stock, work, directory)
        wanted = {
            name: run for name, run in methods.items() if args.only is None or args.only in name or "floor" in name
        }
        interleave(wanted, args.rounds, partial(_clear, directory))


def bench_plan(args: argparse.Namespace, directory: Path) -> None:
    del directory
    for parameters in (50, 150, 3333, 10_000):
        shape = (768, 768) if parameters <= 150 else (64,)
        state = adamw_like({str(index): torch.empty(shape) for index in range(parameters)})
        planner = TorchPlanner()
        specs = {f"layer.{index}.weight": TensorSpec.of(torch.empty(shape)) for index in range(parameters)}

        def again(state: dict = state, planner: TorchPlanner = planner) -> None:
            state["param_groups"][0]["lr"] = random.random()
            planner.plan(state)

        again()
        again()
        print(f"\n{3 * parameters} tensors of an optimizer, {parameters} of a model")
        methods: dict[str, Timed] = {"torch: anew": partial(plan_torch, state), "torch: only floats changed": again}
        interleave(methods | {"safetensors": partial(plan_safetensors, specs)}, args.rounds)


def bench_hash(args: argparse.Namespace, directory: Path) -> None:
    del directory
    buffer, target = aligned_buffer(256 * MIB), aligned_buffer(256 * MIB)
    touch(buffer)
    touch(target)

    def twice() -> None:
        whole = xxhash.xxh3_128()
        for at in range(0, len(buffer), 16 * MIB):
            whole.update(buffer[at : at + 16 * MIB])
            xxhash.xxh3_128(buffer[at : at + 16 * MIB])

    methods: dict[str, Timed] = {"memcpy": partial(copy, target, buffer), "xxh3 once": partial(xxhash.xxh3_128, buffer)}
    methods |= {"xxh3 file, then chunk": twice, "Digester (slices)": lambda: Digester().update(buffer)}
    methods |= {"crc32 in use": partial(crc32, buffer, 0), "crc32 zlib": partial(zlib.crc32, buffer)}
    interleave(methods, args.rounds)


def bench_limits(args: argparse.Namespace, directory: Path) -> None:
    """Raw cold reads of 1 GiB: what the reader has to choose from."""
    path, target = directory / "raw", aligned_buffer(1024 * MIB, huge=True)
    touch(target)
    sink = FileSink(path, len(target))
    sink.write([target], 0)
    sink.finish()
    read, advices = (
        partial(read_raw, path, target),
        {"sequential": os.POSIX_FADV_SEQUENTIAL, "random": os.POSIX_FADV_RANDOM},
    )
    methods: dict[str, Timed] = {"buffered, 2 threads": partial(read, threads=2)}
    for threads in (1, 2, 4):
        methods[f"buffered, {threads} threads"] = partial(read, threads=threads)
        for label, advice in advices.items():
            methods[f"buffered, {label}, {threads} threads"] = partial(read, threads=threads, advice=advice)
        methods[f"direct, {threads} threads"] = partial(read, threads=threads, around=True)
    methods["direct, 4 MiB, 8 threads"] = partial(read, threads=8, block=4 * MIB, around=True)
    interleave(methods, args.rounds, partial(_forget, [path]))


def bench_read(args: argparse.Namespace, directory: Path) -> None:
    work = Workload(args.layers)
    with DirectWriter() as writer:
        written = write_ours(work, work.arenas, writer, directory)
    weights, optimizer = paths = [directory / name for name in work.names]
    targets = {name: torch.zeros_like(tensor) for name, tensor in work.model.items()}
    reused = aligned_buffer(work.layouts[1].size, huge=True)
    touch(reused)

    def ours(
        threads: int = 2, *, check: bool = True, buffer: memoryview | None = None, around: bool | None = None
    ) -> None:
        digests = [file.chunk_digests if check else None for file in written]
        load_safetensors_into(weights, targets, digests[0], threads=threads, direct=around)
        load_torch(optimizer, digests[1], threads=threads, direct=around, buffer=buffer)

    def stock() -> None:
        loaded = load_file(weights)
        for name, tensor in targets.items():
            tensor.copy_(loaded[name])
        torch.load(optimizer, weights_only=True)

    def verify() -> None:
        for path, file in zip(paths, written, strict=True):
            verify_file(path, file.chunk_digests)

    methods: dict[str, Timed] = {"stock: load_file + copy, torch.load": stock, "ours, 2 threads": ours}
    methods["ours, 2 threads, unverified"] = partial(ours, check=False)
    methods["ours, 2 threads, memory reused"] = partial(ours, buffer=reused)
    methods["ours, 2 threads, direct"] = partial(ours, around=True)
    methods["ours, 4 threads, direct"] = partial(ours, 4, around=True)
    methods["ours, 2 threads, buffered"] = partial(ours, around=False)
    methods["ours, 1 thread"] = partial(ours, 1)
    methods["ours, 4 threads"] = partial(ours, 4)
    methods["verify only"] = verify
    print("cold (page cache of these files dropped before each)")
    interleave(methods, args.rounds, partial(_forget, paths))
    print("warm")
    interleave(methods, args.rounds)


class Resumed:
    """A model and an optimizer, a committed checkpoint of them, and the ways to load it into them."""

    def __init__(self, layers: int, directory: Path) -> None:
        work = Workload(layers)
        self.model = _module(work.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-5)
        checkpointer = Checkpointer(directory / "run", "all")
        checkpointer.begin("auto")
        with DirectWriter() as writer:
            self.checkpoint = checkpointer.save(Facts(1), lambda to: write_ours(work, work.arenas, writer, to))
        checkpointer.close()
        path = self.checkpoint.path
        assert path is not None
        self.store, self.key = LocalStore(path.parent), path.name
        self.weights, self.state = self.paths = [path / name for name in work.names]

    def reset(self) -> None:
        """Let go of the optimizer's state, outside of the time that is measured."""
        self.optimizer.state.clear()

    def stock(self) -> None:
        """What the Trainer does; nothing is verified."""
        self.model.load_state_dict(safetensors.torch.load_file(self.weights, device="cpu"))
        self.optimizer.load_state_dict(torch.load(self.state, map_location="cpu", weights_only=True))

    def held(self, free: int | None = None) -> None:
        """Verified while it is read, then the same stock calls on what is held."""
        held = HeldFiles() if free is None else HeldFiles(free=lambda: free)
        assert held.check(self.checkpoint).ok
        with serving(held):
            self.stock()

    def held_otherwise(self, *, check: bool = True, huge: bool = False, around: bool | None = None) -> None:
        """The same without digests (what verification costs), on 2 MiB pages, or always (never) past the cache."""

        def opened(path: Path, digests: Any, **options: Any) -> ChunkedFile:
            return ChunkedFile(path, digests if check else None, direct=around, **options)

        with (
            mock.patch.object(holding, "ChunkedFile", opened),
            mock.patch.object(holding, "aligned_buffer", lambda size, **_: aligned_buffer(size, huge=huge)),
        ):
            self.held()

    def verify(self, *, chunks: bool = True) -> None:
        """As `keepstep verify` reads it; without chunks as a manifest of format 1 is."""
        files = [file if chunks else replace(file, chunks="") for file in self.checkpoint.files]
        assert not verify_files(self.store, self.key, files)

    def verify_then_stock(self) -> None:
        """Two passes, the first by one thread."""
        self.verify(chunks=False)
        self.stock()


def _module(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module with parameters of these dotted names and shapes."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_parameter(last, torch.nn.Parameter(torch.zeros_like(tensor)))
    return root


def bench_resume(args: argparse.Namespace, directory: Path) -> None:
    resumed = Resumed(args.layers, directory)
    methods: dict[str, Timed] = {
        "stock, not verified": resumed.stock,
        "ours: verified, served": resumed.held,
        "ours: not verified, served": partial(resumed.held_otherwise, check=False),
        "ours: served, 2 MiB pages": partial(resumed.held_otherwise, huge=True),
        "ours: served, 2 MiB pages, buffered": partial(resumed.held_otherwise, huge=True, around=False),
        "ours: served, buffered": partial(resumed.held_otherwise, around=False),
        "ours: no memory, verified, then stock": partial(resumed.held, 0),
        "whole-file digests, then stock": resumed.verify_then_stock,
        "verify alone, by chunks": resumed.verify,
        "verify alone, whole-file digests": partial(resumed.verify, chunks=False),
    }

    def forget() -> None:
        resumed.reset()
        _forget(resumed.paths)

    wanted = {name: run for name, run in methods.items() if args.only is None or args.only in name or "stock, " in name}
    print("cold (page cache of these files dropped before each)")
    interleave(wanted, args.rounds, forget)
    print("warm")
    interleave(wanted, args.rounds, resumed.reset)


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def _forget(paths: list[Path]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benches = {"write": bench_write, "read": bench_read, "plan": bench_plan, "hash": bench_hash, "limits": bench_limits}
    benches["resume"] = bench_resume
    parser.add_argument("what", choices=benches)
    parser.add_argument("--directory", type=Path, default=Path(), help="where test files go (default: here)")
    parser.add_argument("--rounds", type=int, default=8, help="measured rounds after one warm-up (default: 8)")
    parser.add_argument("--layers", type=int, default=12, help="layers of the model (default: 12, 1.49 GB in all)")
    parser.add_argument("--only", help="methods whose name contains this, and the base")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="micro-formats-", dir=args.directory))
    try:
        benches[args.what](args, directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
