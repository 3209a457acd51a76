"""Tests of the core: stores, manifest, verification, repository, run, checkpointer, events, and crashes."""
