"""The result line: what was read comes back as the bytes it was, and the line is strict JSON whatever it holds."""

from __future__ import annotations

import asyncio
import json
import tempfile
import tracemalloc
from contextlib import aclosing
from pathlib import Path
from typing import NoReturn

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue
from pydantic_core import from_json

from s2a_batch import source
from s2a_batch.forms import Asked, Fields
from s2a_batch.keys import KeyIndex
from s2a_batch.records import (
    LINE_PREFIX,
    SCHEMA_VERSION,
    Attempt,
    BadLine,
    Check,
    Outcome,
    Record,
    RecordFault,
    Rewrite,
    Usage,
    result_line,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)


def outcome(**more: object) -> Outcome:
    """An outcome with what every one has."""
    return Outcome.model_validate({"status": "answered", "fingerprint": "f", "started_at": "t", "seconds": 1, **more})


def strict(line: bytes) -> dict[str, JsonValue]:
    """The object of a line as strict readers see it: both parsers agree, and it is one line."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    found = json.loads(line.decode("utf-8"), parse_constant=refuse)
    assert from_json(line, allow_inf_nan=False) == found
    assert isinstance(found, dict)
    return found


def read(line: bytes) -> Record | BadLine:
    """What the source makes of a line."""

    async def first(path: Path) -> Record | BadLine:
        with KeyIndex() as keys:
            async with aclosing(source.records(path, Fields(), keys)) as records:
                record = await anext(records)
                assert isinstance(record, Record | BadLine)
                return record

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_bytes(line + b"\n")
        return asyncio.run(first(path))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, JSON, max_size=4), JSON, TEXT, st.booleans(), st.sampled_from([None, 0]))
def test_any_object_comes_back_byte_for_byte(
    more: dict[str, JsonValue], id_: JsonValue, text: str, ascii_: bool, indent: int | None
) -> None:
    """Users' own fields pass through: no number is rounded, no text reprinted, no field taken for one of ours."""
    prompt = "why? " + text
    found = json.dumps({**more, "prompt": prompt, "id": id_}, ensure_ascii=ascii_, indent=indent).encode()
    raw = found.replace(b"\n", b"\r ")
    record = read(raw)
    assert isinstance(record, Record)
    assert record.prompt == prompt
    line = result_line(record, outcome(answer={"answer": text}))
    assert line.endswith(b',"input":' + raw + b"}\n")
    told = strict(line)
    assert told["input"] == json.loads(raw)
    assert json.dumps(told["id"]) == json.dumps(id_)
    assert told["answer"] == {"answer": text}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), TEXT)
def test_the_dead_letter_of_any_bytes_is_strict_json(raw: bytes, message: str) -> None:
    """The file of failures must be readable by every tool, most of all when what failed was not."""
    line = b"? " + raw.replace(b"\n", b"")
    bad = read(line)
    assert isinstance(bad, BadLine)
    error = RecordFault(kind=bad.kind, message=bad.message + message, stage="input", line=bad.line)
    told = strict(result_line(bad, outcome(status="failed", error=error)))
    assert told["input"] is None
    assert str(told["raw"]).startswith("?")
    assert told["error"] == error.model_dump()


@pytest.mark.parametrize(
    "text", ["\0", "\n\r", "\u2028\u2029\x85", "\x1b[31m", '"}\n{"schema":1,"key":"', "\\", "\U0001f36c", "\x7f\x9f"]
)
def test_odd_texts_of_a_model_stay_within_their_line(text: str) -> None:
    """A reply that could end a line early would break the file, and the resume that trusts it."""
    rewrite = Rewrite(relevant_context=text, user_query=text, raw=text)
    check = Check(name="numbers", level="warn", message=text, words=(text,))
    line = result_line(
        Record("k", 1, b"null", b'{"prompt":"why?"}', Asked("why?")),
        outcome(answer={text: text}, rewrite=rewrite.model_dump(), checks=[check.model_dump()]),
    )
    told = strict(line)
    assert b"\0" not in line
    assert told["answer"] == {text: text}
    assert told["rewrite"] == rewrite.model_dump()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_has_not_is_never_written(number: float) -> None:
    """Python writes NaN by default, and other readers refuse the whole file because of it."""
    assert strict(result_line(Record("k", 1, b"1", b"{}", Asked("")), outcome(answer={"answer": number})))["answer"]


def test_input_fields_named_like_ours_are_kept_apart() -> None:
    """A file with gold answers in `answer` and old states in `status` must fool neither us nor its owner."""
    fields = dict.fromkeys(("status", "answer", "error", "key", "line", "schema", "usage", "input", "raw"), "theirs")
    raw = json.dumps({"prompt": "why?", "id": 5, **fields}).encode()
    told = strict(result_line(Record("k", 7, b"5", raw, Asked("why?")), outcome(answer={"answer": "ours"})))
    assert told["input"] == json.loads(raw)
    assert (told["status"], told["answer"], told["key"], told["line"]) == ("answered", {"answer": "ours"}, "k", 7)
    assert (told["schema"], told["error"], told["id"]) == (SCHEMA_VERSION, None, 5)


def test_a_line_begins_with_its_key() -> None:
    """A resume finds what is done by the first bytes of a line, a million lines a second."""
    records: list[Record | BadLine] = [
        Record("ab12-3", 1, b"null", b"{}", Asked("")),
        BadLine("ab12-3", 1, b"null", None, "x", "bad_json", "m"),
    ]
    for record in records:
        line = result_line(record, outcome())
        assert line.startswith(LINE_PREFIX + b'ab12-3","line":1,"id":null,')
        assert json.loads(LINE_PREFIX.rpartition(b",")[0] + b"}") == {"schema": SCHEMA_VERSION}


def test_a_line_as_long_as_a_book_is_copied_few_times() -> None:
    """The input is spliced in; each needless copy is paid once for every record under way."""
    record = Record("k", 1, b"1", b'{"prompt":"' + b"x" * 1_000_000 + b'"}', Asked(""))
    tracemalloc.start()
    line = result_line(record, outcome())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * len(line)


USAGE = st.builds(Usage, *[], **{name: st.one_of(st.none(), st.integers(0, 99)) for name in Usage.model_fields})


@given(USAGE, USAGE)
def test_unknown_tokens_are_never_counted_as_none(a: Usage, b: Usage) -> None:
    """A server that says nothing of usage makes a sum a lower bound; it must not erase what others said."""
    total = a + b
    for name in Usage.model_fields:
        parts = [part for part in (getattr(a, name), getattr(b, name)) if part is not None]
        assert getattr(total, name) == (sum(parts) if parts else None)
    assert total.total_tokens == a.total_tokens + b.total_tokens


def test_an_audit_that_was_written_can_be_read_back() -> None:
    """A resume reads rewrites and their attempts from the disk; what it cannot read is paid for twice."""
    usage = Usage(input_tokens=3)
    attempt = Attempt(n=1, started="t", seconds=0.5, waited_s=0, usage=usage, error=None, reply="\0")
    made = outcome(answer=[1, 2.5, None, {"a": True}], policy="fail")
    assert Attempt.model_validate_json(attempt.model_dump_json()) == attempt
    assert Outcome.model_validate_json(made.model_dump_json()) == made


def test_what_is_written_is_frozen_and_closed() -> None:
    """A misspelt field would be dropped in silence, and a record that changes on its way is no audit."""
    with pytest.raises(pydantic.ValidationError):
        outcome(answerx=1)
    with pytest.raises(pydantic.ValidationError):
        outcome().status = "failed"
