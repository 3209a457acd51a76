"""Skips this room where torch or safetensors is not installed."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
