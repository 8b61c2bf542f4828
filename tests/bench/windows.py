"""What a provider's limits allow: windows over the last second and the last minute, and what broke them.

Invariant: a window holds what was served; a refused request counts as a violation and nowhere else.
"""

from __future__ import annotations

import math
from collections import deque


class Window:
    """What was served in the last `span_s` seconds, of which there may be `most`."""

    def __init__(self, span_s: int, most: float) -> None:
        self.span_s, self.most = span_s, most
        self.held, self.peak, self.violations = 0.0, 0.0, 0
        self._served: deque[tuple[float, float]] = deque()

    def room(self, now: float, amount: float) -> bool:
        """Whether this much more fits now; a violation if not. One larger than the whole fits an empty window."""
        while self._served and self._served[0][0] <= now - self.span_s:
            self.held -= self._served.popleft()[1]
        fits = not self._served or self.held + amount <= self.most
        self.violations += not fits
        return fits

    def add(self, now: float, amount: float) -> None:
        """Count what is served."""
        self._served.append((now, amount))
        self.held += amount
        self.peak = max(self.peak, self.held)

    def left(self) -> int:
        """How much fits still."""
        return max(0, int(self.most - self.held))

    def wait_s(self, now: float) -> int:
        """Whole seconds until the oldest is gone, at least one, as Retry-After wants it."""
        return max(1, math.ceil(self._served[0][0] + self.span_s - now)) if self._served else 1


class Limits:
    """Windows of 1 and 60 seconds over requests and tokens; which of them refuse is the behaviour's matter."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, enforced_s: int = 1) -> None:
        self._enforced_s = enforced_s
        given = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self.windows = {
            f"{name}_{span}s": Window(span, max(1.0, most * span / 60))
            for name, most in given.items()
            if most is not None
            for span in (1, 60)
        }

    def refusal_s(self, now: float, tokens: int) -> int:
        """0 for a request that is served, and counts; else the seconds after which to try again."""
        amounts = [(window, 1 if name.startswith("requests") else tokens) for name, window in self.windows.items()]
        full = [window for window, amount in amounts if not window.room(now, amount)]
        if waits := [window.wait_s(now) for window in full if window.span_s == self._enforced_s]:
            return max(waits)
        for window, amount in amounts:
            window.add(now, amount)
        return 0

    def headers(self) -> bytes:
        """As OpenAI names them, of the enforced windows."""
        lines = []
        for kind in ("requests", "tokens"):
            if (whole := self.windows.get(f"{kind}_60s")) is not None:
                left = self.windows[f"{kind}_{self._enforced_s}s"].left()
                lines += [f"x-ratelimit-limit-{kind}: {whole.most:.0f}", f"x-ratelimit-remaining-{kind}: {left}"]
                lines += [f"x-ratelimit-reset-{kind}: {self._enforced_s}s"]
        return "".join(f"{line}\r\n" for line in lines).encode()
