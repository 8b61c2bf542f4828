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

from s2a_batch import prompts, setup, source
from s2a_batch.answers import RewriteReply, answer_model
from s2a_batch.figures import Estimate, Range, StageEstimate, added, most
from s2a_batch.job import OPENAI_URL, is_embedded
from s2a_batch.keys import KeyIndex
from s2a_batch.pipeline import shown_examples
from s2a_batch.prices import prices_of
from s2a_batch.records import BadLine, Known, Usage

if TYPE_CHECKING:
    from pydantic import BaseModel

    from s2a_batch.job import AnswerJob, Job, StageJob
    from s2a_batch.prices import CostOf
    from s2a_batch.records import StageName
    from s2a_batch.resume import Options


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
_TEXT_ANSWER_TOKENS: Final = Range(20, 400)
_FIELD_TOKENS: Final = Range(5, 60)
_SCALAR_TOKENS: Final = Range(5, 20)
_USUALLY_OPEN: Final = 16
_LATENCY_S: Final = Range(0.5, 2.0)
_TOKEN_S: Final = Range(0.01, 0.04)
_ASSUMED: Final = (
    "3 to 5.5 letters a token, 1 to 3 digits or marks, 0.5 to 3.5 characters outside of ASCII",
    "a rewrite of 0.3 to 1.0 times the prompt",
    "a text answer of 20 to 400 tokens",
    "no retries, re-asks or reasoning tokens",
    "a request takes 0.5 s and 10 ms for each output token, to 2 s and 40 ms",
)


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
        pending: Records to ask; `rewrites` of them need both stages, the others only their answer.
        prompts: Tokens of the pending prompts.
        rewritten: Tokens of those prompts whose rewrite is still to be made.
    """

    lines: int = 0
    bad: int = 0
    done: int = 0
    pending: int = 0
    rewrites: int = 0
    prompts: Range = field(default_factory=Range)
    rewritten: Range = field(default_factory=Range)

    def add(self, prompt: str, *, has_rewrite: bool) -> None:
        """Count one pending record."""
        tokens = text_tokens(prompt)
        self.pending += 1
        self.prompts += tokens
        if not has_rewrite:
            self.rewrites += 1
            self.rewritten += tokens


async def survey(job: Job, options: Options) -> Survey:
    """Read the input as a run of these options would, up to their limit; sends and writes nothing.

    Raises:
        JobError: A run would refuse to go on with changed settings.
        InputError: The input cannot be read to its end.
    """
    found = Survey()
    setup.check_changes(job, options)
    with KeyIndex() as keys:
        setup.read_done(job, options, keys)
        async with aclosing(source.records(job.input, job.fields, keys)) as records:
            async for record in records:
                if isinstance(record, Known):
                    found.lines += record.lines
                    found.done += record.lines
                    continue
                if found.pending == options.limit:
                    break
                found.lines += 1
                if isinstance(record, BadLine):
                    found.bad += 1
                else:
                    found.add(record.prompt, has_rewrite=keys.rewrite_offset(record.key) is not None)
    return found


def estimate(job: Job, found: Survey) -> Estimate:
    """What the surveyed records will take.

    Raises:
        JobError: The answer's type cannot be used, or money is capped and a price is not known.
    """
    prices = prices_of(job)
    stages: dict[StageName, StageEstimate] = {"rewrite": _rewriting(job, found, prices["rewrite"])}
    if not job.only:
        stages["answer"] = _answering(job, found, prices["answer"])
    return total(job, found, stages)


def total(job: Job, found: Survey, stages: dict[StageName, StageEstimate]) -> Estimate:
    """Both stages together."""
    costs = [stage.cost_usd for stage in stages.values() if stage.requests.high]
    known = [cost for cost in costs if cost is not None]
    return Estimate(
        lines=found.lines,
        bad=found.bad,
        done=found.done,
        pending=found.pending,
        stages=stages,
        cost_usd=added(known) if len(known) == len(costs) else None,
        seconds=_seconds(job, stages),
        assumed=_ASSUMED,
    )


def _rewriting(job: Job, found: Survey, cost_of: CostOf | None) -> StageEstimate:
    stage, n = job.rewrite, found.rewrites
    sent = prompts.rewrite_messages("", preset=stage.preset, instructions=stage.instructions, examples=stage.examples)
    given = found.rewritten + _overhead(sent, RewriteReply).times(n)
    share = found.rewritten.times(_REWRITE_SHARE.low, _REWRITE_SHARE.high)
    return _stage(stage, n, given, share + _REWRITE_FRAME_TOKENS.times(n), cost_of)


def _answering(job: Job, found: Survey, cost_of: CostOf | None) -> StageEstimate:
    stage, n = job.answer, found.pending
    model = answer_model(stage)
    sent = prompts.answer_messages(
        "", "", instructed=stage.instructed, instructions=stage.instructions, examples=shown_examples(stage)
    )
    given = found.prompts.times(_REWRITE_SHARE.low, _REWRITE_SHARE.high) + _overhead(sent, model).times(n)
    if stage.keep_original:
        given += found.prompts
    return _stage(stage, n, given, _answer_tokens(stage, model).times(n), cost_of)


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


def _overhead(messages: list[prompts.Message], model: type[BaseModel] | None) -> Range:
    """Tokens of a request beside the user's text; some servers count the schema, some do not."""
    tokens = added(text_tokens(message["content"]) + _MESSAGE_TOKENS for message in messages)
    schema = "" if model is None else json.dumps(model.model_json_schema())
    return tokens + Range(0, text_tokens(schema).high)


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
