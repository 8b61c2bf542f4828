"""A job file, or options of the command line, to a checked job; and the secrets that it names.

Knows tomllib. Invariants: every fault is named with file and key, and the near miss; relative paths in a job file are
relative to that file; secrets come from the environment and live in no job.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from s2a_batch.bounds import Limits, Retry
from s2a_batch.errors import JobError
from s2a_batch.job import OPENAI_KEY, AnswerJob, Fields, Job, RewriteJob, read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import BaseModel, JsonValue
    from pydantic_core import ErrorDetails

    from s2a_batch.records import StageName


def load(path: Path, overrides: dict[str, JsonValue] | None = None) -> Job:
    """Read a job file.

    Args:
        path: A TOML file; relative paths in it are relative to its directory.
        overrides: Top-level values and tables that win over the file's.

    Raises:
        JobError: With every fault of the file: key, what is wrong, the near miss.
    """
    try:
        table = tomllib.loads(read_bytes(path).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: not TOML: {error}") from None
    _anchor(table, path.parent)
    return build(_merge(table, overrides or {}), str(path))


def build(table: dict[str, JsonValue], where: str) -> Job:
    """A checked job from a table; `where` names its origin in errors (`JobError`)."""
    try:
        return Job.model_validate(table)
    except ValidationError as error:
        raise JobError("\n".join(f"{where}: {_explain(fault)}" for fault in error.errors())) from None


def with_setting(table: dict[str, JsonValue], text: str) -> dict[str, JsonValue]:
    """The table with one more setting, given as `key=value` or `table.key=value` in TOML; a bare word is a text."""
    key, equals, value = text.partition("=")
    try:
        found = tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        try:
            found = tomllib.loads(f"{key} = {json.dumps(value.strip(), ensure_ascii=False)}")
        except tomllib.TOMLDecodeError:
            equals = ""
    if not equals or not key.strip():
        raise JobError(f"--set {text}: expected key=value, as in rewrite.temperature=0")
    return _merge(table, found)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a stage sends and nobody may print."""

    api_key: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)


def secrets_of(job: Job, name: StageName, environ: Mapping[str, str]) -> Secrets:
    """A stage's key and header values from the environment.

    `OPENAI_API_KEY` goes to OpenAI and to the job's own base URL, as with the SDK; an endpoint that a stage has to
    itself gets a key only when one is named for it.

    Raises:
        JobError: A named variable is not set, or OpenAI itself is asked and there is no key.
    """
    stage = job.rewrite if name == "rewrite" else job.answer
    usual = OPENAI_KEY if stage.base_url in (None, job.base_url) else None
    variable = stage.api_key_env or usual
    key = environ.get(variable, "").strip() if variable else ""
    if not key and (stage.api_key_env is not None or stage.base_url is None):
        raise JobError(
            f"{name}: the environment has no {variable}; hint: export {variable}=.. (a job file holds no keys)"
        )
    missing = [value for value in stage.headers_env.values() if not environ.get(value)]
    if missing:
        raise JobError(f"{name}.headers_env: the environment has no {', '.join(missing)}")
    headers = {header: environ[value] for header, value in stage.headers_env.items()}
    # The SDK insists on a key; servers without keys ignore it.
    return Secrets(key or "none", headers)


def _anchor(table: dict[str, JsonValue], folder: Path) -> None:
    """Make the paths of a job file relative to its directory."""
    answer, rewrite = table.get("answer"), table.get("rewrite")
    for part, names in ((table, ("input", "output")), (answer, ("schema_file",))):
        for name in names:
            if isinstance(part, dict) and isinstance(part.get(name), str):
                part[name] = os.path.normpath(folder / str(part[name]))
    for part in (table, rewrite, answer):
        if isinstance(part, dict) and str(part.get("model", "")).endswith(".gguf"):
            part["model"] = os.path.normpath(folder / str(part["model"]))


def _merge(low: dict[str, JsonValue], high: dict[str, JsonValue]) -> dict[str, JsonValue]:
    merged = dict(low)
    for name, value in high.items():
        below = low.get(name)
        merged[name] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _explain(fault: ErrorDetails) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    known = _known_keys(fault["loc"][:-1])
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    return f"{place}: no such key; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}")


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    tables: dict[tuple[int | str, ...], type[BaseModel]] = {
        (): Job,
        ("fields",): Fields,
        ("rewrite",): RewriteJob,
        ("answer",): AnswerJob,
        ("limits",): Limits,
        ("rewrite", "limits"): Limits,
        ("answer", "limits"): Limits,
        ("retry",): Retry,
    }
    model = tables.get(place)
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]
