"""A result line in the making: what is known of a record so far, and the outcome that comes of it.

Knows anyio's clock. Invariant: whatever ends a record, all that was sent for it is in its outcome.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from s2a_batch.errors import RecordError
from s2a_batch.records import Check, Outcome, RecordFault, Rewrite, StageAudit, Stages
from s2a_batch.stages import Trail

if TYPE_CHECKING:
    from datetime import datetime

    from pydantic import JsonValue

    from s2a_batch.errors import FailureKind
    from s2a_batch.records import AuditName, Record, StageName, Status
    from s2a_batch.stages import Stage


@dataclass(frozen=True, slots=True)
class FinishedRewrite:
    """A rewrite with its audit, from this execution or read back from an earlier one."""

    rewrite: Rewrite
    audit: StageAudit | None
    checks: tuple[Check, ...]
    policy: str | None = None
    borrowed: bool = False
    """Of another run, and in this one's files not yet."""

    @classmethod
    def from_line(cls, line: bytes, key: str, fingerprint: str | None) -> FinishedRewrite | None:
        """Read back a line with a rewrite; None when it is of another record, other settings or another version.

        Args:
            line: Of `rewrites.jsonl`.
            key: Of the record whose rewrite it must be: another run may write its file anew at any time.
            fingerprint: Of the settings that it must have; None: whatever made it.
        """
        try:
            found = json.loads(line)
            if found["key"] != key or (fingerprint is not None and found["fingerprint"] != fingerprint):
                return None
            audit, lent = found["stages"]["rewrite"], {"borrowed": True} if fingerprint is None else {}
            return cls(
                Rewrite.model_validate(found["rewrite"]),
                None if audit is None else StageAudit.model_validate(audit | lent),
                tuple(Check.model_validate(c) for c in found["checks"]),
                found.get("policy"),
                borrowed=fingerprint is None,
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def failed(self) -> tuple[Check, ...]:
        """The checks that say that it must not be trusted."""
        return tuple(check for check in self.checks if check.level == "error")

    def is_reasked(self) -> bool:
        """Whether it was asked for once more because a check failed."""
        attempts = () if self.audit is None else self.audit.attempts
        return any(a.error is not None and a.error.kind == "check_failed" for a in attempts)


@dataclass(slots=True)
class Draft:
    """A record on its way.

    Attributes:
        at: When it was taken up.
        started: The same, on anyio's clock.
        stage: Which stage it is in, or failed in.
        trail: What was sent in it so far; None when it is over.
        audits: Of the stages that are over, but for the rewrite's.
        checks: Of the answer.
        policy: What was done in place of answering from a sound rewrite.
        baseline: The answer to the prompt as it was given, for records of the sample.
    """

    record: Record
    fingerprint: str
    at: datetime
    started: float
    rewrite: FinishedRewrite | None = None
    stage: Stage | None = None
    trail: Trail | None = None
    audits: dict[str, StageAudit | None] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    policy: str | None = None
    baseline: JsonValue = None

    def begin(self, stage: Stage) -> Trail:
        """The trail of a stage that begins now."""
        self.end()
        self.stage, self.trail = stage, Trail(anyio.current_time())
        return self.trail

    def end(self, name: AuditName | None = None) -> None:
        """The stage that goes on is over: keep its audit, under its name or this one, and give its slot back."""
        if self.stage is not None and self.trail is not None:
            self.audits[name or self.stage.name] = self.stage.audit(self.trail)
        self.release()

    def release(self) -> None:
        """Nothing more comes of the stage that goes on: give its slot back."""
        if self.trail is not None:
            self.trail.release()
        self.trail = None

    def finished(self) -> FinishedRewrite:
        """The rewrite."""
        if self.rewrite is None:
            raise RecordError("bug", "the answer stage began without a rewrite")
        return self.rewrite

    def fault(self, kind: FailureKind, message: str) -> RecordFault:
        """Why this record is lost."""
        name: StageName = "rewrite" if self.stage is None or kind == "check_failed" else self.stage.name
        return RecordFault(kind=kind, message=message, stage=name, line=self.record.line)

    def outcome(
        self,
        status: Status,
        *,
        answer: JsonValue = None,
        error: RecordFault | None = None,
        fingerprint: str | None = None,
    ) -> Outcome:
        """What became of it; with the fingerprint of the settings that it depends on, when not of all."""
        audits = dict(self.audits)
        if self.rewrite is not None:
            audits["rewrite"] = self.rewrite.audit
        if self.stage is not None and self.trail is not None and self.stage.name not in audits:
            audits[self.stage.name] = self.stage.audit(self.trail)
        return Outcome(
            status=status,
            answer=answer,
            baseline=self.baseline,
            rewrite=None if self.rewrite is None else self.rewrite.rewrite,
            error=error,
            checks=(*(() if self.rewrite is None else self.rewrite.checks), *self.checks),
            policy=self.policy or (None if self.rewrite is None else self.rewrite.policy),
            stages=Stages(**audits),
            fingerprint=fingerprint or self.fingerprint,
            started_at=self.at.isoformat(timespec="milliseconds"),
            seconds=round(anyio.current_time() - self.started, 6),
        )
