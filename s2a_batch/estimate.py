"""What a job will take before anything is sent: requests, tokens, money and time, as ranges.

Invariants: the input is streamed, so memory stays flat; a figure that is not known is None, never 0; every assumption
is said beside the figures. The ranges cover ways of writing and tokenizing, and no retries, re-asks or reasoning.
"""

from __future__ import annotations

import json
import string
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from s2a_batch import passages, prompts, resume, setup, source
from s2a_batch.answers import REWRITE_REPLIES, answer_model, with_reasoning
from s2a_batch.figures import Estimate, Range, StageEstimate, added, most
from s2a_batch.job import OPENAI_URL, is_embedded
from s2a_batch.pipeline import shown_examples
from s2a_batch.prices import prices_of
from s2a_batch.records import BadLine, Known, Usage, Waiting

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic import BaseModel

    from s2a_batch.forms import Asked
    from s2a_batch.job import Job
    from s2a_batch.prices import CostOf
    from s2a_batch.records import AuditName, StageName
    from s2a_batch.resume import Options
    from s2a_batch.stagejob import AnswerJob, StageJob


# English words have 4 to 5 letters a token, digits and marks are one each or join by three; other scripts go from 3.5
# (Cyrillic, large vocabulary) to 0.5. By SmolLM2's own count (2,056 tokens of problems, 3,139 of code, 5,715 of
# Markdown) the truth lay at 0.28 to 0.44 of the way from low to high; Japanese at 0.84.
_LETTERS: Final = (string.ascii_letters + string.whitespace).encode()
_LETTER_TOKENS: Final = Range(1 / 5.5, 1 / 3.0)
_MARK_TOKENS: Final = Range(1 / 3.0, 1.0)
_OTHER_TOKENS: Final = Range(1 / 3.5, 1 / 0.5)
_MESSAGE_TOKENS: Final = Range(3, 8)
_REWRITE_SHARE: Final = Range(0.3, 1.0)
_REWRITE_FRAME_TOKENS: Final = Range(10, 20)
_QUESTION_TOKENS: Final = 100
_NUMBER_TOKENS: Final = Range(0, 3)
_TEXT_ANSWER_TOKENS: Final = Range(20, 400)
_FIELD_TOKENS: Final = Range(5, 60)
_SCALAR_TOKENS: Final = Range(5, 20)
_USUALLY_OPEN: Final = 16
_LATENCY_S: Final = Range(0.5, 2.0)
_TOKEN_S: Final = Range(0.01, 0.04)
_COPIED: Final = "a rewrite of 0.3 to 1.0 times the prompt"
_NAMED: Final = f"a rewrite of at most {_QUESTION_TOKENS} tokens, and 3 for each passage"


def text_tokens(text: str) -> Range:
    """About how many tokens a text is."""
    plain = text.encode("ascii", "ignore")
    marks = len(plain.translate(None, _LETTERS))
    tokens = _LETTER_TOKENS.times(len(plain) - marks) + _MARK_TOKENS.times(marks)
    return tokens + _OTHER_TOKENS.times(len(text) - len(plain))


@dataclass(slots=True)
class Survey:
    """What of the input is left to do.

    Attributes:
        waiting: Half last lines, as if still being written.
        pending: Records to ask.
        rewrites: Requests of the first stage.
        answers: Requests of the second, all of them; `direct` of these show the prompt as it was given.
        rewritten: Tokens of the texts that are to be rewritten.
        replies: Tokens of the passages' numbers and the questions, for rewrites that copy nothing else.
        prompts: Tokens of the prompts that are answered from their rewrite.
        past: Tokens that go past the rewrite to the answer: system text, earlier turns, instructions.
        given: Tokens of the direct requests' messages.
    """

    lines: int = 0
    bad: int = 0
    waiting: int = 0
    done: int = 0
    pending: int = 0
    rewrites: int = 0
    answers: int = 0
    direct: int = 0
    rewritten: Range = field(default_factory=Range)
    replies: Range = field(default_factory=Range)
    prompts: Range = field(default_factory=Range)
    past: Range = field(default_factory=Range)
    given: Range = field(default_factory=Range)

    def add(self, job: Job, asked: Asked, requests: Collection[AuditName]) -> None:
        """Count one pending record, which takes a request for each of these."""
        self.pending += 1
        if "rewrite" in requests:
            self.rewrites += 1
            parts = passages.passages(asked.prompt) if job.rewrite.form == "passages" else []
            tokens = text_tokens(passages.numbered(parts) if parts else asked.prompt)
            self.rewritten += tokens
            self.replies += tokens.capped(_QUESTION_TOKENS).times(_REWRITE_SHARE.low, 1.0)
            self.replies += _NUMBER_TOKENS.times(len(parts))
        if "baseline" in requests:
            self._add_direct(_tokens_of(prompts.direct_messages(asked, "baseline")))
        if "answer" in requests and job.arm != "s2a":
            sent = prompts.direct_messages(asked, job.arm, instructed=job.answer.instructed)
            self._add_direct(_tokens_of(sent))
        elif "answer" in requests:
            self.answers += 1
            self.prompts += text_tokens(asked.prompt)
            for text in (asked.system, asked.instructions):
                self.past += text_tokens(text)
            for _, text in asked.turns:
                self.past += text_tokens(text) + _MESSAGE_TOKENS

    def _add_direct(self, tokens: Range) -> None:
        self.answers += 1
        self.direct += 1
        self.given += tokens


