"""The JSON Schema of job files: an editor that goes by it helps, and never accuses a sound file."""

from __future__ import annotations

import json
import tomllib
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any, Final, get_args

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner

from s2a_batch import cli
from s2a_batch.job import Job
from s2a_batch.jobfile.jobfaults import fields, table_in
from s2a_batch.jobfile.jobschema import job_schema
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import JsonValue

SCHEMA: Final = job_schema()
VALIDATOR: Final = jsonschema_rs.Draft202012Validator(SCHEMA)
JOBS: Final = sorted((ROOT / "jobs").rglob("*.toml"))
LEAST: Final[dict[str, JsonValue]] = {"input": "a", "output": "b"}


def as_json(value: object) -> Any:  # noqa: ANN401  JSON
    """TOML's values as an editor checks them: times are texts."""
    if isinstance(value, dict):
        return {name: as_json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_json(part) for part in value]
    return value.isoformat() if isinstance(value, date | time | datetime) else value


def tables(table: type[BaseModel], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """All tables of a job with their places."""
    yield place, table
    for name, field in fields(table).items():
        if (inner := table_in(field.annotation)) is not None:
            yield from tables(inner, (*place, name))


TABLES: Final = [*tables(Job)]
KEYS: Final = [(place, name) for place, table in TABLES for name in fields(table)]


def nested(place: tuple[str, ...], value: JsonValue) -> dict[str, JsonValue]:
    """A job in which a value stands at a place."""
    for name in reversed(place):
        value = {name: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_sample_job_is_sound_by_the_schema(path: Path) -> None:
    """They are what people open first, in an editor that marks what it takes for faults."""
    VALIDATOR.validate(as_json(tomllib.loads(path.read_text())))


def test_the_schema_itself_is_sound_and_has_no_address() -> None:
    """An editor that cannot read it says nothing at all; one that fetches an address fails offline."""
    assert jsonschema_rs.meta.is_valid(SCHEMA)
    assert "$id" not in json.dumps(SCHEMA)
    assert "required" not in json.dumps(SCHEMA)
    assert "null" not in json.dumps(SCHEMA), "which TOML has not"


def test_every_key_says_what_it_is_for() -> None:
    """A completion without a word is a guess."""
    silent = [".".join((*place, name)) for place, name in KEYS if not _described(place, name)]
    assert not silent


def _described(place: tuple[str, ...], name: str) -> str | None:
    table = dict(TABLES)[place]
    field = fields(table)[name]
    inner = table_in(field.annotation)
    return field.description or (None if inner is None else inner.__doc__)


def test_defaults_closed_sets_and_bounds_are_in_the_schema() -> None:
    """These are what a completion is looked at for."""
    stage: Any = SCHEMA["$defs"]
    assert stage["RewriteJob"]["properties"]["preset"]["enum"] == ["unbiased", "relevance", "question"]
    assert stage["RewriteJob"]["properties"]["preset"]["default"] == "relevance"
    assert stage["Retry"]["properties"]["attempts"].items() >= {"minimum": 1, "maximum": 100, "default": 6}.items()
    assert "class" in stage["AnswerJob"]["properties"]
    assert all(table["additionalProperties"] is False for name, table in stage.items() if "properties" in table)


@pytest.mark.parametrize(("place", "name"), KEYS, ids=lambda part: ".".join(part) if isinstance(part, tuple) else part)
def test_a_typo_is_refused_by_the_schema_as_by_the_program(place: tuple[str, ...], name: str) -> None:
    """An editor that lets a typo pass is believed."""
    table = nested(place, {f"{name}_x": 1})
    assert not VALIDATOR.is_valid(table)
    with pytest.raises(ValidationError):
        Job.model_validate(LEAST | table)


@pytest.mark.parametrize("value", ["base.toml", ["a.toml", "b.toml"], []])
def test_a_file_that_extends_another_is_sound(value: JsonValue) -> None:
    """It holds what it changes, and the rest stands elsewhere."""
    assert VALIDATOR.is_valid({"extends": value, "rewrite": {"seed": 1}})
    assert not VALIDATOR.is_valid({"extends": 5})


WORDS: Final = [
    "auto",
    "text",
    "int",
    "choice",
    "a:B",
    "X_Y",
    "06:00",
    "UTC",
    "http://h/v1",
    "m",
    "",
    "x y",
    "relevance",
]
SCALARS: Final = (
    st.booleans()
    | st.integers(-2, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.sampled_from(WORDS)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
VALUES: Final = (
    SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, max_size=2)
)


def values_of(name: str, table: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Values for a key: of its closed set, its own default, or anything."""
    field = fields(table)[name]
    closed = [word for kind in (field.annotation, *get_args(field.annotation)) for word in get_args(kind)]
    texts = [word for word in closed if isinstance(word, str)]
    return VALUES | st.sampled_from(texts) if texts else VALUES


@given(st.data())
def test_what_the_program_accepts_the_schema_accepts(data: st.DataObject) -> None:
    """A file that runs every night and is red in the editor teaches people to ignore red."""
    place, table = data.draw(st.sampled_from(TABLES))
    names = data.draw(st.lists(st.sampled_from([*fields(table)]), max_size=3, unique=True))
    job = nested(place, {name: data.draw(values_of(name, table)) for name in names})
    try:
        Job.model_validate(LEAST | job)
    except ValidationError:
        return
    assert VALIDATOR.is_valid(job), job


@pytest.mark.parametrize("name", ["¹", "nächtlich", "夜_1.a-b"])
def test_a_name_in_any_script_is_taken_by_both(name: str) -> None:
    """Engines of regular expressions do not agree on what a letter is."""
    assert Job.model_validate(LEAST | {"name": name}).name == name
    assert VALIDATOR.is_valid({"name": name})
    assert not VALIDATOR.is_valid({"name": "../x"})


@pytest.mark.parametrize(("place", "name"), KEYS, ids=lambda part: ".".join(part) if isinstance(part, tuple) else part)
@settings(max_examples=25)
@given(data=st.data())
def test_each_key_takes_the_same_values_by_both(place: tuple[str, ...], name: str, data: st.DataObject) -> None:
    """As above, key by key, so that none is left to chance."""
    value = data.draw(values_of(name, dict(TABLES)[place]))
    job = nested(place, {name: value})
    try:
        Job.model_validate(LEAST | job)
    except ValidationError:
        return
    assert VALIDATOR.is_valid(job), job


def test_the_command_prints_it_or_writes_a_file(tmp_path: Path) -> None:
    """Editors take a file; a build step takes stdout."""
    printed = CliRunner().invoke(cli.app, ["schema"])
    written = CliRunner().invoke(cli.app, ["schema", "-o", str(tmp_path / "job.schema.json")])
    assert (printed.exit_code, written.exit_code, written.stdout) == (0, 0, "")
    assert json.loads(printed.stdout) == json.loads((tmp_path / "job.schema.json").read_text()) == SCHEMA
