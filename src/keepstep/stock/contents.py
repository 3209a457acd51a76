"""One checkpoint that others wrote: what is in its directory, and whether anything is missing. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from keepstep.formats.dcp_metadata import METADATA, PART
from keepstep.model import FileEntry, Kind
from keepstep.repository import MANIFEST_NAME, Need, Problem, is_litter, need_of_path
from keepstep.stock import trainer_state
from keepstep.stock.layouts import OPTIMIZERS, RANDOM, SCHEDULER, SHARD, WHOLE_WEIGHTS, Layout, layout_of
from keepstep.stock.ranks import Ranks
from keepstep.stock.structure import OnBytes, flaw_of
from keepstep.stock.trainer_state import TrainerState
from keepstep.stores import Entry, denied

ESSENTIAL = frozenset({"config.json", "adapter_config.json"})
"""Without which `from_pretrained` fails, where it is looked for."""
_TEMPORARY = ".tmp*"
"""What the writer of safetensors leaves when it is killed: a file of full size under another name."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a checkpoint's directory: path, the step in its name, and all entries below it."""

    path: Path
    step: int
    entries: tuple[Entry, ...]

    def files(self) -> tuple[FileEntry, ...]:
        """Its files without digests; what operating systems and killed writers left is none of it."""
        return tuple(
            FileEntry(e.path, e.size, "") for e in self.entries if e.kind == "file" and not _is_leftover(e.path)
        )


_UNREAD = "can't be read"
"""How it begins what is said of a file that could not be looked into."""


def unread(path: Path, error: OSError) -> str:
    """What keeps this user from reading a file: whose it is, or what the system says."""
    if isinstance(error, PermissionError):
        return denied(path, error, write=False).message.removeprefix(f"{os.path.abspath(path)} ")
    return f"{_UNREAD}: {error.strerror or error}"


