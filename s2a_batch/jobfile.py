"""A job file, or options of the command line, to a checked job.

Knows tomllib. Invariants: every fault is named with file and key, and the near miss; relative paths in a job file are
relative to that file.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from pydantic import BaseModel, ValidationError

from s2a_batch.errors import JobError
from s2a_batch.inputnames import anchored
from s2a_batch.job import Job
from s2a_batch.stagejob import read_bytes

if TYPE_CHECKING:
    from pydantic import JsonValue
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails


_MISSING: Final = {
    "input": 'no input; give input = ".." in the job file',
    "output": 'no output; give -o DIR (or output = ".." in the job file)',
}
_EXPECTED: Final = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type"), "a table"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    "string_type": "a text",
    "path_type": "a path",
}


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
    anchor(table, path.parent)
    return build(merge(table, overrides or {}), str(path))


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
    return merge(table, found)


def anchor(table: dict[str, JsonValue], folder: Path) -> None:
    """Make the paths of a job file relative to its directory."""
    answer, rewrite = table.get("answer"), table.get("rewrite")
    of_stage = ("api_key_file", "schema_file")
    for part, names in (
        (table, ("output", "rewrites", "api_key_file")),
        (rewrite, of_stage),
        (answer, of_stage),
    ):
        for name in names:
            if isinstance(part, dict) and isinstance(part.get(name), str):
                part[name] = os.path.normpath(folder / Path(str(part[name])).expanduser())
    given = table.get("input")
    if isinstance(given, str):
        table["input"] = anchored(given, folder)
    elif isinstance(given, list):
        table["input"] = [anchored(name, folder) if isinstance(name, str) else name for name in given]
    for part in (table, rewrite, answer):
        if isinstance(part, dict) and str(part.get("model", "")).endswith(".gguf"):
            part["model"] = os.path.normpath(folder / str(part["model"]))


def merge(low: dict[str, JsonValue], high: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Both tables, and tables in them, in one; where they meet, the high one wins."""
    merged = dict(low)
    for name, value in high.items():
        below = low.get(name)
        merged[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _explain(fault: ErrorDetails) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return _MISSING.get(place, f"no {place}")
    if fault["type"] != "extra_forbidden":
        message = _expectation(fault)
        return f"{place}: {message}" if place else message
    known = _known_keys(fault["loc"][:-1])
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    return f"{place}: no such key; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}")


def _expectation(fault: ErrorDetails) -> str:
    """What stands there in place of what; a kind and never the value, which may be a key in the wrong place."""
    if expected := _EXPECTED.get(fault["type"]):
        return f"expected {expected}, found {_kind(fault['input'])}"
    message = fault["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "expected").replace("than or equal", "or equal")


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool):
        return "true or false"
    return {dict: "a table", list: "a list", int: "a whole number", float: "a number"}.get(type(value), "nothing")


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    """What the table at this place may hold, by the names of a job file."""
    table: type[BaseModel] | None = Job
    for name in place:
        field = None if table is None else _fields(table).get(str(name))
        table = None if field is None else _table_in(field.annotation)
    return [] if table is None else list(_fields(table))


def _fields(table: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in table.model_fields.items()}


def _table_in(annotation: object) -> type[BaseModel] | None:
    """The table among the types that a key may have."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
