"""Answer types: what counts as an answer, what is refused, and what the server is told about it."""

from __future__ import annotations

import importlib
import json
import math
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue, ValidationError

from s2a_batch.answers import RewriteReply, answer_model
from s2a_batch.errors import JobError
from s2a_batch.stagejob import AnswerJob

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: dict[str, JsonValue] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Order",
    "type": "object",
    "description": "How much of what.",
    "properties": {
        "pieces": {"type": "integer", "minimum": 1, "maximum": 10},
        "size": {"$ref": "#/$defs/size"},
        "faults": {"type": "array", "items": {"type": ["string", "null"]}},
    },
    "$defs": {"size": {"enum": ["s", "l", None]}},
    "required": ["pieces"],
    "additionalProperties": False,
}


def model_of(**job: JsonValue) -> type[BaseModel]:
    """The model of a job's answers."""
    model = answer_model(AnswerJob.model_validate(job))
    assert model is not None
    return model


def reply(model: type[BaseModel], answer: str) -> JsonValue:
    """What is kept of a reply whose answer is this JSON."""
    found: dict[str, JsonValue] = model.model_validate_json(f'{{"answer":{answer}}}').model_dump(mode="json")
    return found["answer"]


def test_plain_text_needs_no_schema() -> None:
    """The default asks for what every server can do."""
    assert answer_model(AnswerJob()) is None


@pytest.mark.parametrize("answer", ["25", "25.0", '"25"', '"25.0"', '" 25 "', "2.5e1", '"+25"'])
def test_a_whole_number_is_one_whatever_it_looks_like(answer: str) -> None:
    """Models write numbers as they like; the column of the results must not."""
    found = reply(model_of(type="int"), answer)
    assert found == 25
    assert type(found) is int


NO_NUMBERS = [
    "true",
    "false",
    "null",
    '""',
    '" "',
    '"25 pieces"',
    '"twenty"',
    "[25]",
    '{"n":25}',
    "NaN",
    '"NaN"',
    "1e999",
]


@pytest.mark.parametrize("answer", [*NO_NUMBERS, "25.5", '"25.5"', '"1e400"', "Infinity"])
def test_what_is_no_whole_number_is_refused(answer: str) -> None:
    """A rounded, guessed or made-up number is worse than a re-ask."""
    with pytest.raises(ValidationError):
        reply(model_of(type="int"), answer)


@pytest.mark.parametrize("answer", [*NO_NUMBERS, "-Infinity", '"inf"', '"Infinity"', '"1e999"'])
def test_what_is_no_finite_number_is_refused(answer: str) -> None:
    """NaN in the results poisons every sum, and strict JSON has no word for it."""
    with pytest.raises(ValidationError):
        reply(model_of(type="float"), answer)


@given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_any_finite_number_is_kept_exactly(number: float, quoted: bool) -> None:
    """What the model said is what is kept, to the last digit."""
    found = reply(model_of(type="float"), json.dumps(str(number) if quoted else number))
    assert isinstance(found, float)
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number)


@given(st.integers(-(10**40), 10**40))
def test_any_whole_number_is_kept_exactly(number: int) -> None:
    """Numbers beyond 2^53 are where other tools begin to round."""
    assert reply(model_of(type="int"), str(number)) == number


def test_true_and_false_are_truth_and_nothing_else_is() -> None:
    """A yes may be written as one; a number that is neither 0 nor 1 is no answer to a yes-or-no question."""
    model = model_of(type="bool")
    assert [reply(model, text) for text in ("true", '"yes"', '"False"', "0")] == [True, True, False, False]
    for text in ("null", '""', "2", '"maybe"', "[]"):
        with pytest.raises(ValidationError):
            reply(model, text)


