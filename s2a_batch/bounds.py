"""How a job may behave: limits, and bounds on trying again. Nothing here can change an answer.

Knows pydantic. Invariant: every wait and every repetition has a bound, with its unit in its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

AUTO_MOST_OPEN: Final = 512
MOST_OPEN: Final = 10_000

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def count_schema(most: int) -> dict[str, JsonValue]:
    """JSON Schema of a count that may also be found by itself."""
    return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": most}, {"const": "auto"}]}


def fault(key: str, message: str) -> PydanticCustomError:
    """What a validator of a whole table raises when the fault is with this key of it."""
    return PydanticCustomError("key", "{message}", {"message": message, "key": key})


def _kinds(annotation: object) -> set[object]:
    """All types that a key may have."""
    parts = get_args(annotation)
    found = {get_origin(annotation) or annotation}
    return found if get_origin(annotation) is Literal else found.union(*map(_kinds, parts))


class Table(BaseModel):
    """Frozen, and closed to unknown keys: a typo is an error, never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_it_stands(cls, value: object, info: ValidationInfo) -> object:
        """True is no 1: `max_requests = true` would stop a night after one request; "no" is no false, "5" no number.

        An empty path is none: it would be the working directory.
        """
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) or (isinstance(value, str) and not kinds & {str, Literal, Path}):
            if not isinstance(value, bool) and bool in kinds:
                raise PydanticCustomError("bool_type", "no true or false")
            if kinds & {int, float} and bool not in kinds:
                raise PydanticCustomError("float_type" if float in kinds else "int_type", "no number")
        elif value == "" and Path in kinds:
            raise PydanticCustomError("path", "expected a path, found an empty text")
        elif isinstance(value, int | float) and bool in kinds:
            raise PydanticCustomError("bool_type", "no true or false")
        return value


def _open_requests(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_OPEN):
        return value
    raise ValueError(f"expected a whole number from 1 to {MOST_OPEN}, or 'auto'")


MostOpen = Annotated[int | Literal["auto"], BeforeValidator(_open_requests), WithJsonSchema(count_schema(MOST_OPEN))]


class Limits(Table):
    """Limits of one account and model; both stages share them when they use the same."""

    open_requests: MostOpen = Field(default=16, description="Most requests open at a time; 'auto' looks for it.")
    requests_per_minute: Positive | None = Field(
        default=None, description="If not given: as the server tells or teaches."
    )
    tokens_per_minute: Positive | None = Field(
        default=None, description="Input and output; if not given: as the server tells."
    )

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
    max_backoff_s: Positive = Field(default=60.0, description="Bound of all further ones.")
    max_wait_s: Positive = Field(default=600.0, description="Longest wait taken from a server; more stops the run.")
    failed: Literal["never", "transient", "all"] = Field(
        default="never", description="Which dead letters later executions take up again."
    )
    drain_s: Positive = Field(default=30.0, description="After a signal, open requests may take this long.")
