"""The job: what to run, as frozen models with defaults, bounds and units.

Knows pydantic. Invariants: a job holds no key, only the names of variables and files that hold keys; no model name is a
default here; what can change an answer is in `settings()`, and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)

from s2a_batch.arms import Compare
from s2a_batch.bounds import Limits, Retry, Table, count_schema, fault
from s2a_batch.caps import Budget, Price
from s2a_batch.forms import Fields
from s2a_batch.freeform import HttpUrl, Variable
from s2a_batch.inputs import stores
from s2a_batch.inputs.inputnames import STDIN
from s2a_batch.masking import masked_place, masked_url
from s2a_batch.operations import Hooks, Log, Metrics, Schedule, Telemetry
from s2a_batch.stagejob import EMBEDDED, TWO_KEYS, AnswerJob, RewriteJob, StageJob, is_local

if TYPE_CHECKING:
    from s2a_batch.records import StageName

OPENAI_URL: Final = "https://api.openai.com/v1"
OPENAI_KEY: Final = "OPENAI_API_KEY"
_SHOWN_CHARS: Final = 60
_MOST_PROCESSES: Final = 64
_NAME: Final = re.compile(r"\w[\w.-]*")
_KEY_PLACES: Final = frozenset({"api_key_env", "api_key_file"})

Arm = Literal["s2a", "baseline", "instructed", "cot", "oracle"]


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("expected letters, digits, '-', '_' and '.', for it may be part of a path")
    return name


# What letters are, editors decide otherwise: the schema refuses no name that a run takes.
Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": "^[^\\s/.-][^\\s/]*$"})]


def _processes(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_PROCESSES):
        return value
    raise ValueError(f"expected a whole number from 1 to {_MOST_PROCESSES}, or 'auto'")


Processes = Annotated[int | Literal["auto"], BeforeValidator(_processes), WithJsonSchema(count_schema(_MOST_PROCESSES))]


def _names(value: object) -> object:
    names = tuple(value) if isinstance(value, list | tuple) else (value,)
    found = tuple(str(name) if isinstance(name, Path) else name for name in names)
    if not found or not all(isinstance(name, str) and name for name in found):
        raise ValueError("expected a path, or a list of paths")
    if STDIN in found and len(found) > 1:
        raise ValueError("standard input ('-') goes alone")
    return found


def _as_given(names: tuple[str, ...]) -> str | list[str]:
    """For `run.json`: a text for one; what may be secret in a URL is left out."""
    shown = [stores.told(name) if stores.is_url(name) else name for name in names]
    return shown[0] if len(shown) == 1 else shown


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_names, json_schema_input_type=str | list[str]),
    PlainSerializer(_as_given, return_type=str | list[str], when_used="json"),
]
"""What an input is named by: files, patterns, directories, URLs, or `-`."""


class Job(Table):
    """One job, complete and checked."""

    name: Name | None = Field(default=None, description="Stands for {job}; if not given: the file's name.")
    input: Names = Field(description="JSON Lines: a file, pattern, directory, URL, '-' (stdin), or several.")
    output: Path = Field(description="The run's directory.")
    model: str | None = Field(default=None, description="Of both stages; without it and a base_url: the embedded one.")
    base_url: HttpUrl | None = Field(default=None, repr=False, description="Of both stages; if not given: OpenAI's.")
    api_key_env: Variable | None = Field(
        default=None, description="Variable with the key; if not given: OPENAI_API_KEY."
    )
    api_key_file: Path | None = Field(default=None, description="In place of api_key_env: a file with the key alone.")
    only: Literal["rewrite"] | None = Field(default=None, description="Stop after this stage.")
    arm: Arm = Field(default="s2a", description="How records are answered; all but s2a in one stage.")
    decoding: Literal["paper"] | None = Field(default=None, description="Temperature 0.6 and top_p 0.9, as the paper.")
    rewrites: Path | None = Field(default=None, description="A run's directory whose rewrites are used.")
    fields: Fields = Fields()
    rewrite: RewriteJob = RewriteJob()
    answer: AnswerJob = AnswerJob()
    limits: Limits = Limits()
    retry: Retry = Retry()
    budget: Budget = Budget()
    price: Price | None = Field(default=None, description="Of both stages, in place of the price list.")
    fsync_s: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="Longest time between two fsyncs; 0: with every commit."
    )
    processes: Processes = Field(
        default=1, description="Of this machine that share the work and its limits; 'auto': as many as there are cores."
    )
    compare: Compare = Compare()
    schedule: Schedule = Schedule()
    hooks: Hooks = Hooks()
    log: Log = Log()
    metrics: Metrics = Metrics()
    telemetry: Telemetry = Telemetry()
    messages: Literal["full", "hash"] = Field(default="full", description="Keep the messages sent, or their hash.")

    _files: list[JsonValue] = PrivateAttr(default_factory=list)

    def model_post_init(self, context: object) -> None:
        """Keep what the caller says of the files that it comes from."""
        if isinstance(context, dict):
            self._files = context["files"]

    @property
    def files(self) -> list[JsonValue]:
        """Path and SHA-256 of the job file, behind those of the files that it extends; none of a job of options."""
        return self._files

    @model_validator(mode="before")
    @classmethod
    def _fill_stages(cls, job: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Hand the top level's model, base_url and place of the key to each stage that does not set its own."""
        filled = dict(job)
        shared = {name: job[name] for name in ("model", "base_url", *_KEY_PLACES) if job.get(name) is not None}
        if shared.keys() >= _KEY_PLACES:
            raise fault("api_key_env", TWO_KEYS)
        decoding = _PAPER if job.get("decoding") == "paper" else {}
        for stage in ("rewrite", "answer"):
            table = job.get(stage, {})
            if isinstance(table, dict):
                filled[stage] = decoding | _embedded_defaults(_inherited(table, shared) | table)
        return filled

    @model_validator(mode="after")
    def _places(self) -> Job:
        if self.output.is_file() or (str(self.output) in self.input and not self.output.is_dir()):
            raise fault("output", f"{self.output} is a file; it is the run's directory and must be new or one of ours")
        if self.only is not None and self.arm != "s2a":
            raise fault("only", f"only = 'rewrite' and arm = '{self.arm}' exclude each other: that arm has no rewrite")
        for name, stage in (("rewrite", self.rewrite), ("answer", self.answer)):
            if stage.base_url is not None and stage.model is None:
                raise fault(f"{name}.base_url", f"{name} has a base_url and no model; name the model")
        if self.processes not in (1, "auto") and any(is_embedded(stage) for stage in self.stages().values()):
            raise fault("processes", "is for a server of your own: the embedded model has one; leave processes out")
        return self

    def stages(self) -> dict[StageName, StageJob]:
        """The stages that run, by name."""
        if self.arm != "s2a":
            return {"answer": self.answer}
        return {"rewrite": self.rewrite} if self.only else {"rewrite": self.rewrite, "answer": self.answer}

    @property
    def reasks_failed(self) -> bool:
        """Whether a rewrite that fails a check is asked for once more; by default when its failure matters."""
        asked = self.rewrite.reask_failed
        return self.answer.on_failed_check != "answer_anyway" if asked is None else asked

    def settings(self) -> dict[str, JsonValue]:
        """What can change a result, flat: `rewrite.model`, `answer.type`, .. A resume needs all of it equal."""
        parts = {"fields": self.fields.model_dump()} | {name: stage.settings() for name, stage in self.stages().items()}
        if self.arm != "s2a":
            parts["answer"]["arm"] = self.arm
        elif self.rewrites is not None:
            parts["rewrite"]["from"] = str(self.rewrites.absolute())
        return {f"{part}.{name}": value for part, table in parts.items() for name, value in table.items()}

    def effective(self) -> dict[str, JsonValue]:
        """The whole job as it runs, for `run.json`.

        Logins and queries of addresses are left out; of a hook its address's path too, and its command's arguments.
        """
        found = self.model_dump(mode="json", by_alias=True)
        hooks = (found["hooks"]["on_success"], found["hooks"]["on_failure"])
        for table, name, mask in (
            *((table, "base_url", masked_url) for table in (found, found["rewrite"], found["answer"])),
            *((hook, "url", masked_place) for hook in hooks if hook is not None),
            (found["telemetry"], "endpoint", masked_url),
        ):
            if table[name] is not None:
                table[name] = mask(table[name])
        for hook in hooks:
            if hook is not None:
                del hook["command"][1:]
        return found