def test_a_choice_is_one_of_the_options_to_the_letter() -> None:
    """Counts over options go wrong by one spelling; the server is told the options in their order."""
    options: list[JsonValue] = ["B", "A", "none of these", "\u00e9 \U0001f36c"]
    model = model_of(type="choice", choices=options)
    assert [reply(model, json.dumps(option)) for option in options] == options
    assert model.model_json_schema()["properties"]["answer"]["enum"] == options
    for text in ('"a"', '"C"', '""', "null", "0", '"B or A"'):
        with pytest.raises(ValidationError, match="B"):
            reply(model, text)
    assert reply(model_of(type="choice", choices=["only"]), '"only"') == "only"


@pytest.mark.parametrize("kind", ["int", "float", "bool"])
def test_an_answer_with_something_beside_it_is_refused(kind: str) -> None:
    """Extra fields are a sign that the model answered something else."""
    assert model_of(type=kind).model_json_schema()["additionalProperties"] is False
    for text in ('{"answer":1,"remark":"perhaps"}', "{}", "1", "[]"):
        with pytest.raises(ValidationError):
            model_of(type=kind).model_validate_json(text)


def written(folder: Path, text: str | bytes) -> str:
    """A schema file."""
    path = folder / "schema.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_a_schema_goes_to_the_server_as_it_is_written(tmp_path: Path) -> None:
    """Whoever writes a schema by hand has a reason for each word; descriptions are part of the prompt."""
    model = model_of(schema_file=written(tmp_path, json.dumps(SCHEMA)))
    assert json.dumps(model.model_json_schema()) == json.dumps(SCHEMA)
    assert json.dumps(model.model_json_schema(mode="serialization", by_alias=False)) == json.dumps(SCHEMA)


