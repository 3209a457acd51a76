"""How often to save: the interval at which time spent on saves and work lost in failures cost least together."""

from __future__ import annotations

import math
from dataclasses import dataclass

_TURNS = 200


@dataclass(frozen=True, slots=True)
class Failures:
    """All in seconds: the training time that a save costs, the mean time between failures, the time of a restart."""

    save_cost: float
    mtbf: float
    restart: float = 0.0

    def young(self) -> float:
        """The first-order optimum, sqrt(2 * cost * MTBF).

        J. W. Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974.
        """
        return math.sqrt(2 * self.save_cost * self.mtbf)

    def daly(self) -> float:
        """The higher-order estimate, and the MTBF itself where a save costs twice that or more.

        J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22(3), 2006.
        """
        ratio = self.save_cost / (2 * self.mtbf)
        if ratio >= 1:
            return self.mtbf
        return self.young() * (1 + math.sqrt(ratio) / 3 + ratio / 9) - self.save_cost

    def optimum(self) -> float:
        """The interval at which `overhead` is least, found by bisection of its derivative."""
        low, high = 0.0, self.mtbf
        for _ in range(_TURNS):
            middle = (low + high) / 2
            rising = 1 - middle / self.mtbf < math.exp(-(middle + self.save_cost) / self.mtbf)
            low, high = (low, middle) if rising else (middle, high)
        return (low + high) / 2

    def overhead(self, interval: float) -> float:
        """Expected time beyond the training itself, as a part of it, when saving every `interval` seconds of training.

        Daly's complete model with exponential failures: M exp(R/M) (exp((t + cost)/M) - 1) / t - 1.
        """
        try:
            lengthened = math.exp(self.restart / self.mtbf) * math.expm1((interval + self.save_cost) / self.mtbf)
        except OverflowError:
            return math.inf
        return self.mtbf * lengthened / interval - 1

    def curve(self) -> list[tuple[float, float]]:
        """Intervals in seconds from an eighth to eight times the optimum, each with its overhead."""
        best = self.optimum()
        return [(interval, self.overhead(interval)) for interval in (best * 2 ** (power / 2) for power in range(-6, 7))]
