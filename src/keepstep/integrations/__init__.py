"""Adapters to training libraries: they translate, and hold no rule about what to keep."""
