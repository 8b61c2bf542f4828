"""The wire types: what crosses the disk, from the input line to the result line.

Knows pydantic alone. Invariant: an input object and its id travel as the bytes that were read, spliced into the output
line, so 9007199254740993, 0.10 and every escape come back as they were; nothing parses and prints them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from s2a_batch.errors import FailureKind

if TYPE_CHECKING:
    from s2a_batch.forms import Asked

SCHEMA_VERSION: Final = 1
LINE_PREFIX: Final = b'{"schema":%d,"key":"' % SCHEMA_VERSION
"""How every line of every output file begins, so that a resume reads keys without parsing JSON."""

StageName = Literal["rewrite", "answer"]
AuditName = Literal["rewrite", "answer", "baseline"]
Status = Literal["answered", "failed", "rewritten"]
Level = Literal["error", "warn", "info"]


class Wire(BaseModel):
    """Frozen, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(Wire):
    """Tokens of one request or a sum of several; None means that the server did not say."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        """Sum field by field; unknown plus known is known (a lower bound)."""
        return Usage(
            input_tokens=_add(self.input_tokens, other.input_tokens),
            cached_tokens=_add(self.cached_tokens, other.cached_tokens),
            output_tokens=_add(self.output_tokens, other.output_tokens),
            reasoning_tokens=_add(self.reasoning_tokens, other.reasoning_tokens),
        )

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens, as far as known."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)


def _add(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


class Fault(Wire):
    """Why an attempt or a record failed: a code, and a short sentence without prompt text."""

    kind: FailureKind
    message: str


class Attempt(Wire):
    """One HTTP request: one pass of the limiter, one entry here."""

    n: int = Field(ge=1, description="Counted within the stage of the record, from 1.")
    started: str = Field(description="UTC, ISO 8601 with offset.")
    seconds: float = Field(ge=0, description="From sending to the last byte or the error.")
    waited_s: float = Field(ge=0, description="Waited for limits and backoff before it was sent.")
    status: int | None = None
    request_id: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    reask: bool = Field(default=False, description="Sent with the reason why the last reply was not usable.")
    retry_after_s: float | None = None
    outage: bool = Field(
        default=False, description="The endpoint was down for everyone: not counted against the record."
    )
    error: Fault | None = None
    reply: str | None = Field(default=None, description="What came back, kept when it was not usable.")


class Message(Wire):
    """One chat message as sent."""

    role: str
    content: str


class StageAudit(Wire):
    """Everything between the input and the output of one stage of one record."""

    model: str
    model_answered: str | None = None
    prompt_version: str
    messages: tuple[Message, ...] | None = Field(description="As first sent; None when the job keeps hashes only.")
    messages_sha256: str
    parameters: dict[str, JsonValue]
    usage: Usage
    finish_reason: str | None = None
    attempts: tuple[Attempt, ...]
    borrowed: bool = Field(default=False, description="Another run asked, and paid, for it.")
    raw: str | None = Field(default=None, description="An answer's reply before it was parsed, as `rewrite.raw`.")


class Rewrite(Wire):
    """Stage 1's result: all that the answer stage may see of the prompt."""

    relevant_context: str
    user_query: str
    raw: str = Field(description="The reply's text before it was parsed.")


class Check(Wire):
    """One judgement on a rewrite that needs no model."""

    name: str
    level: Level
    message: str
    words: tuple[str, ...] = ()


class RecordFault(Fault):
    """Why the record is a dead letter, and where."""

    stage: StageName | Literal["input"]
    line: int


class Stages(Wire):
    """The audit of both stages; None for a stage that sent nothing."""

    rewrite: StageAudit | None = None
    answer: StageAudit | None = None
    baseline: StageAudit | None = None


class Outcome(Wire):
    """A result line without the parts that are spliced in as bytes (see `result_line`)."""

    status: Status
    answer: JsonValue = None
    baseline: JsonValue = Field(default=None, description="The answer to the prompt as given, for a sample.")
    rewrite: Rewrite | None = None
    error: RecordFault | None = None
    checks: tuple[Check, ...] = ()
    policy: str | None = Field(default=None, description="What was done in place of answering from a sound rewrite.")
    stages: Stages = Stages()
    file: str | None = Field(default=None, description="The line's, of an input of several files.")
    fingerprint: str
    started_at: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """One input line that can be asked.

    Attributes:
        key: Identity: hash of the raw line, and how many equal lines came before it.
        line: Physical line number, from 1.
        id_json: The input's id as JSON text, `null` when it has none.
        input_json: The whole input object as it stands in the file, ends trimmed.
        asked: What it asks.
        file: The line's, of an input of several files.
    """

    key: str
    line: int
    id_json: bytes
    input_json: bytes
    asked: Asked
    file: str | None = None

    @property
    def prompt(self) -> str:
        """All of the user's text that is rewritten."""
        return self.asked.prompt


@dataclass(frozen=True, slots=True)
class BadLine:
    r"""One input line that cannot be asked; it becomes a dead letter.

    Attributes:
        input_json: The input object when the line is strict JSON, else None.
        raw: The line as text (undecodable bytes as \xNN), cut to a few thousand characters; None with `input_json`.
    """

    key: str
    line: int
    id_json: bytes
    input_json: bytes | None
    raw: str | None
    kind: FailureKind
    message: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Half a line at the end of a file that may still be written to: pending, and nothing of it is asked.

    Attributes:
        file: The line's, of an input of several files.
        name: The file's, as messages say it.
    """

    line: int
    file: str | None
    name: str

    def __str__(self) -> str:
        """One line for a person."""
        why = "no newline and no whole JSON, as if still being written"
        return f"{self.name} line {self.line}: {why}; it waits for the next run"


def place_of(line: int, file: str | None) -> str:
    """A line of the input, as short as it is clear: `12`, `b.jsonl:12`."""
    return str(line) if file is None else f"{file}:{line}"


@dataclass(slots=True)
class Known:
    """Input lines near each other whose records were done before.

    Attributes:
        failed: Of these: dead letters.
    """

    lines: int = 0
    failed: int = 0

    def note(self, status: Status) -> None:
        """Count one line more."""
        self.lines += 1
        self.failed += status == "failed"


class _Raw(Wire):
    raw: str | None


def result_line(record: Record | BadLine, outcome: Outcome) -> bytes:
    """One strict JSON line, LF at its end, of a record and what became of it."""
    if record.file is not None:
        outcome = outcome.model_copy(update={"file": record.file})
    tail: list[bytes | memoryview]
    if record.input_json is not None:
        tail = [b',"input":', record.input_json]
    else:
        raw = record.raw if isinstance(record, BadLine) else None
        tail = [b',"input":null,', _fields(_Raw(raw=raw))]
    head = b'%s%s","line":%d,"id":%s,' % (LINE_PREFIX, record.key.encode(), record.line, record.id_json)
    return b"".join([head, _fields(outcome), *tail, b"}\n"])  # one copy: a line may be as long as a book


def _fields(part: Wire) -> memoryview:
    """A part's JSON without its braces."""
    return memoryview(part.model_dump_json().encode())[1:-1]
