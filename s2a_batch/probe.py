"""One small record through a job's stages, for real: do key, address, model and the form of the reply work?

Loads the SDK. Invariants: one request a stage, sent and judged as a run does it; no wait that a server asks for is
taken; nothing is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch.answers import answer_model
from s2a_batch.assembly import Assembly
from s2a_batch.bounds import Limits
from s2a_batch.caps import Budget
from s2a_batch.errors import StopRun
from s2a_batch.forms import Asked
from s2a_batch.prices import prices_of
from s2a_batch.records import Outcome, Record
from s2a_batch.report import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from s2a_batch.errors import FailureKind
    from s2a_batch.job import Job
    from s2a_batch.records import StageAudit, StageName, Status

_PARTS: Final = Outcome.model_fields.keys()
_PROMPT: Final = "Tom has 2 red apples. I think it is a nice day. How many apples does Tom have?"
_REPLIED: Final[frozenset[FailureKind]] = frozenset(
    {"truncated", "refusal", "content_filter", "empty_rewrite", "empty_answer", "only_reasoning", "invalid_reply"}
)


@dataclass(frozen=True, slots=True)
class Probed:
    """What became of one stage's request.

    Attributes:
        works: Whether it was answered.
        fits: Whether the reply has the form that the job asks for.
        message: For a person.
    """

    stage: StageName
    works: bool
    fits: bool
    message: str


async def probe(job: Job, environ: Mapping[str, str], say: Callable[[str], None]) -> list[Probed]:
    """Ask each stage once; an answer in plain text is not asked of a model that the rewrite has asked already.

    Args:
        job: As it would run.
        environ: Where keys are looked up.
        say: Prints a line for the person at the screen, as on a model file that is fetched.
    """
    stages = job.stages()
    found = [await _probed(job, name, environ, say) for name in stages if name == "rewrite"]
    places = {(stage.base_url, stage.model, stage.api_key_env, stage.api_key_file) for stage in stages.values()}
    plain = answer_model(job.answer) is None and stages.keys() == {"rewrite", "answer"} and len(places) == 1
    if "answer" in stages and not plain:
        found.append(await _probed(job, "answer", environ, say))
    return found


async def _probed(job: Job, name: StageName, environ: Mapping[str, str], say: Callable[[str], None]) -> Probed:
    lines: list[bytes] = []

    async def write(_status: Status, line: bytes) -> None:
        lines.append(line)

    assembly = Assembly(_alone(job, name), environ=environ, drain=anyio.Event(), tally=Tally(), say=say)
    record = Record(key="0" * 32, line=1, id_json=b"null", input_json=b"{}", asked=Asked(_PROMPT))
    try:
        async with assembly.parts("", "", write) as parts:
            await parts.pipeline.process(record, None)
            told = [(parts.limiters[0].requests.limit, "requests"), (parts.limiters[0].tokens.limit, "tokens")]
    except StopRun as stop:
        return Probed(name, works=False, fits=False, message=str(stop))
    outcome = Outcome.model_validate({key: part for key, part in json.loads(lines[-1]).items() if key in _PARTS})
    audit, error = outcome.stages.rewrite if name == "rewrite" else outcome.stages.answer, outcome.error
    works = error is None or error.kind in _REPLIED
    message = "" if audit is None else _told(job, name, audit)
    limits = [f"{amount:,.0f} {unit}" for amount, unit in told if amount is not None]
    if works and limits:
        message += f"; the server's limits: {' and '.join(limits)} a minute"
    if error is not None:
        message = f"{error.kind}: {error.message}" + (f" ({message})" if works else "")
    return Probed(name, works=works, fits=error is None, message=message)


def _told(job: Job, name: StageName, audit: StageAudit) -> str:
    """How a request went, in numbers."""
    last, cost_of = audit.attempts[-1], prices_of(job)[name]
    cost = "cost unknown" if cost_of is None else f"{cost_of(audit.usage):.6f} USD"
    model = audit.model if audit.model_answered in (None, audit.model) else f"{audit.model} as {audit.model_answered}"
    tokens = f"{audit.usage.input_tokens} + {audit.usage.output_tokens} tokens"
    return f"{model}: HTTP {last.status} in {last.seconds:.1f} s; {tokens}, {cost}"


def _alone(job: Job, name: StageName) -> Job:
    """The job with this stage alone, without second tries, and with no limits but those that the server tells."""
    bounds = job.retry.model_copy(update={"attempts": 1, "reasks": 0, "max_s": 1.0, "max_wait_s": 0.001})
    changes: dict[str, object] = {
        "retry": bounds,
        "limits": Limits(),
        "budget": Budget(),
        "rewrites": None,
        "rewrite": job.rewrite.model_copy(update={"skip": False, "reask_failed": False, "limits": None}),
        "answer": job.answer.model_copy(update={"limits": None}),
        "arm": "s2a" if name == "rewrite" else "baseline",
        "only": "rewrite" if name == "rewrite" else None,
    }
    return job.model_copy(update=changes)
