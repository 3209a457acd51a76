"""Where bytes live; a store knows directories and files, and nothing of checkpoints."""

from keepstep.stores.access import denied, in_words, open_as_directory, read_only, require_writable
from keepstep.stores.base import TEMPORARY_SUFFIX, Entry, EntryKind, Room, Stamp, Store, is_leftover_of
from keepstep.stores.hub_cache import HubSnapshot, store_at
from keepstep.stores.local import LocalStore
from keepstep.stores.mounts import MOUNTS, SHARED_BY_MACHINES, file_system_of
from keepstep.stores.renaming import exchange_names, rename_without_replacing

__all__ = [
    "MOUNTS",
    "SHARED_BY_MACHINES",
    "TEMPORARY_SUFFIX",
    "Entry",
    "EntryKind",
    "HubSnapshot",
    "LocalStore",
    "Room",
    "Stamp",
    "Store",
    "denied",
    "exchange_names",
    "file_system_of",
    "in_words",
    "is_leftover_of",
    "open_as_directory",
    "read_only",
    "rename_without_replacing",
    "require_writable",
    "store_at",
]
