"""These tests do not wait for the disk, nor for an interpreter at each command."""

import pytest

from tests.training.commands import Shell
from tests.unsynced import no_waiting_for_the_disk

__all__ = ["no_waiting_for_the_disk"]


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Starts `keepstep` in processes of the warm server."""
    return Shell(tmp_path_factory.mktemp("shell"))
