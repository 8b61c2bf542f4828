"""A result line parsed: what a report reads of it, and where its prompt is.

Invariant: a line of another version is read as far as it goes; what is no line of ours is said to be none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from pydantic_core import from_json

from s2a_batch.forms import prompt_of_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from s2a_batch.records import Status


class UnreadableLineError(Exception):
    """Not a result line as any version of ours writes it."""


class WireMessage(TypedDict):
    """As `records.Message` is written."""

    content: str


class WireAttempt(TypedDict, total=False):
    """As `records.Attempt` is written."""

    started: str
    seconds: float
    waited_s: float
    status: int | None
    reask: bool
    outage: bool
    usage: dict[str, int | None] | None
    error: dict[str, str] | None


class WireStage(TypedDict, total=False):
    """As `records.StageAudit` is written."""

    borrowed: bool
    model: str
    model_answered: str | None
    finish_reason: str | None
    attempts: list[WireAttempt]
    messages: list[WireMessage] | None


class Line(TypedDict, total=False):
    """What a digest reads of a result line, as `records.result_line` writes it; what is really there may differ."""

    key: str
    line: int
    file: str | None
    id: JsonValue
    status: Status
    started_at: str
    seconds: float
    answer: JsonValue
    baseline: JsonValue
    rewrite: dict[str, str] | None
    error: dict[str, str] | None
    checks: list[dict[str, str]]
    policy: str | None
    stages: dict[str, WireStage | None]
    fingerprint: str
    input: JsonValue


def parsed(line: bytes) -> Line:
    """The line's object; raises `UnreadableLineError`."""
    try:
        found: Line = from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        raise UnreadableLineError from None
    return found


def prompt_of(found: Line, fields: Mapping[str, JsonValue]) -> str | None:
    """The user's text as the input gave it, whatever its form; None when the line holds none."""
    given = found.get("input")
    return prompt_of_input(given, fields) if isinstance(given, dict) else None
