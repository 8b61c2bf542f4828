"""What the two stages of a job have: models, keys' places, how a reply is asked for, the answer's type.

Knows pydantic. Invariant: no model name is a default here; what can change a result is in `settings()`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, JsonValue, model_validator

from s2a_batch.bounds import Limits, Table, fault
from s2a_batch.caps import Price
from s2a_batch.errors import JobError
from s2a_batch.freeform import Body, Headers, HttpUrl, Variable

EMBEDDED: Final = "embedded"
TWO_KEYS: Final = "give api_key_env or api_key_file, not both; one place holds the key"

Mode = Literal["json_schema", "tools", "json", "md_json"]
Preset = Literal["unbiased", "relevance", "question"]
Form = Literal["split", "single", "passages"]
Policy = Literal["answer_anyway", "keep_original", "original", "fail"]
AnswerType = Literal["text", "int", "float", "bool", "choice"]


class StageJob(Table):
    """What both stages have. A None of model, base_url and the key's place is filled from the job's top level."""

    model: str | None = Field(default=None, description="Its name at the endpoint, 'embedded', or a .gguf file.")
    base_url: HttpUrl | None = Field(default=None, repr=False, description="Endpoint; ends in /v1 for most servers.")
    api_key_env: Variable | None = Field(default=None, description="Variable that holds the key.")
    api_key_file: Path | None = Field(default=None, description="In place of api_key_env.")
    headers_env: Headers = Field(default={}, description="Header name -> variable that holds its value.")
    mode: Mode = Field(default="json_schema", description="How a typed reply is asked for.")
    strict: bool = Field(default=True, description="Ask the server to hold the schema strictly.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sent when given.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Sent when given.")
    seed: int | None = Field(default=None, description="Sent when given.")
    max_tokens: int | None = Field(default=None, ge=1, description="Bound on a reply, as most servers take it.")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="The same for reasoning models.")
    max_chars: int | None = Field(default=None, ge=1, description="Bound on each text field, told to the server.")
    extra_body: Body = Field(default={}, description="Further request fields, sent as they are; none of ours.")
    instructions: str | None = Field(default=None, description="Replaces our wording of the stage's instructions.")
    examples: bool = Field(default=False, description="Send worked examples; small models need them.")
    open_requests: int | None = Field(
        default=None, ge=1, description="This stage's own cap; if not given: only the limits'."
    )
    limits: Limits | None = Field(default=None, description="In place of the job's, for a stage on its own account.")
    price: Price | None = Field(default=None, description="In place of the job's and of the price list.")

    @model_validator(mode="after")
    def _one_of_two(self) -> StageJob:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise fault("max_tokens", "give max_tokens or max_completion_tokens, not both; servers take one of them")
        if self.api_key_env is not None and self.api_key_file is not None:
            raise fault("api_key_env", TWO_KEYS)
        return self

    def settings(self) -> dict[str, JsonValue]:
        """What of this stage can change a result."""
        places = {"base_url", "api_key_env", "api_key_file", "headers_env", "open_requests", "limits", "price"}
        found = self.model_dump(mode="json", by_alias=True, exclude=places)
        if is_local(self.model):  # a model file counts by its name, wherever it lies
            found["model"] = Path(str(self.model)).name
        return found


class RewriteJob(StageJob):
    """Stage 1."""

    preset: Preset = Field(default="relevance", description="What a rewrite drops.")
    form: Form = Field(default="split", description="Context and question, one text, or numbers of passages to keep.")
    skip: bool = Field(default=False, description="Ask no rewrite of a prompt that is one plain question.")
    reask_failed: bool | None = Field(
        default=None, description="Ask once more when a check fails; if not given: by policy."
    )


class AnswerJob(StageJob):
    """Stage 2. The answer's type is one of `type`, `schema_file` or `class`."""

    type: AnswerType = Field(default="text", description="What answers are.")
    choices: tuple[str, ...] = Field(default=(), description="The options of type 'choice'.")
    schema_file: Path | None = Field(default=None, description="A JSON Schema of an object.")
    class_: str | None = Field(default=None, alias="class", description="package.module:Model, a pydantic model.")
    instructed: bool | str = Field(default=True, description="Ask for an answer without bias; a text: in these words.")
    keep_original: bool = Field(default=False, description="Show the original prompt beside the rewrite.")
    on_failed_check: Policy = Field(default="answer_anyway", description="When a rewrite fails a check, re-asked.")
    baseline_share: float = Field(default=0.0, ge=0, le=1, description="Also answer so many of the prompts as given.")

    @model_validator(mode="after")
    def _one_type(self) -> AnswerJob:
        if (self.type == "choice") != bool(self.choices):
            raise fault("choices" if self.choices else "type", "type = 'choice' and choices = [..] go together")
        given = [self.type != "text", self.schema_file is not None, self.class_ is not None]
        if sum(given) > 1:
            raise fault("class" if self.class_ else "schema_file", "give one of type, schema_file and class")
        return self

    def settings(self) -> dict[str, JsonValue]:
        """As of the stage; a schema file counts by its content, not by its place."""
        found = super().settings()
        if self.schema_file is not None:
            found["schema_file"] = hashlib.sha256(read_bytes(self.schema_file)).hexdigest()
        return found


def is_local(model: JsonValue) -> bool:
    """Whether a model of this name is a file of this machine."""
    return model == EMBEDDED or str(model).endswith(".gguf")


def read_bytes(path: Path) -> bytes:
    """A small file's content; `JobError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from None
