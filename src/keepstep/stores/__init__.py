"""Where bytes live; a store knows directories and files, and nothing of checkpoints."""

from keepstep.stores.base import Entry, EntryKind, Room, Stamp, Store, is_leftover_of
from keepstep.stores.local import LocalStore

__all__ = ["Entry", "EntryKind", "LocalStore", "Room", "Stamp", "Store", "is_leftover_of"]
