"""A loop without a framework shows what an integration must show."""

from __future__ import annotations

from keepstep.testing.integrations import IntegrationConformance
from tests.integrations.raw_loop import RawLoop


class TestRawLoop(IntegrationConformance):
    def make_adapter(self) -> RawLoop:
        return RawLoop()