async def survey(job: Job, options: Options) -> Survey:
    """Read the input as a run of these options would, up to their limit; sends and writes nothing.

    Raises:
        JobError: A run would refuse to go on with changed settings, or has no rewrites to borrow.
        InputError: The input cannot be read to its end.
    """
    found = Survey()
    resume.check_changes(job, options)
    with setup.Outlook(job, options) as outlook:
        async with aclosing(source.records(job.input, job.fields, outlook.keys)) as records:
            async for record in records:
                if isinstance(record, Known):
                    found.lines += record.lines
                    found.done += record.lines
                    continue
                if found.pending + found.bad == options.limit:
                    break
                found.lines += 1
                if isinstance(record, Waiting):
                    found.waiting += 1
                elif isinstance(record, BadLine):
                    found.bad += 1
                else:
                    found.add(job, record.asked, outlook.requests(record))
    return found


def estimate(job: Job, found: Survey) -> Estimate:
    """What the surveyed records will take.

    Raises:
        JobError: The answer's type cannot be used, or money is capped and a price is not known.
    """
    prices = prices_of(job)
    work = {"rewrite": _rewriting, "answer": _answering}
    return total(job, found, {name: work[name](job, found, prices[name]) for name in job.stages()})


def total(job: Job, found: Survey, stages: dict[StageName, StageEstimate]) -> Estimate:
    """Both stages together."""
    costs = [stage.cost_usd for stage in stages.values() if stage.requests.high]
    known = [cost for cost in costs if cost is not None]
    return Estimate(
        lines=found.lines,
        bad=found.bad,
        unfinished=found.waiting,
        done=found.done,
        pending=found.pending,
        stages=stages,
        cost_usd=added(known) if len(known) == len(costs) else None,
        seconds=_seconds(job, stages),
        assumed=_assumed(job),
    )


def _assumed(job: Job) -> tuple[str, ...]:
    rewrite = (_NAMED if job.rewrite.form == "passages" else _COPIED,) if "rewrite" in job.stages() else ()
    return (
        "3 to 5.5 letters a token, 1 to 3 digits or marks, 0.5 to 3.5 characters outside of ASCII",
        *rewrite,
        "a text answer of 20 to 400 tokens",
        "no retries, re-asks or reasoning tokens",
        "a request takes 0.5 s and 10 ms for each output token, to 2 s and 40 ms",
    )


def _rewriting(job: Job, found: Survey, cost_of: CostOf | None) -> StageEstimate:
    stage, n = job.rewrite, found.rewrites
    sent = prompts.rewrite_messages(
        "", preset=stage.preset, form=stage.form, instructions=stage.instructions, examples=stage.examples
    )
    given = found.rewritten + (_tokens_of(sent) + _schema_tokens(REWRITE_REPLIES[stage.form])).times(n)
    copied = found.rewritten.times(_REWRITE_SHARE.low, _REWRITE_SHARE.high)
    came = found.replies if stage.form == "passages" else copied
    return _stage(stage, n, given, came + _REWRITE_FRAME_TOKENS.times(n), cost_of)


