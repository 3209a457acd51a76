"""The Trainer shows what an integration must show."""

from __future__ import annotations

import pytest

pytest.importorskip("trl")

from keepstep.testing.integrations import IntegrationConformance
from tests.integrations.trainer import TrainerAdapter

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]


class TestTrainer(IntegrationConformance):
    def make_adapter(self) -> TrainerAdapter:
        return TrainerAdapter()