def test_a_reply_that_fits_a_schema_is_kept_whole(tmp_path: Path) -> None:
    """Every field that the schema allows comes through, also those named like parts of ours."""
    model = model_of(schema_file=written(tmp_path, json.dumps(SCHEMA)))
    found: dict[str, JsonValue] = {"pieces": 3, "size": None, "faults": ["a", None]}
    assert model.model_validate_json(json.dumps(found)).model_dump(mode="json") == found
    loose = model_of(schema_file=written(tmp_path, '{"type":"object"}'))
    odd = dict.fromkeys(["model_dump", "file_schema", "faults", "_private", "__class__", "", "model_config"], 1.5)
    assert loose.model_validate_json(json.dumps(odd)).model_dump(mode="json") == odd


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"pieces":11}', "pieces: 11 is greater than the maximum of 10"),
        ('{"pieces":%s}' % ("9" * 40), "pieces: "),
        ('{"pieces":"3"}', 'pieces: "3" is not of type "integer"'),
        ('{"pieces":3,"faults":["a",1]}', "faults/1: "),
        ('{"pieces":3,"size":"xl"}', "size: "),
        ('{"pieces":3,"remark":1}', "answer: Additional properties"),
        ("{}", 'answer: "pieces" is a required property'),
        ("[3]", "answer: [3] is not of type"),
        ("null", "answer: null is not of type"),
    ],
)
def test_a_reply_that_does_not_fit_a_schema_is_told_where(tmp_path: Path, text: str, words: str) -> None:
    """The reason goes back to the model in the re-ask: it must name the place."""
    model = model_of(schema_file=written(tmp_path, json.dumps(SCHEMA)))
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(text)
    assert words in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no usable JSON Schema"),
        ("{", "no usable JSON Schema"),
        (b"\xff\xfe\x00", "no usable JSON Schema"),
        ("[" * 5_000, "no usable JSON Schema"),
        ('{"type":"objectt"}', "no usable JSON Schema"),
        ('{"type":"object","properties":{"a":{"$ref":"#/$defs/none"}}}', "no usable JSON Schema"),
        ('{"type":"object","properties":{"a":{"pattern":"("}}}', "no usable JSON Schema"),
        ("7", "no usable JSON Schema"),
        ("true", "must describe an object"),
        ('{"type":"array"}', "must describe an object"),
        ("{}", "must describe an object"),
        ('{"type":["object","null"]}', "must describe an object"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str | bytes, words: str) -> None:
    """A wrong schema fails every record; it must fail the job instead, before the first request."""
    path = written(tmp_path, text)
    with pytest.raises(JobError, match=words) as caught:
        model_of(schema_file=path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_two_schemas_do_not_share_their_judgement(tmp_path: Path) -> None:
    """A process may run several jobs; each answer is held against its own schema."""
    first = model_of(schema_file=written(tmp_path, '{"type":"object","required":["a"]}'))
    second = model_of(schema_file=written(tmp_path, '{"type":"object","required":["b"]}'))
    first.model_validate({"a": 1})
    second.model_validate({"b": 1})
    for model, value in ((first, {"b": 1}), (second, {"a": 1})):
        with pytest.raises(ValidationError):
            model.model_validate(value)


def test_a_model_of_the_user_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class brings validators that no schema has; it lies where the command runs."""
    (tmp_path / "my_answers.py").write_text(
        "from pydantic import BaseModel, Field\nclass Total(BaseModel):\n    pieces: int = Field(ge=1)\nNUMBER = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    model = model_of(**{"class": "my_answers:Total"})
    assert model.model_validate_json('{"pieces":"3"}').model_dump() == {"pieces": 3}
    with pytest.raises(JobError, match="my_answers:NUMBER': not a pydantic model"):
        model_of(**{"class": "my_answers:NUMBER"})
    with pytest.raises(JobError, match=r"my_answers:Sum'.*Sum"):
        model_of(**{"class": "my_answers:Sum"})


def test_other_modules_beside_the_job_stand_in_for_none_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `queue.py` in a data directory would be run at night in place of Python's."""
    (tmp_path / "beside.py").write_text("from pydantic import BaseModel\nclass Sum(BaseModel):\n    n: int\n")
    (tmp_path / "colorsys.py").write_text("raise SystemExit('mine')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert model_of(**{"class": "beside:Sum"}).model_fields.keys() == {"n"}
    assert importlib.import_module("colorsys").rgb_to_hsv


@pytest.mark.parametrize(
    "code", ["this is no python", "1 / 0", "undefined", "raise RuntimeError('x')", "import not_there_at_all"]
)
def test_a_module_that_cannot_be_imported_is_a_fault_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """The user's own file may be broken; the message names it, and nothing is sent."""
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(JobError, match=rf"answer\.class = '{name}:Model'"):
        model_of(**{"class": f"{name}:Model"})


@pytest.mark.parametrize("name", ["Model", "module:", ":Model", ".module:Model", "not_there_at_all:Model"])
def test_a_name_that_is_no_class_is_a_fault_of_the_job(name: str) -> None:
    """A slip in one word of the job file must not end in a traceback."""
    with pytest.raises(JobError, match=r"answer\.class = "):
        model_of(**{"class": name})


def test_a_class_that_no_schema_can_describe_is_a_fault_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has to be told the shape; found later, it is a traceback in place of the first request."""
    code = "import pydantic, typing\nclass Model(pydantic.BaseModel):\n    x: typing.Callable[[int], int]\n"
    (tmp_path / "no_schema.py").write_text(code)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(JobError, match=r"^answer\.class = 'no_schema:Model': PydanticInvalidForJsonSchema: .*$"):
        model_of(**{"class": "no_schema:Model"})


def test_a_rewrite_must_have_a_question_and_may_lack_a_context() -> None:
    """An empty question sent on is answered with an invention; a bare question has no context."""
    assert RewriteReply(relevant_context="", user_query="why?").relevant_context == ""
    for query in ("", " \n\u2003"):
        with pytest.raises(ValidationError, match="user_query is empty"):
            RewriteReply(relevant_context="context", user_query=query)
    with pytest.raises(ValidationError):
        RewriteReply.model_validate({"relevant_context": "c", "user_query": "q?", "answer": 7})
