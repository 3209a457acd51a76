"""The ledger of a tree: its lock, what is claimed for saves in flight, and who is asked to give up room."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import blake2s
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from keepstep import layout
from keepstep.errors import KeepstepError

if TYPE_CHECKING:
    from filelock import FileLock

PATIENCE_SECONDS = 30.0
"""How long to wait for the tree's lock, which everybody holds for moments."""
_NOTE, _LOCK = ".json", ".lock"
T = TypeVar("T", bound=msgspec.Struct)


class TreeBusy(KeepstepError):
    """The lock of a tree was not given back in time."""

    code = "tree-busy"
    exit_code = 5


class Claim(msgspec.Struct, frozen=True):
    """Bytes of a save in flight, of the run at `run` (relative to the root); void once its generation is committed."""

    run: str
    bytes: int
    generation: int


class Ask(msgspec.Struct, frozen=True):
    """The run at `run` is to give up what it takes for a save of `need` bytes of the run at `by`, which will be of that
    generation; "" is a person, who wants the reserve free.
    """

    run: str
    by: str
    need: int
    generation: int = 0


class Ledger:
    """Reads and changes `.keepstep-tree/` of one root. Claims of others, and asks, are looked at inside `locked()`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claims, self._asks = root / layout.TREE_CLAIMS, root / layout.TREE_ASKS

    @contextmanager
    def locked(self, patience: float = PATIENCE_SECONDS) -> Generator[None]:
        """Hold the tree's lock. Raises TreeBusy after so many seconds, OSError.

        Whoever holds it may try the lock of another run, and never waits for that: nobody waits in a circle.
        """
        from filelock import Timeout

        lock = _lock(self.root / layout.TREE_LOCK)
        try:
            lock.acquire(timeout=patience, poll_interval=0.004)
        except Timeout:
            raise TreeBusy(
                f"the budget of {self.root} could not be looked at: its lock is held for {patience:.0f} s",
                hint=f"See who has it: lsof {self.root / layout.TREE_LOCK}",
            ) from None
        try:
            yield
        finally:
            lock.release()

    # -- claims ------------------------------------------------------------------------------------------

    def enter(self, path: Path) -> FileLock:
        """Take part as the run at `path`, until the lock that is returned is released. Call it inside `locked()`.

        Raises TreeBusy where workers of a process that died hold it still.
        """
        from filelock import Timeout

        for home in (self._claims, self._asks):
            home.mkdir(exist_ok=True)
        lock = _lock(self._claims / (self._key(path) + _LOCK))
        try:
            lock.acquire(timeout=1.0)
        except Timeout:
            raise TreeBusy(f"another process takes part in the budget of {self.root} as {path}") from None
        return lock

    def claim(self, path: Path, size: int, generation: int) -> None:
        """Room for the save of a generation."""
        _put(self._claims / (self._key(path) + _NOTE), Claim(self._name(path), size, generation))

    def give_back(self, path: Path) -> None:
        """The save is committed, or will not be. This needs no lock."""
        with suppress(OSError):
            os.unlink(self._claims / (self._key(path) + _NOTE))

    def claims(self, mine: Path | None = None) -> dict[Path, Claim]:
        """What others hold, by the paths of their runs; what a process that died held is void, and cleared."""
        found: dict[Path, Claim] = {}
        own = None if mine is None else self._key(mine)
        for key in {Path(name).stem for name in _names(self._claims)} - {own}:
            with self._dead(key) as dead:
                claim = None if dead else _get(self._claims / (key + _NOTE), Claim)
            if claim is not None:
                found[self.root / claim.run] = claim
        return found

    @contextmanager
    def _dead(self, key: str) -> Generator[bool]:
        """Whether nobody takes part under that key any more; then what it left is cleared."""
        from filelock import Timeout

        lock = _lock(self._claims / (key + _LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
            for ending in (_NOTE, _LOCK):
                with suppress(OSError):
                    os.unlink(self._claims / (key + ending))
        finally:
            lock.release()

    # -- asks --------------------------------------------------------------------------------------------

    def ask(self, path: Path, by: Path | None, need: int, generation: int = 0) -> None:
        """Ask the run at `path` to give up room for the save of a generation of `by`, which None says is a person's."""
        self._asks.mkdir(exist_ok=True)
        name = f"{self._key(path)}-{self._key(by) if by else 'person'}{_NOTE}"
        _put(self._asks / name, Ask(self._name(path), self._name(by) if by else "", need, generation))

    def is_asked(self, path: Path) -> bool:
        """True where anybody asks the run at `path` for room; this needs no lock."""
        key = self._key(path)
        return any(name.startswith(key) for name in _names(self._asks))

    def take_asks(self, path: Path) -> list[Ask]:
        """What the run at `path` is asked for by those who are still there; none of it is asked any more."""
        key, found = self._key(path), list[Ask]()
        for name in _names(self._asks):
            victim, _, by = name.removesuffix(_NOTE).partition("-")
            if victim != key:
                continue
            ask = _get(self._asks / name, Ask)
            with suppress(OSError):
                os.unlink(self._asks / name)
            if ask is not None and (not ask.by or self._takes_part(by)):
                found.append(ask)
        return found

    def withdraw(self, by: Path) -> None:
        """What the run at `by` asked of others is no longer needed."""
        ending = f"-{self._key(by)}{_NOTE}"
        for name in _names(self._asks):
            if name.endswith(ending):
                with suppress(OSError):
                    os.unlink(self._asks / name)

    def _takes_part(self, key: str) -> bool:
        with self._dead(key) as dead:
            return not dead

    def _name(self, path: Path) -> str:
        return os.path.relpath(os.path.realpath(path), os.path.realpath(self.root))

    def _key(self, path: Path) -> str:
        return blake2s(os.fsencode(self._name(path)), digest_size=8).hexdigest()


def _lock(path: Path) -> FileLock:
    from filelock import FileLock  # it costs every command 30 ms

    return FileLock(path, is_singleton=False, thread_local=False)


def _names(home: Path) -> list[str]:
    try:
        return [name for name in os.listdir(home) if name.endswith((_NOTE, _LOCK))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _put(path: Path, note: msgspec.Struct) -> None:
    """In one step, without a sync: after a power cut nobody is left whom a note would concern."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(note))
    os.replace(temporary, path)


def _get(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *layout.NOT_JSON):
        return None