def is_embedded(stage: StageJob) -> bool:
    """Whether the stage is served by the embedded model server: `embedded`, a GGUF path, or no endpoint at all."""
    return stage.base_url is None and is_local(stage.model)


_PAPER: Final[dict[str, JsonValue]] = {"temperature": 0.6, "top_p": 0.9}  # arXiv 2311.11829, sec. 4
_EMBEDDED_DEFAULTS: Final[dict[str, JsonValue]] = {
    "model": EMBEDDED,
    "temperature": 0.0,
    "max_tokens": 640,  # two full fields of digits, one token each
    "max_chars": 300,
    "examples": True,
    "open_requests": 1,  # each stage keeps a slot, and in it the examples it has read: twice as fast
}


def _inherited(table: dict[str, JsonValue], shared: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What a stage takes from the top level: a key never goes to an endpoint that it was not named for."""
    if "base_url" in table:
        return {name: shared[name] for name in ("model",) if name in shared}
    if _KEY_PLACES & table.keys():
        shared = {name: value for name, value in shared.items() if name not in _KEY_PLACES}
    return {} if is_local(table.get("model")) else shared


def _embedded_defaults(table: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Settings that a tiny model needs to come through a stage, under what the job says itself."""
    if table.get("base_url") is None and is_local(table.get("model", EMBEDDED)):
        return _EMBEDDED_DEFAULTS | table
    return table


def fingerprint(settings: dict[str, JsonValue]) -> str:
    """12 hex digits that stand for the settings in each result line."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def changes(old: dict[str, JsonValue], new: dict[str, JsonValue]) -> list[str]:
    """Readable differences of two settings, one a line, long values cut."""
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [f"{name}: {_short(old.get(name))} -> {_short(new.get(name))}" for name in names]


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
