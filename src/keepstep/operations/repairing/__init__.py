"""Rebuilding what is lost or damaged of a run's records: shown first, the damaged kept, no checkpoint touched."""

from keepstep.operations.repairing.repair import Repair, RepairChanged, plan_repair, repair

__all__ = ["Repair", "RepairChanged", "plan_repair", "repair"]
