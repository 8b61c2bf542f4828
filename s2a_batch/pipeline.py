"""A record's way through both stages: record in, outcome out.

Invariants: the answer stage sees the rewrite and, unless the job keeps it, nothing of the prompt; a finished rewrite is
written before its answer is asked for; a reply holds its slot until it is written; a bug in one record becomes that
record's dead letter.
"""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch import prompts
from s2a_batch.checks import judge_answer
from s2a_batch.draft import Draft, FinishedRewrite
from s2a_batch.errors import Drained, RecordError, StopRun
from s2a_batch.records import Outcome, RecordFault, Rewrite, Stages, result_line
from s2a_batch.rewriting import Rewriting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import JsonValue

    from s2a_batch.job import Job
    from s2a_batch.records import BadLine, Record, Status
    from s2a_batch.stagejob import AnswerJob
    from s2a_batch.stages import Stage

# Without a rewrite there is nothing else to show: what could not be had is as bad as what failed a check.
_FALL_BACK: Final = ("original", "keep_original")
_SHARES: Final = 1 << 32


class Pipeline:
    """A record's way through both stages.

    Args:
        rewrite: Stage 1; None for an arm that answers the prompt as it is given.
        answer: Stage 2; None stops after stage 1.
        job: How they ask.
        fingerprint: Of the settings; goes into every result.
        rewrite_fingerprint: Of those that can change a rewrite; goes into every saved one.
        write: Puts the line of a record that is now answered, failed or rewritten on the disk.
    """

    def __init__(  # noqa: PLR0913  the parts of the design, each once
        self,
        rewrite: Stage | None,
        answer: Stage | None,
        *,
        job: Job,
        fingerprint: str,
        rewrite_fingerprint: str,
        write: Callable[[Status, bytes], Awaitable[None]],
    ) -> None:
        self._rewriting = None if rewrite is None else Rewriting(rewrite, job.rewrite, reask=job.reasks_failed)
        self._answer = answer
        self._job = job
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
        draft = Draft(record, self._fingerprint, datetime.now(UTC), anyio.current_time(), finished)
        try:
            outcome = await self._outcome(draft)
            return None if outcome is None else await self.settle(record, outcome)
        finally:
            draft.release()

    async def settle(self, record: Record | BadLine, outcome: Outcome) -> Outcome:
        """Write what became of a record; what is no JSON, as the answer of a user's class, is a dead letter."""
        try:
            data = result_line(record, outcome)
        except ValueError as error:
            outcome, data = _without_what_is_no_json(record, outcome, type(error).__name__)
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

    async def _outcome(self, draft: Draft) -> Outcome | None:
        try:
            if self._rewriting is not None:
                await self._rewrite(draft, self._rewriting)
            if self._answer is None:
                return None
            answer = await self._answered(self._answer, draft)
            if draft.rewrite is not None and (said := _words_of(answer)):
                draft.checks = judge_answer(said, draft.rewrite.rewrite)
            if self._job.arm == "s2a" and is_drawn(draft.record.key, self._job.answer.baseline_share):
                await self._ask_baseline(self._answer, draft)
            return draft.outcome("answered", answer=answer)
        except RecordError as error:
            return draft.outcome("failed", error=draft.fault(error.kind, str(error)))
        except (Drained, StopRun):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  the one place that turns a record's bug into its dead letter
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} in {where.name} (line {where.lineno})"
            if draft.stage is self._answer is not None and self._job.answer.class_ is not None:
                return draft.outcome(
                    "failed", error=draft.fault("invalid_reply", f"{what}, raised by the answer's class")
                )
            return draft.outcome("failed", error=draft.fault("bug", f"{what}; please report it"))

    async def _rewrite(self, draft: Draft, rewriting: Rewriting) -> None:
        """Ask for the rewrite and write each one that is paid for; when none can be had, the policy may go on without.

        One of another run is written too, so that this run needs the other no more.
        """
        if draft.rewrite is not None and draft.rewrite.borrowed:
            await self._save(draft)
        try:
            while (found := await rewriting.next(draft)) is not None:
                draft.rewrite = found
                await self._save(draft)
        except RecordError as error:
            if self._answer is None or self._job.answer.on_failed_check not in _FALL_BACK or error.kind == "bug":
                raise
            draft.end()
            draft.policy = "original"
            return

    async def _save(self, draft: Draft) -> None:
        """Write a finished rewrite."""
        outcome = draft.outcome("rewritten", fingerprint=self._rewrite_fingerprint)
        await self._write("rewritten", result_line(draft.record, outcome))
        draft.release()

    async def _answered(self, stage: Stage, draft: Draft) -> JsonValue:
        job, asked = self._job.answer, draft.record.asked
        if self._job.arm != "s2a":
            draft.stage = stage
            if self._job.arm == "oracle" and asked.oracle is None:
                raise RecordError("bad_prompt", f"'{self._job.fields.oracle}' is missing: there is no oracle's prompt")
            direct = prompts.direct_messages(
                asked, self._job.arm, instructed=job.instructed, instructions=job.instructions
            )
            return await self._ask(stage, draft, direct)
        if draft.policy is None and draft.rewrite is not None and draft.rewrite.failed():
            draft.policy = job.on_failed_check
        if draft.policy == "fail":
            failed = draft.finished().failed()[0]
            raise RecordError("check_failed", f"the rewrite failed the check {failed.name}: {failed.message}")
        if draft.policy == "original":
            return await self._ask(stage, draft, self._as_given(draft))
        return await self._ask(stage, draft, _from_rewrite(draft, job))

    async def _ask(self, stage: Stage, draft: Draft, messages: list[prompts.Message]) -> JsonValue:
        reply = await stage.run(messages, draft.begin(stage))
        stage.tally.done += 1
        return {"answer": reply} if isinstance(reply, str) else reply.model_dump(mode="json")

    async def _ask_baseline(self, stage: Stage, draft: Draft) -> None:
        """Answer the prompt as given too, to see how often a rewrite turns the answer.

        Whatever keeps it from an answer, the record has its own, which is written all the same; what stops the run
        will stop the next request.
        """
        try:
            found = await self._ask(stage, draft, self._as_given(draft))
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
            draft.baseline = found
        except (Exception, SystemExit):  # noqa: BLE001, S110  also of the answer's class, which may raise anything
            pass
        draft.end("baseline")

    def _as_given(self, draft: Draft) -> list[prompts.Message]:
        return prompts.direct_messages(draft.record.asked, "baseline", instructions=self._job.answer.instructions)


