"""A record's way through both stages: record in, outcome out.

Invariants: the answer stage sees the rewrite and, unless the job keeps it, nothing of the prompt; a finished rewrite is
written before its answer is asked for; a reply holds its slot until it is written; a bug in one record becomes that
record's dead letter.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from s2a_batch import checks, prompts
from s2a_batch.errors import Drained, RecordError, StopRun
from s2a_batch.records import Check, Outcome, RecordFault, Rewrite, StageAudit, Stages, result_line
from s2a_batch.stages import Trail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import JsonValue

    from s2a_batch.errors import FailureKind
    from s2a_batch.job import AnswerJob, RewriteJob
    from s2a_batch.records import BadLine, Record, Status
    from s2a_batch.stages import Stage


class Pipeline:
    """A record's way through both stages.

    Args:
        rewrite: Stage 1.
        answer: Stage 2; None stops after stage 1.
        rewrite_job: How stage 1 asks.
        answer_job: How stage 2 asks.
        fingerprint: Of the settings; goes into every result.
        rewrite_fingerprint: Of those that can change a rewrite; goes into every saved one.
        write: Puts the line of a record that is now answered, failed or rewritten on the disk.
    """

    def __init__(  # noqa: PLR0913  the parts of the design, each once
        self,
        rewrite: Stage,
        answer: Stage | None,
        *,
        rewrite_job: RewriteJob,
        answer_job: AnswerJob,
        fingerprint: str,
        rewrite_fingerprint: str,
        write: Callable[[Status, bytes], Awaitable[None]],
    ) -> None:
        self._rewrite = rewrite
        self._answer = answer
        self._rewrite_job = rewrite_job
        self._answer_job = answer_job
        self._fingerprint = fingerprint
        self._rewrite_fingerprint = rewrite_fingerprint
        self._write = write

    async def process(self, record: Record, finished: FinishedRewrite | None) -> Outcome | None:
        """Carry one record through, and write what comes of it.

        Args:
            record: What to ask.
            finished: Its rewrite, when an earlier execution paid for it.

        Returns:
            What became of it; None when the run stops after stage 1.

        Raises:
            Drained: The record stays pending; a finished rewrite is written.
            StopRun: The run cannot go on; the record stays pending.
        """
        line = _Line(record, self._fingerprint, datetime.now(UTC), anyio.current_time(), finished)
        try:
            outcome = await self._outcome(line)
            return None if outcome is None else await self.settle(record, outcome)
        finally:
            if line.trail is not None:
                line.trail.release()

    async def settle(self, record: Record | BadLine, outcome: Outcome) -> Outcome:
        """Write what became of a record; an answer that is no JSON, as a user's class may make it, is a dead letter."""
        try:
            data = result_line(record, outcome)
        except ValueError as error:
            message = f"the answer is no JSON: {type(error).__name__}"
            fault = RecordFault(kind="bug", message=message, stage="answer", line=record.line)
            outcome = outcome.model_copy(update={"status": "failed", "answer": None, "error": fault})
            data = result_line(record, outcome)
        await self._write(outcome.status, data)
        return outcome

    def dead_letter(self, bad: BadLine) -> Outcome:
        """What becomes of an input line that cannot be asked."""
        return Outcome(
            status="failed",
            error=RecordFault(kind=bad.kind, message=bad.message, stage="input", line=bad.line),
            fingerprint=self._fingerprint,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=0,
        )

    async def _outcome(self, line: _Line) -> Outcome | None:
        try:
            if line.rewrite is None:
                line.rewrite = await self._rewritten(line)
            if self._answer is None:
                return None
            return line.outcome("answered", answer=await self._answered(self._answer, line))
        except RecordError as error:
            return line.outcome("failed", error=line.fault(error.kind, str(error)))
        except (Drained, StopRun):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  the one place that turns a record's bug into its dead letter
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__} in {where.name} (line {where.lineno}); please report it"
            return line.outcome("failed", error=line.fault("bug", message))

    async def _rewritten(self, line: _Line) -> FinishedRewrite:
        job, record = self._rewrite_job, line.record
        messages = prompts.rewrite_messages(
            record.prompt, preset=job.preset, instructions=job.instructions, examples=job.examples
        )
        line.stage, line.trail = self._rewrite, (trail := Trail(anyio.current_time()))
        reply = await self._rewrite.run(messages, trail)
        if isinstance(reply, str):
            raise RecordError("invalid_reply", "the rewrite came as plain text")
        parts = reply.model_dump()
        audit = self._rewrite.audit(trail)
        rewrite = Rewrite(**parts, raw=trail.text)
        done = FinishedRewrite(rewrite, audit, checks.judge_rewrite(checks.Original(record.prompt), rewrite))
        line.rewrite, line.trail = done, None
        saved = line.outcome("rewritten").model_copy(update={"fingerprint": self._rewrite_fingerprint})
        try:
            await self._write("rewritten", result_line(record, saved))
        finally:
            trail.release()
        return done

    async def _answered(self, stage: Stage, line: _Line) -> JsonValue:
        job, rewrite = self._answer_job, line.finished().rewrite
        messages = prompts.answer_messages(
            rewrite.relevant_context,
            rewrite.user_query,
            instructed=job.instructed,
            instructions=job.instructions,
            examples=shown_examples(job),
            original=line.record.prompt if job.keep_original else None,
        )
        line.stage, line.trail = stage, Trail(anyio.current_time())
        reply = await stage.run(messages, line.trail)
        return {"answer": reply} if isinstance(reply, str) else reply.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class FinishedRewrite:
    """A rewrite with its audit, from this execution or read back from an earlier one."""

    rewrite: Rewrite
    audit: StageAudit | None
    checks: tuple[Check, ...]

    @classmethod
    def from_line(cls, line: bytes, fingerprint: str) -> FinishedRewrite | None:
        """Read back a line of `rewrites.jsonl`; None when other settings or another version of ours made it."""
        try:
            found = json.loads(line)
            if found["fingerprint"] != fingerprint:
                return None
            audit = found["stages"]["rewrite"]
            return cls(
                Rewrite.model_validate(found["rewrite"]),
                None if audit is None else StageAudit.model_validate(audit),
                tuple(Check.model_validate(c) for c in found["checks"]),
            )
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(slots=True)
class _Line:
    """A result line in the making."""

    record: Record
    fingerprint: str
    started_at: datetime
    started: float
    rewrite: FinishedRewrite | None = None
    stage: Stage | None = None
    trail: Trail | None = None

    def finished(self) -> FinishedRewrite:
        if self.rewrite is None:
            raise RecordError("bug", "the answer stage began without a rewrite")
        return self.rewrite

    def fault(self, kind: FailureKind, message: str) -> RecordFault:
        name = "rewrite" if self.stage is None else self.stage.name
        return RecordFault(kind=kind, message=message, stage=name, line=self.record.line)

    def outcome(self, status: Status, *, answer: JsonValue = None, error: RecordFault | None = None) -> Outcome:
        audits = {"rewrite": None if self.rewrite is None else self.rewrite.audit}
        if self.stage is not None and self.trail is not None:
            audits[self.stage.name] = self.stage.audit(self.trail)
        return Outcome(
            status=status,
            answer=answer,
            rewrite=None if self.rewrite is None else self.rewrite.rewrite,
            error=error,
            checks=() if self.rewrite is None else self.rewrite.checks,
            stages=Stages(**audits),
            fingerprint=self.fingerprint,
            started_at=self.started_at.isoformat(timespec="milliseconds"),
            seconds=round(anyio.current_time() - self.started, 6),
        )


def shown_examples(job: AnswerJob) -> prompts.Examples:
    """Which worked examples the answer stage sends."""
    if not job.examples or job.schema_file is not None or job.class_ is not None or job.type == "choice":
        return "none"
    shown: dict[str, prompts.Examples] = {"text": "text", "bool": "bool", "int": "number", "float": "number"}
    return shown[job.type]
