"""What every training test needs: the number of kills in the summary."""

from __future__ import annotations

from typing import Any

from tests.training.processes import deaths


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if deaths():
        terminalreporter.write_line(f"{deaths()} trainings were killed by SIGKILL and resumed")