def _without_what_is_no_json(record: Record | BadLine, outcome: Outcome, why: str) -> tuple[Outcome, bytes]:
    fault = RecordFault(kind="bug", message=f"the answer is no JSON: {why}", stage="answer", line=record.line)
    lost = outcome.model_copy(update={"status": "failed", "error": fault, "answer": None, "baseline": None})
    try:
        return lost, result_line(record, lost)
    except ValueError:  # nor is the audit: a line without it is better than a run that ends here, again and again
        fault = fault.model_copy(update={"message": f"the audit is no JSON: {why}; please report it"})
        bare = {"error": fault, "rewrite": None, "checks": (), "stages": Stages()}
        lost = lost.model_copy(update=bare)
        return lost, result_line(record, lost)


def _from_rewrite(draft: Draft, job: AnswerJob) -> list[prompts.Message]:
    rewrite: Rewrite = draft.finished().rewrite
    keep = job.keep_original or draft.policy == "keep_original"
    return prompts.answer_messages(
        rewrite.relevant_context,
        rewrite.user_query,
        instructed=job.instructed,
        instructions=job.instructions,
        examples=shown_examples(job),
        original=draft.record.prompt if keep else None,
        asked=draft.record.asked,
    )


def _words_of(answer: JsonValue) -> str:
    """What an answer says in words: a number or a choice of true and false says none."""
    if isinstance(answer, dict):
        return " ".join(_words_of(part) for part in answer.values())
    return answer if isinstance(answer, str) else ""


def is_drawn(key: str, share: float) -> bool:
    """Whether a record is in a sample of this share: always the same ones, spread evenly."""
    return int(key[:8], 16) < share * _SHARES


def shown_examples(job: AnswerJob) -> prompts.Examples:
    """Which worked examples the answer stage sends."""
    if not job.examples or job.schema_file is not None or job.class_ is not None or job.type == "choice":
        return "none"
    shown: dict[str, prompts.Examples] = {"text": "text", "bool": "bool", "int": "number", "float": "number"}
    return shown[job.type]
