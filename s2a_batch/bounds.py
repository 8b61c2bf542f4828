"""How a job may behave: limits, and bounds on trying again. Nothing here can change an answer.

Knows pydantic. Invariant: every wait and every repetition has a bound, with its unit in its name.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

AUTO_MOST_OPEN: Final = 512
MOST_OPEN: Final = 10_000

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _takes_number(annotation: object) -> bool:
    return annotation in (int, float) or any(_takes_number(part) for part in get_args(annotation))


class Table(BaseModel):
    """Frozen, and closed to unknown keys: a typo is an error, never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: object, info: ValidationInfo) -> object:
        """True is no 1: `max_requests = true` would stop a night after one request."""
        if isinstance(value, bool) and _takes_number(cls.model_fields[str(info.field_name)].annotation):
            raise PydanticCustomError("float_type", "true and false are no numbers")
        return value


def _open_requests(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_OPEN):
        return value
    raise ValueError(f"expected a whole number from 1 to {MOST_OPEN}, or 'auto'")


class Limits(Table):
    """Limits of one account and model; both stages share them when they use the same."""

    open_requests: Annotated[int | Literal["auto"], BeforeValidator(_open_requests)] = 16
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None

    @property
    def most_open(self) -> int:
        """Most requests that may ever be open at a time."""
        return AUTO_MOST_OPEN if self.open_requests == "auto" else self.open_requests


class Retry(Table):
    """Bounds on trying again, for each stage of a record. Seconds."""

    attempts: int = Field(default=6, ge=1, le=100, description="HTTP requests at most, re-asks included.")
    reasks: int = Field(default=1, ge=0, le=10, description="Attempts with the reason why the last reply did not fit.")
    deadline_s: Positive = Field(default=120.0, description="From sending a request to its last byte.")
    max_s: Positive = Field(default=900.0, description="No attempt starts later than this after the first.")
    backoff_s: Positive = Field(default=0.5, description="Bound of the first backoff; doubles, with full jitter.")
    max_backoff_s: Positive = 60.0
    max_wait_s: Positive = Field(default=600.0, description="Longest wait taken from a server; more stops the run.")
    drain_s: Positive = Field(default=30.0, description="After a signal, open requests may take this long.")
