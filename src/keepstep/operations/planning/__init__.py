"""The arithmetic of checkpoints before there are any: bytes, phases on disk, times, and how often to save."""