def _answering(job: Job, found: Survey, cost_of: CostOf | None) -> StageEstimate:
    stage, n = job.answer, found.answers
    model = answer_model(stage)
    came = _answer_tokens(stage, model)
    if job.arm == "cot" and (reasoned := with_reasoning(model, stage)) is not model:
        model, came = reasoned, came + _TEXT_ANSWER_TOKENS
    sent = prompts.answer_messages(
        "", "", instructed=stage.instructed, instructions=stage.instructions, examples=shown_examples(stage)
    )
    given = found.prompts.times(_REWRITE_SHARE.low, _REWRITE_SHARE.high) + found.past + found.given
    given += _tokens_of(sent).times(n - found.direct) + _schema_tokens(model).times(n)
    if stage.keep_original:
        given += found.prompts
    return _stage(stage, n, given, came.times(n), cost_of)


def _stage(stage: StageJob, n: int, given: Range, came: Range, cost_of: CostOf | None) -> StageEstimate:
    bound = stage.max_tokens or stage.max_completion_tokens
    came = came if bound is None else came.capped(bound * n)
    return StageEstimate(
        requests=Range(n, n),
        input_tokens=given,
        output_tokens=came,
        cost_usd=_cost(cost_of, n, given, came),
        open_s=None if is_embedded(stage) else _LATENCY_S.times(n) + came.times(_TOKEN_S.low, _TOKEN_S.high),
    )


def _cost(cost_of: CostOf | None, n: int, given: Range, came: Range) -> Range | None:
    """The mean request's, times their number: prices step up with a request's length, not with a run's."""
    if cost_of is None:
        return None
    ends = ((given.low, came.low), (given.high, came.high))
    each = [cost_of(Usage(input_tokens=round(i / max(n, 1)), output_tokens=round(o / max(n, 1)))) for i, o in ends]
    return Range(*each).times(n)


def _tokens_of(messages: list[prompts.Message]) -> Range:
    return added(text_tokens(message["content"]) + _MESSAGE_TOKENS for message in messages)


def _schema_tokens(model: type[BaseModel] | None) -> Range:
    """Some servers count the schema, some do not."""
    schema = "" if model is None else json.dumps(model.model_json_schema())
    return Range(0, text_tokens(schema).high)


def _answer_tokens(stage: AnswerJob, model: type[BaseModel] | None) -> Range:
    if model is None:
        return _TEXT_ANSWER_TOKENS
    if stage.choices:
        longest = max(stage.choices, key=len)
        return _SCALAR_TOKENS + Range(0, text_tokens(longest).high)
    if stage.schema_file is None and stage.class_ is None:
        return _SCALAR_TOKENS
    properties = model.model_json_schema().get("properties", {})
    return _SCALAR_TOKENS + _FIELD_TOKENS.times(max(1, len(properties)))


def _seconds(job: Job, stages: dict[StageName, StageEstimate]) -> Range | None:
    """The slowest of the accounts: each works under its own limits, beside the others."""
    accounts: dict[tuple[str | None, ...], list[StageName]] = {}
    for name, stage in job.stages().items():
        place = (stage.base_url or OPENAI_URL, stage.api_key_env or str(stage.api_key_file), stage.model)
        accounts.setdefault(place, []).append(name)
    found = [_account_s(job, [(job.stages()[name], stages[name]) for name in names]) for names in accounts.values()]
    known = [seconds for seconds in found if seconds is not None]
    if len(known) < len(found):
        return None
    return most(known)


def _account_s(job: Job, parts: list[tuple[StageJob, StageEstimate]]) -> Range | None:
    limits = parts[0][0].limits or job.limits
    if any(part.open_s is None for _, part in parts):
        return None
    requests = added(part.requests for _, part in parts)
    tokens = added(part.input_tokens + part.output_tokens for _, part in parts)
    open_s = added(part.open_s or Range() for _, part in parts)
    # What 'auto' comes to is for the server to say; it starts at what is usual.
    fewest = _USUALLY_OPEN if limits.open_requests == "auto" else None
    bounds = [open_s.times(1 / limits.most_open, None if fewest is None else 1 / fewest)]
    # However many are open, a record goes through one stage after the other.
    bounds.append(added((part.open_s or Range()).times(1 / max(1.0, part.requests.low)) for _, part in parts))
    bounds += [(part.open_s or Range()).times(1 / stage.open_requests) for stage, part in parts if stage.open_requests]
    bounds += [requests.times(60 / limits.requests_per_minute)] if limits.requests_per_minute else []
    bounds += [tokens.times(60 / limits.tokens_per_minute)] if limits.tokens_per_minute else []
    return most(bounds)