def is_unread(problems: Sequence[Problem]) -> bool:
    """True where all that is wrong is that it can't be read: nobody knows whether it is torn."""
    return bool(problems) and all(problem.what.startswith(_UNREAD) for problem in problems)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the structure of a checkpoint says: what is wrong with it, which files that a resume needs it was saved
    without, or lost, what is odd, and which loader goes on from it.
    """

    problems: tuple[Problem, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...]
    layout: Layout
    state: TrainerState | None = field(repr=False, default=None)

    @property
    def unread(self) -> bool:
        """True where it is not torn as far as is known: what is wrong is that this user may not read it."""
        return is_unread(self.problems)

    @property
    def kind(self) -> Kind:
        """Full where everything that a resume needs is there by name."""
        return Kind.WEIGHTS if self.lost else Kind.FULL


def examine(
    contents: Contents,
    *,
    lacks: frozenset[str] = frozenset(),
    deep: Collection[str] | None = (),
    on_bytes: OnBytes | None = None,
) -> Verdict:
    """The verdict on a checkpoint. `lacks` are names of files that all checkpoints beside it have, and it has not.
    Of the files that are named `deep`, or of all with None, what has checksums of its own is read too. Raises OSError.
    """
    looked = _Looked(contents, lacks)
    state = looked.state
    problems = [*looked.torn(), *looked.flaws(deep, on_bytes)]
    known = state if isinstance(state, TrainerState) else None
    once = {problem.path: problem for problem in reversed(problems)}
    return Verdict(tuple(reversed(once.values())), looked.lost(), looked.notes(), looked.layout, known)


def lacks_by_names(contents: Contents) -> tuple[str, ...]:
    """What a resume needs and is not there, by the names of files alone: none of them is looked into."""
    looked = _Looked(contents, frozenset())
    weights = () if looked.has_weights() else ("weights",)
    state = () if trainer_state.NAME in looked.names else (trainer_state.NAME,)
    return (*weights, *looked.lost(), *state)


class _Looked:
    def __init__(self, contents: Contents, lacks: frozenset[str]) -> None:
        self.contents = contents
        self.names = frozenset(file.path for file in contents.files())
        self.tops = {name.partition("/")[0] for name in self.names}
        self.layout = layout_of(self.names)
        self._lacks = lacks

    @cached_property
    def _ranks(self) -> Ranks:
        return Ranks(self.contents.path, {e.path: e.size for e in self.contents.entries if e.kind == "file"})

    @cached_property
    def state(self) -> TrainerState | str | None:
        if trainer_state.NAME not in self.names:
            return None
        return trainer_state.read_state(self.contents.path)

    def torn(self) -> Iterator[Problem]:
        """What is missing, or does not fit, by names and numbers."""
        if not self.has_weights():
            left = " (what a killed save left is there)" if any(map(_is_temporary, self._all())) else ""
            yield Problem(".", f"has no weights{left}")
        if self.state is None:
            what = "is missing, which is written last: the save is not at its end, or never came to it"
            yield Problem(trainer_state.NAME, what, Need.RESUME)
        elif isinstance(self.state, str):
            yield Problem(trainer_state.NAME, self.state, Need.RESUME)
        elif self.state.step != self.contents.step:
            yield Problem(trainer_state.NAME, f"is of step {self.state.step}", Need.RESUME)
        yield from self._shards()
        yield from self._distributed()
        if self.layout is Layout.DEEPSPEED:
            yield from self._deepspeed()
        for name, rank in self._ranks.lacking_random():
            yield Problem(name, f"is missing: rank {rank} would go on with other random numbers", Need.RESUME)
        for name in sorted(self._lacks & ESSENTIAL):
            yield Problem(name, "is missing, which the checkpoints beside it have")

    def _all(self) -> Iterator[str]:
        return (entry.path for entry in self.contents.entries)

    def has_weights(self) -> bool:
        """True where a file is called like weights, or one in a directory of DeepSpeed's."""
        if self.layout is Layout.DEEPSPEED or any(SHARD.fullmatch(name) for name in self.names):
            return True
        # Weights under a name of the model's own, as a writer of the user's gives them.
        own = any(name.endswith((".safetensors", ".bin")) for name in self.names)
        return own or any(fnmatchcase(top, pattern) for top in self.tops for pattern in WHOLE_WEIGHTS)

    def _shards(self) -> Iterator[Problem]:
        for name in sorted(name for name in self.names if name.endswith(".index.json")):
            yield from self._of_index(name)
        sets: dict[tuple[str, str, str], set[int]] = {}
        for name in self.names:
            if found := SHARD.fullmatch(name):
                sets.setdefault((found[1], found[3], found[4]), set()).add(int(found[2]))
        for (stem, total, end), numbers in sorted(sets.items()):
            for number in sorted(set(range(1, int(total) + 1)) - numbers)[:1]:
                yield Problem(f"{stem}-{number:05d}-of-{total}.{end}", "is missing")
            index = f"{stem}.{end}.index.json"
            if index not in self.names:
                yield Problem(index, "is missing: shards are there without their index")

    def _of_index(self, name: str) -> Iterator[Problem]:
        try:
            weights: Any = json.loads((self.contents.path / name).read_bytes())["weight_map"]
            shards = sorted(set(cast("Mapping[str, str]", weights).values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            yield Problem(name, "names no shards")
            return
        home = name.rpartition("/")[0]
        for shard in shards:
            if f"{home}/{shard}".lstrip("/") not in self.names:
                yield Problem(shard, f"is missing, which {name} names")
                return

    def _deepspeed(self) -> Iterator[Problem]:
        if "latest" not in self.names:
            yield Problem("latest", "is missing, which names DeepSpeed's directory", Need.RESUME)
            return
        tag = (self.contents.path / "latest").read_text(errors="replace")[:200].strip()
        inside = [name.rpartition("/")[2] for name in self.names if name.startswith(f"{tag}/")]
        if not inside:
            yield Problem(tag or "latest", "is missing, which the file latest names")
        elif not any("model_states" in name for name in inside):
            yield Problem(tag, "holds no state of the model")
        elif not any("optim_states" in name for name in inside):
            yield Problem(tag, "holds no state of the optimizer: not every rank was done", Need.RESUME)
        else:
            for name, rank in self._ranks.lacking_states(tag):
                yield Problem(name, f"is missing, which rank {rank} writes", Need.RESUME)

    def _distributed(self) -> Iterator[Problem]:
        """Directories of torch's distributed checkpoints: their metadata, written last, names the files."""
        homes = {name.rpartition("/")[0] for name in self.names if name.endswith(PART)}
        for home in sorted(
            homes | {top for top in self.tops if _is_sharded(top) and f"{top}/{METADATA}" in self.names}
        ):
            name = f"{home}/{METADATA}".lstrip("/")
            need = need_of_path(f"{home}/_")
            if name not in self.names:
                yield Problem(name, "is missing, which is written last", need)
                continue
            for path, what in self._ranks.flaws_of(home):
                yield Problem(path, what, need)

    def flaws(self, deep: Collection[str] | None, on_bytes: OnBytes | None) -> Iterator[Problem]:
        """What is wrong inside of files."""
        for name in sorted(self.names):
            try:
                flaw = flaw_of(self.contents.path / name, deep=deep is None or name in deep, on_bytes=on_bytes)
            except OSError as error:
                flaw = unread(self.contents.path / name, error)
            if flaw and name != trainer_state.NAME:
                yield Problem(name, flaw, need_of_path(name))

    def lost(self) -> tuple[str, ...]:
        """What a resume needs and is not there; DeepSpeed has it in its own directory."""
        if self.layout is Layout.DEEPSPEED:
            return ()
        has_optimizer = any(fnmatchcase(top, pattern) for top in self.tops for pattern in OPTIMIZERS)
        return tuple(
            name for name, there in ((OPTIMIZERS[0], has_optimizer), (SCHEDULER, SCHEDULER in self.names)) if not there
        )

    def notes(self) -> tuple[str, ...]:
        found: list[str] = []
        if lacks := sorted(name for name in self._lacks - ESSENTIAL if not SHARD.fullmatch(name)):
            found.append(f"lacks what all beside it have: {', '.join(lacks[:3])}")
        if not self.lost() and not any(fnmatchcase(top, RANDOM) for top in self.tops):
            found.append("has no random state: a resume goes on with other random numbers")
        if temporary := sorted(filter(_is_temporary, self._all())):
            found.append(f"holds what a killed save left: {', '.join(temporary[:3])}")
        return tuple(found)


def lacking(found: Mapping[str, Contents]) -> dict[str, frozenset[str]]:
    """By checkpoint, the names of files that all others have and it has not."""
    names = {key: frozenset(file.path for file in contents.files()) for key, contents in found.items()}
    counts = Counter(name for one in names.values() for name in one)
    nearly = frozenset(name for name, count in counts.items() if count == len(found) - 1 > 0)
    return {key: nearly - own for key, own in names.items()}


def ended_ns(checkpoint: Path) -> int:
    """When its save ended, as far as times of files tell: of its last file, or of its directory; ns since the epoch."""
    for path in (checkpoint / trainer_state.NAME, checkpoint):
        try:
            return os.stat(path, follow_symlinks=False).st_mtime_ns
        except OSError:
            continue
    return 0


def _is_sharded(top: str) -> bool:
    return fnmatchcase(top, "pytorch_model_fsdp_[0-9]*") or fnmatchcase(top, OPTIMIZERS[2])


def _is_temporary(path: str) -> bool:
    return fnmatchcase(path.rpartition("/")[2], _TEMPORARY)


def _is_leftover(path: str) -> bool:
    return path == MANIFEST_NAME or is_litter(path) or _is_temporary(path)
