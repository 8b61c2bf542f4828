"""What a digest needs of one result line: numbers and a few words, no texts.

Invariant: a line is read whole or not at all, so that no count holds half of one; fields that another version added
are passed over, and fields that it lacks are unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from s2a_batch.htmlreport.resultlines import UnreadableLineError, prompt_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from s2a_batch.htmlreport.resultlines import Line, WireAttempt, WireStage
    from s2a_batch.records import Status

# Thai, Lao, Burmese, Khmer, Kana, Han: as `marks` splits them.
_SIGN: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
STAGES: Final = ("rewrite", "answer", "baseline")
_STATUSES: Final[frozenset[Status]] = frozenset({"answered", "failed", "rewritten"})
_WORD_CHARS: Final = 80
_MESSAGE_CHARS: Final = 300
_LAST_MOMENT: Final = 100_000_000_000
_MOST: Final = 1_000_000_000  # tokens, lines, seconds (32 years)


@dataclass(slots=True)
class Tokens:
    """Tokens of one request or a sum; None is unknown."""

    given: int | None = None
    cached: int | None = None
    came: int | None = None
    reasoning: int | None = None

    @property
    def known(self) -> bool:
        """Whether both directions are."""
        return self.given is not None and self.came is not None


@dataclass(slots=True)
class Sent:
    """One request.

    Attributes:
        at: When it was sent, Unix time.
        error: Why it failed, by the reason code; None when it did not.
        metered: Its tokens, as its server said; None when nothing was said.
    """

    at: float
    seconds: float
    waited_s: float
    status: int | None
    error: str | None
    outage: bool
    metered: Tokens | None


@dataclass(slots=True)
class Part:
    """One stage of a record.

    Attributes:
        sent_chars: Of its messages; None when the job kept their hash alone.
    """

    model: str
    answered_by: str | None
    finish: str | None
    sent: list[Sent]
    sent_chars: int | None


@dataclass(slots=True)
class Row:
    """One result line.

    Attributes:
        identity: The input's id as JSON text, cut.
        ended: When the record came to its end, Unix time.
        error: Reason code, stage and message of a dead letter.
        checks: Name and level of each.
        prompt_chars: None when the line holds no prompt, as that of a bad line; so `prompt_words`.
        rewrite_words: None without a rewrite.
        fingerprint: Of the settings that made it.
        flipped: Whether the prompt as given got another answer; None when it was not asked.
    """

    key: str
    line: int
    file: str | None
    identity: str
    status: Status
    ended: float
    seconds: float
    error: tuple[str, str, str] | None
    checks: list[tuple[str, str]]
    policy: str | None
    prompt_chars: int | None
    prompt_words: int | None
    rewrite_words: int | None
    flipped: bool | None
    fingerprint: str
    parts: dict[str, Part] = field(default_factory=dict)


def row_of(found: Line, fields: Mapping[str, JsonValue]) -> Row:
    """The numbers of a line.

    Args:
        found: As it was parsed.
        fields: The job's `fields` table.

    Raises:
        UnreadableLineError: It is not whole.
    """
    try:
        return _row(found, fields)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        raise UnreadableLineError from None


def _row(found: Line, fields: Mapping[str, JsonValue]) -> Row:
    status, stages, rewrite, error = found["status"], found["stages"], found["rewrite"], found["error"]
    if status not in _STATUSES:
        raise UnreadableLineError
    seconds, prompt, policy = _number(found["seconds"]), prompt_of(found, fields), found["policy"]
    return Row(
        key=str(found["key"]),
        line=int(_number(found["line"])),
        file=found.get("file"),
        identity=_identity(found["id"]),
        status=status,
        ended=_unix(found["started_at"]) + seconds,
        seconds=seconds,
        error=None if error is None else _error(error),
        checks=[(_word(check["name"]), _word(check["level"])) for check in found["checks"]],
        policy=None if policy is None else _word(policy),
        prompt_chars=None if prompt is None else len(prompt),
        prompt_words=None if prompt is None else _words(prompt),
        rewrite_words=None if rewrite is None else _words(rewrite["relevant_context"]) + _words(rewrite["user_query"]),
        flipped=None if found.get("baseline") is None else found["baseline"] != found["answer"],
        fingerprint=_word(found["fingerprint"]),
        parts={name: _part(part) for name in STAGES if (part := stages.get(name)) is not None},
    )


def _words(text: str) -> int:
    """Words between spaces; of scripts written without spaces each sign counts."""
    return len(text.split()) if text.isascii() else len(_SIGN.sub(" x ", text).split())


def _word(text: str) -> str:
    """A text that should be one word, cut."""
    if not isinstance(text, str):
        raise UnreadableLineError
    return text[:_WORD_CHARS]


def _identity(value: JsonValue) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text if len(text) <= _WORD_CHARS else text[: _WORD_CHARS - 1] + "…"


def _error(error: dict[str, str]) -> tuple[str, str, str]:
    return _word(error["kind"]), _word(error["stage"]), error["message"][:_MESSAGE_CHARS]


def _part(part: WireStage) -> Part:
    messages, finish, answered_by = part.get("messages"), part.get("finish_reason"), part.get("model_answered")
    return Part(
        model=_word(part["model"]),
        answered_by=None if answered_by is None else _word(answered_by),
        finish=None if finish is None else _word(finish),
        # What another run asked for is in that run's report.
        sent=[] if part.get("borrowed") is True else [_sent(attempt) for attempt in part["attempts"]],
        sent_chars=sum(len(message["content"]) for message in messages) if messages else None,
    )


def _sent(attempt: WireAttempt) -> Sent:
    usage, error = attempt.get("usage"), attempt.get("error")
    return Sent(
        at=_unix(attempt["started"]),
        seconds=_number(attempt["seconds"]),
        waited_s=_number(attempt["waited_s"]),
        status=_count(attempt.get("status")),
        error=None if error is None else _word(error["kind"]),
        outage=attempt.get("outage") is True,
        metered=None
        if usage is None
        else Tokens(
            _count(usage.get("input_tokens")),
            _count(usage.get("cached_tokens")),
            _count(usage.get("output_tokens")),
            _count(usage.get("reasoning_tokens")),
        ),
    )


def _count(value: int | None) -> int | None:
    if value is not None and not (isinstance(value, int) and 0 <= value < _MOST):
        raise UnreadableLineError
    return value


def _number(value: float) -> float:
    if not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise UnreadableLineError
    return value


def _unix(text: str) -> float:
    """Seconds of Unix time of an ISO 8601 text with an offset; nothing before 1970 and after 5138."""
    moment = datetime.fromisoformat(text).timestamp()
    if not 0 <= moment < _LAST_MOMENT:
        raise UnreadableLineError
    return moment
