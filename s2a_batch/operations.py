"""What a job says of its operation: when it runs, who is told, what can be watched. None of it can change an answer.

Knows pydantic. Invariants: no secret stands here, only the names of variables that hold one; every wait has a bound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from s2a_batch.bounds import Positive, Table, fault
from s2a_batch.cron import crontab
from s2a_batch.freeform import Headers, HttpUrl, Variable


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # the last one: no such zone
        raise ValueError("no time zone; expected an IANA name such as UTC or Europe/Berlin") from None
    return name


class Schedule(Table):
    """When `s2a-batch schedule` runs the job, and what the units of `schedule --print` say."""

    cron: Annotated[str, AfterValidator(crontab)] | None = Field(
        default=None, description="Five fields: minute hour day month weekday. If not given: never."
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(default="UTC", description="IANA name.")
    jitter_s: float = Field(default=0.0, ge=0, le=86_400, description="Begin up to so much later, at random.")
    misfire: Literal["run", "skip"] = Field(default="run", description="What becomes of a time that was missed.")
    misfire_grace_s: Positive | None = Field(default=None, description="A time missed by more is skipped.")
    timeout_s: Positive | None = Field(default=None, description="Drain a run that takes longer.")


class Hook(Table):
    """Whom to tell how a run ended: a command, which reads the summary as JSON from stdin, or a webhook."""

    command: tuple[str, ...] = Field(default=(), description="Program and arguments; no shell.")
    url: HttpUrl | None = Field(default=None, repr=False, description="Gets the summary by POST.")
    url_env: Variable | None = Field(default=None, description="Variable that holds the url, where that is a secret.")
    headers_env: Headers = Field(default={}, description="Header name -> variable that holds its value.")

    @model_validator(mode="after")
    def _one_way(self) -> Hook:
        if (bool(self.command), self.url is not None, self.url_env is not None).count(True) != 1:
            raise fault("command", "give one of command, url and url_env")
        if self.command and self.headers_env:
            raise fault("headers_env", "goes with a url; a command has no headers")
        return self


class Hooks(Table):
    """Whom to tell how a run ended. A hook that fails is told, and changes nothing else."""

    on_success: Hook | None = Field(default=None, description="After exit 0.")
    on_failure: Hook | None = Field(default=None, description="After any other end.")
    timeout_s: Positive = Field(default=30.0, le=3_600, description="Longest time that a hook may take.")


class Log(Table):
    """How a run speaks on stderr."""

    format: Literal["text", "json"] = Field(default="text", description="json: one object a line.")


class Metrics(Table):
    """Where Prometheus finds the counts of a run."""

    port: int | None = Field(default=None, ge=1, le=65_535, description="Serve /metrics while the run goes.")
    address: str = Field(default="127.0.0.1", description="On which address.")
    textfile: Path | None = Field(default=None, description="Write them here, for the node exporter's textfiles.")


class Telemetry(Table):
    """Where OpenTelemetry traces and metrics go."""

    endpoint: HttpUrl | None = Field(default=None, repr=False, description="A collector's OTLP/HTTP address.")
    headers_env: Headers = Field(default={}, description="Header name -> variable that holds its value.")
    content: bool = Field(default=False, description="Also send the messages.")
