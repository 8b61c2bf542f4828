"""A commented job file to start from.

Invariants: defaults, choices and explanations come from the models, so none of them can drift from the code; a file is
there as a whole or as it was.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined, to_jsonable_python

from s2a_batch.errors import JobError, OutputError
from s2a_batch.inputs.inputnames import STDIN
from s2a_batch.inputs.stores import is_url
from s2a_batch.job import Job
from s2a_batch.jobfile import job_of, option_layers
from s2a_batch.jobfile.jobfaults import fields, table_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel, JsonValue
    from pydantic.fields import FieldInfo

_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "": ("input", "output", "model", "base_url", "api_key_env", "only"),
    "fields": ("prompt", "id", "question", "context", "instructions"),
    "rewrite": ("model", "preset", "form", "temperature", "max_tokens", "examples"),
    "answer": ("model", "type", "schema_file", "temperature", "max_tokens", "keep_original", "on_failed_check"),
    "limits": ("open_requests", "requests_per_minute", "tokens_per_minute"),
    "retry": ("attempts", "reasks", "deadline_s", "max_wait_s"),
    "budget": ("max_requests", "max_cost_usd", "max_runtime_s", "until", "over"),
    "schedule": ("cron", "timezone", "jitter_s", "misfire", "timeout_s"),
    "hooks": ("on_failure", "timeout_s"),
    "log": ("format",),
    "metrics": ("textfile", "port"),
}
"""The tables and keys that are shown; the README has them all."""

_EXAMPLES: Final[dict[str, JsonValue]] = {
    "input": "input.jsonl",
    "output": "out",
    "model": "NAME",
    "base_url": "http://127.0.0.1:8000/v1",
    "api_key_env": "OPENAI_API_KEY",
    "only": "rewrite",
    "fields.instructions": "instructions",
    "rewrite.model": "SMALL",
    "rewrite.temperature": 0,
    "rewrite.max_tokens": 2000,
    "answer.model": "STRONG",
    "answer.schema_file": "answer.schema.json",
    "answer.temperature": 0,
    "answer.max_tokens": 1000,
    "limits.requests_per_minute": 500,
    "limits.tokens_per_minute": 200_000,
    "budget.max_requests": 10_000,
    "budget.max_cost_usd": 20.0,
    "budget.max_runtime_s": 28_800,
    "budget.until": "06:00",
    "schedule.cron": "0 2 * * *",
    "schedule.timeout_s": 21_600,
    "hooks.on_failure": {"command": ["mail-the-team", "--urgent"]},
    "metrics.textfile": "/var/lib/node_exporter/s2a.prom",
    "metrics.port": 9464,
}
_HEAD: Final = """\
#:schema ./job.schema.json
# A job of s2a-batch. The line above lets editors complete and check it: s2a-batch schema -o job.schema.json
#
#   s2a-batch check {name}            # before it runs: all that can be found without sending anything
#   s2a-batch run {name} --limit 10     # a few records; look at them with s2a-batch show
#   s2a-batch run {name}                # the rest; the same command goes on after any stop
#
# A key behind a "#" shows its default, or an example where it says "e.g."; the README has all keys.
# extends = "base.toml"  # e.g. settings that several jobs share; what stands here wins
"""


def template(name: str, given: Mapping[str, JsonValue]) -> str:
    """The file's text.

    Args:
        name: The file's, for its examples of commands.
        given: Values of dotted keys; all other keys but input and output are commented out.
    """
    values = {"input": _EXAMPLES["input"], "output": _EXAMPLES["output"], **given}
    parts = [_HEAD.format(name=shlex.quote(name))]
    for table, names in _KEYS.items():
        model = table_in(fields(Job)[table].annotation) if table else Job
        if model is not None:
            parts.append("\n".join(_table(table, model, names, values)))
    return "\n".join(f"{part}\n" if not part.endswith("\n") else part for part in parts)


def write(path: Path, given: Mapping[str, JsonValue], *, force: bool) -> None:
    """Write a job file, which the checks of a job pass.

    Args:
        path: Its place; paths in `given` are as seen from where the command runs.
        given: As for `template`.
        force: Replace the file when it exists.

    Raises:
        JobError: The file exists, or what is given makes no job.
        OutputError: The file cannot be written.
    """
    table: dict[str, JsonValue] = {"input": _EXAMPLES["input"], "output": _EXAMPLES["output"]}
    for key, value in given.items():
        outer, _, name = key.rpartition(".")
        table[outer or name] = {name: value} if outer else value
    job_of(option_layers(table, ()))
    try:
        text = template(path.name, {key: _seen_from(path.parent, key, value) for key, value in given.items()})
        _put(path, text.encode(), force=force)
    except UnicodeEncodeError:
        raise JobError(f"{path}: a name that is no UTF-8 cannot stand in a job file") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def _put(path: Path, data: bytes, *, force: bool) -> None:
    """Put a file there as a whole or not at all, with the rights of the one that it replaces."""
    if not force and os.path.lexists(path):
        raise JobError(f"{path}: exists already; --force replaces it")
    place = path.resolve()  # a link stays one
    if place.exists() and not place.is_file():
        place.write_bytes(data)  # a device or a pipe, if it can be at all
        return
    beside = place.with_name(f".{place.name}.{os.getpid()}.new")
    try:
        beside.write_bytes(data)
        if place.exists():
            beside.chmod(place.stat().st_mode)
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _seen_from(folder: Path, key: str, value: JsonValue) -> JsonValue:
    """A given value as it has to stand in a file of this folder."""
    text = str(value)
    is_path = key in ("input", "output") or (key == "model" and text.endswith(".gguf"))
    if not is_path or Path(text).is_absolute() or (key == "input" and (text == STDIN or is_url(text))):
        return value
    return os.path.relpath(text, folder) + ("/" if text.endswith("/") else "")


def _table(table: str, model: type[BaseModel], names: tuple[str, ...], values: dict[str, JsonValue]) -> Iterator[str]:
    doc = (model.__doc__ or "").partition("\n")[0]
    rows = [_row(f"{table}.{name}".lstrip("."), name, fields(model)[name], values) for name in names]
    if table:
        yield f"[{table}]  # {doc}"
    width = max(len(setting) for setting, _ in rows)
    for setting, comment in rows:
        yield f"{setting.ljust(width)}  # {comment}"


def _row(key: str, name: str, field: FieldInfo, values: dict[str, JsonValue]) -> tuple[str, str]:
    """A key with its value, and what it is for."""
    default = to_jsonable_python(field.get_default(call_default_factory=True), fallback=lambda _: None)
    is_example = default is None or field.default is PydanticUndefined
    comment = " ".join([*(["e.g."] if is_example and key not in values else []), field.description or ""])
    others = [choice for choice in _choices(field) if choice != default]
    comment += f" Or: {', '.join(map(_toml, others))}." if others and not is_example else ""
    if key in values:
        return f"{name} = {_toml(values[key])}", comment
    return f"# {name} = {_toml(_EXAMPLES[key] if is_example else default)}", comment


def _choices(field: FieldInfo) -> list[str]:
    kinds = (field.annotation, *get_args(field.annotation))
    return [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


def _toml(value: JsonValue) -> str:
    """A value as TOML; its texts are JSON's but for one sign."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(part)}' for name, part in value.items())} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
