"""Stage 1 of a record: asks for the rewrite in the job's form, judges it, and asks once more when a check fails.

Invariant: what is judged, kept and answered is one and the same rewrite.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from s2a_batch import passages, prompts
from s2a_batch.answers import PassagesReply, RewriteReply, SingleReply
from s2a_batch.checks import Original, judge_rewrite
from s2a_batch.checks.verdicts import reason
from s2a_batch.draft import FinishedRewrite
from s2a_batch.errors import RecordError
from s2a_batch.records import Rewrite

if TYPE_CHECKING:
    from pydantic import BaseModel

    from s2a_batch.draft import Draft
    from s2a_batch.forms import Asked
    from s2a_batch.stagejob import RewriteJob
    from s2a_batch.stages import Stage, Trail


_LONG_CHARS: Final = 50_000
# Only questions that cannot be answered by yes are plain; who speaks of himself, adds a clause or wants to be agreed
# with may lead.
_OPEN: Final = re.compile(r"(who|whose|what|when|where|which|how)\b[^,;:]*\?\Z", re.IGNORECASE)
_STANCE: Final = re.compile(
    r"\b(I|I'[a-z]+|me|my|we|our|us|surely|obviously|clearly|right|correct|agree|given|since|because|if)\b|n't\b",
    re.IGNORECASE,
)


class Rewriting:
    """How one job rewrites.

    Args:
        stage: What the requests pass through.
        job: Preset, form and wording.
        reask: Ask once more, with the reason, when a check fails.
    """

    def __init__(self, stage: Stage, job: RewriteJob, *, reask: bool) -> None:
        self._stage = stage
        self._job = job
        self._reask = reask

    async def next(self, draft: Draft) -> FinishedRewrite | None:
        """A judged rewrite of a record that has none, or one more when it failed a check; None when that is all.

        Each is to be written before the next one is asked for: it is paid for.

        Raises:
            RecordError: None can be had.
            Drained: The record stays pending.
            StopRun: The run cannot go on.
        """
        asked, first = draft.record.asked, draft.rewrite
        if first is not None and not (self._reask and first.failed() and first.audit and not first.is_reasked()):
            return None
        if self._job.skip and is_plain_question(asked.prompt):
            plain = Rewrite(relevant_context="", user_query=asked.prompt, raw="")
            return FinishedRewrite(plain, None, (), "skipped")
        parts = passages.passages(asked.prompt) if self._job.form == "passages" else []
        messages = prompts.rewrite_messages(
            passages.numbered(parts) if parts else asked.prompt,
            preset=self._job.preset,
            form=self._job.form,
            instructions=self._job.instructions,
            examples=self._job.examples,
        )
        trail = draft.begin(self._stage)
        if first is None:
            found = await self._judged(asked, await self._ask(messages, trail, parts), trail)
            self._stage.tally.done += 1
            return found
        return await self._better(first, messages, trail, parts, asked)

    async def _better(
        self, first: FinishedRewrite, messages: list[prompts.Message], trail: Trail, parts: list[str], asked: Asked
    ) -> FinishedRewrite:
        """Ask once more, with the reason, and take the one that fails fewer checks."""
        failed, why = first.failed(), reason(first.failed())
        if first.audit is not None:
            trail.attempts = list(first.audit.attempts)
            trail.messages = [message.model_dump() for message in first.audit.messages or ()] or list(messages)
        trail.text = first.rewrite.raw
        trail.mark_invalid("check_failed", f"{failed[0].name}: {why}"[:300])
        try:
            again = await self._ask(prompts.reask_messages(messages, trail.text, why), trail, parts)
        except RecordError:
            return FinishedRewrite(first.rewrite, self._stage.audit(trail), first.checks)
        second = await self._judged(asked, again, trail)
        better = second if len(second.failed()) <= len(failed) else first
        return FinishedRewrite(better.rewrite, second.audit, better.checks)

    async def _ask(self, messages: list[prompts.Message], trail: Trail, parts: list[str]) -> Rewrite:
        return _parts_of(await self._stage.run(messages, trail), parts, trail.text)

    async def _judged(self, asked: Asked, rewrite: Rewrite, trail: Trail) -> FinishedRewrite:
        kept = f"{asked.system}\n{asked.instructions}"
        original = Original(asked.prompt, asked.question, kept, rephrased=self._job.preset == "question")
        if len(asked.prompt) < _LONG_CHARS:
            found = judge_rewrite(original, rewrite)
        else:  # half a second a megabyte, in which no other record would go on
            found = await anyio.to_thread.run_sync(judge_rewrite, original, rewrite)
        return FinishedRewrite(rewrite, self._stage.audit(trail), found)


def _parts_of(reply: BaseModel | str, parts: list[str], raw: str) -> Rewrite:
    if isinstance(reply, SingleReply):
        return Rewrite(relevant_context="", user_query=reply.rewritten, raw=raw)
    if isinstance(reply, PassagesReply):
        return Rewrite(relevant_context=passages.kept(parts, reply.keep), user_query=reply.user_query, raw=raw)
    if isinstance(reply, RewriteReply):
        return Rewrite(relevant_context=reply.relevant_context, user_query=reply.user_query, raw=raw)
    raise RecordError("invalid_reply", "the rewrite came as plain text")


def is_plain_question(prompt: str) -> bool:
    """Whether a prompt is one question and nothing else, so that nothing can be taken out of it."""
    text = prompt.strip()
    return bool(_OPEN.match(text)) and len(passages.passages(text)) == 1 and not _STANCE.search(text)
