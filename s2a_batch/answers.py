"""The answer type that a job names, as a pydantic model: what the model must fill in and what is kept.

Knows jsonschema-rs. Invariant: what a job calls `int` is a whole number whatever the reply looks like: "25", 25 and
25.0 are one answer, 25.5, true and "25 pieces" are none.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, cast

import jsonschema_rs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, create_model, model_validator
from pydantic_core import PydanticCustomError

from s2a_batch.errors import JobError
from s2a_batch.stagejob import AnswerJob, Form, read_bytes


def answer_model(job: AnswerJob) -> type[BaseModel] | None:
    """The pydantic model of the job's answers; None for plain text, which needs no schema.

    Raises:
        JobError: The schema file or the class cannot be used, with the reason.
    """
    if job.schema_file is not None:
        return _from_schema(job.schema_file)
    if job.class_ is not None:
        return _from_class(job.class_)
    if job.type == "text":
        return None
    if job.type == "choice":
        return create_model("ChoiceAnswer", __base__=_Closed, answer=(_one_of(job.choices), ...))
    return _SCALARS[job.type]


class RewriteReply(BaseModel):
    """What stage 1 replies. The context may be empty: a bare question has none."""

    model_config = ConfigDict(extra="forbid")

    relevant_context: str
    user_query: str

    @model_validator(mode="after")
    def _has_a_question(self) -> RewriteReply:
        if not self.user_query.strip():
            raise PydanticCustomError("empty_rewrite", "user_query is empty; copy the question of the text into it")
        return self


class SingleReply(BaseModel):
    """What stage 1 replies when it writes one text."""

    model_config = ConfigDict(extra="forbid")

    rewritten: str

    @model_validator(mode="after")
    def _says_something(self) -> SingleReply:
        if not self.rewritten.strip():
            raise PydanticCustomError("empty_rewrite", "rewritten is empty; write the text, with its question")
        return self


class PassagesReply(BaseModel):
    """What stage 1 replies when it names passages, counted from 1."""

    model_config = ConfigDict(extra="forbid")

    keep: list[int]
    user_query: str

    @model_validator(mode="after")
    def _has_a_question(self) -> PassagesReply:
        if not self.user_query.strip():
            raise PydanticCustomError("empty_rewrite", "user_query is empty; copy the question of the text into it")
        return self


REWRITE_REPLIES: Final[dict[Form, type[BaseModel]]] = {
    "split": RewriteReply,
    "single": SingleReply,
    "passages": PassagesReply,
}


def with_reasoning(model: type[BaseModel] | None, job: AnswerJob) -> type[BaseModel] | None:
    """The answer's model with room to think before it, for a chain of thought; types of the user's own stay."""
    if model is None or job.schema_file is not None or job.class_ is not None:
        return model
    answer = model.model_fields["answer"]
    return create_model(
        "ReasonedAnswer", __base__=_Closed, reasoning=(str, ...), answer=(answer.rebuild_annotation(), ...)
    )


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _one_of(choices: tuple[str, ...]) -> type:
    """Literal of the choices; a run-time type, which no checker can follow."""
    return cast("type", Literal[choices])


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")  # noqa: TRY004  pydantic takes ValueError
    return value


class IntAnswer(_Closed):
    """A whole number."""

    answer: Annotated[int, BeforeValidator(_no_bool)]


class FloatAnswer(_Closed):
    """A finite number."""

    answer: Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]


class BoolAnswer(_Closed):
    """True or false."""

    answer: bool


_SCALARS: Final[dict[str, type[BaseModel]]] = {"int": IntAnswer, "float": FloatAnswer, "bool": BoolAnswer}


class _SchemaAnswer(BaseModel):
    """An object judged by a JSON Schema file; the file goes to the server as it is."""

    model_config = ConfigDict(extra="allow")

    file_schema: ClassVar[dict[str, JsonValue]]
    faults: ClassVar[Callable[[object], list[str]]]

    @classmethod
    def model_json_schema(cls, *_args: object, **_kwargs: object) -> dict[str, JsonValue]:
        """The file's content."""
        return cls.file_schema

    @model_validator(mode="before")
    @classmethod
    def _judge(cls, value: object) -> object:
        if found := cls.faults(value):
            raise ValueError("; ".join(found[:5]))
        return value


def _from_schema(path: Path) -> type[BaseModel]:
    try:
        schema = json.loads(read_bytes(path))
        validator = jsonschema_rs.validator_for(schema)
    except (ValueError, RecursionError, jsonschema_rs.ValidationError) as error:
        raise JobError(f"{path}: no usable JSON Schema: {str(error).splitlines()[0]}") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise JobError(f"{path}: the schema must describe an object; hint: put a scalar into a property")

    def faults(value: object) -> list[str]:
        return [f"{'/'.join(map(str, e.instance_path)) or 'answer'}: {e.message}" for e in validator.iter_errors(value)]

    # "additionalProperties": false of the file is judged by the validator, so the model itself may stay open.
    body = {"file_schema": schema, "faults": staticmethod(faults), "__module__": __name__}
    return type("Answer", (_SchemaAnswer,), body)


def _from_class(name: str) -> type[BaseModel]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise JobError(f"answer.class = '{name}': expected package.module:Model")
    here = str(Path.cwd())
    try:
        # A job's module may lie beside the place where the command runs; no other module is looked for there first.
        sys.path.insert(0, here)
        try:
            found = getattr(importlib.import_module(module), attribute)
        finally:
            sys.path.remove(here)
            if here not in sys.path:
                sys.path.append(here)
        if isinstance(found, type) and issubclass(found, BaseModel):
            found.model_json_schema()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a module of somebody else may raise anything while it is imported
        why = next(iter(str(error).splitlines()), "")
        raise JobError(f"answer.class = '{name}': {type(error).__name__}: {why}") from None
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise JobError(f"answer.class = '{name}': not a pydantic model")
    return found
