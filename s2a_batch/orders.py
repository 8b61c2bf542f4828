"""What a person at another terminal changes in a run that goes on: its caps, or that it pauses.

Invariants: an order holds for this execution alone; None leaves a thing as it is; it can change no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2a_batch.records import StageName


@dataclass(frozen=True, slots=True)
class Order:
    """What is to change.

    Attributes:
        held: Whether anything new may be sent: True holds it back, False lets it go on.
        stage: Whose account the limits are for; None: every account.
        open_requests: Most that may be open.
        adaptive: Whether the best number up to that is to be looked for.
        requests_per_minute: `math.inf` lifts the limit.
        tokens_per_minute: Likewise.
    """

    held: bool | None = None
    stage: StageName | None = None
    open_requests: int | None = None
    adaptive: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
