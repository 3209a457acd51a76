"""Where bytes live; a store knows directories and files, and nothing of checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepstep.faces import handing_on

if TYPE_CHECKING:
    from keepstep.stores.access import denied, in_words, open_as_directory, read_only, require_writable
    from keepstep.stores.base import TEMPORARY_SUFFIX, Entry, EntryKind, Room, Stamp, Store, is_leftover_of
    from keepstep.stores.cache import CacheFiles, key_of
    from keepstep.stores.hub_cache import HubSnapshot, store_at
    from keepstep.stores.local import LocalStore, write_all
    from keepstep.stores.memory import MemoryStore
    from keepstep.stores.mounts import MOUNTS, SHARED_BY_MACHINES, file_system_of
    from keepstep.stores.renaming import exchange_names, rename_without_replacing

__all__ = [
    "MOUNTS",
    "SHARED_BY_MACHINES",
    "TEMPORARY_SUFFIX",
    "CacheFiles",
    "Entry",
    "EntryKind",
    "HubSnapshot",
    "LocalStore",
    "MemoryStore",
    "Room",
    "Stamp",
    "Store",
    "denied",
    "exchange_names",
    "file_system_of",
    "in_words",
    "is_leftover_of",
    "key_of",
    "open_as_directory",
    "read_only",
    "rename_without_replacing",
    "require_writable",
    "store_at",
    "write_all",
]

_HOMES = {
    "access": ("denied", "in_words", "open_as_directory", "read_only", "require_writable"),
    "base": ("Entry", "EntryKind", "Room", "Stamp", "Store", "TEMPORARY_SUFFIX", "is_leftover_of"),
    "cache": ("CacheFiles", "key_of"),
    "hub_cache": ("HubSnapshot", "store_at"),
    "local": ("LocalStore", "write_all"),
    "memory": ("MemoryStore",),
    "mounts": ("MOUNTS", "SHARED_BY_MACHINES", "file_system_of"),
    "renaming": ("exchange_names", "rename_without_replacing"),
}
__getattr__, __dir__ = handing_on(__name__, _HOMES)
