"""Where bytes live; a store knows directories and files, and nothing of checkpoints."""

from keepstep.stores.access import denied, open_as_directory
from keepstep.stores.base import TEMPORARY_SUFFIX, Entry, EntryKind, Room, Stamp, Store, is_leftover_of
from keepstep.stores.hub_cache import HubSnapshot, store_at
from keepstep.stores.local import LocalStore
from keepstep.stores.renaming import exchange_names, rename_without_replacing

__all__ = [
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
    "is_leftover_of",
    "open_as_directory",
    "rename_without_replacing",
    "store_at",
]
