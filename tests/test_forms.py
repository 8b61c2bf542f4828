"""What an input object asks: each form is read as documented, and everything else is refused with a reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch import source
from s2a_batch.forms import Asked, Fields, UnusableInputError, asked, id_of, prompt_of_input
from s2a_batch.keys import KeyIndex
from s2a_batch.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

USER: JsonValue = {"role": "user", "content": "Is it?"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"prompt": "Why?", "question": "other", "messages": []}, Asked("Why?")),
        ({"prompt": "Why?", "system": "a column of their own"}, Asked("Why?")),
        ({"prompt": "Why?", "oracle_prompt": "W?"}, Asked("Why?", oracle="W?")),
        ({"prompt": "Why?", "oracle_prompt": None}, Asked("Why?")),
        ({"question": "Why?"}, Asked("Why?", "Why?")),
        ({"question": "Why?", "context": None}, Asked("Why?", "Why?")),
        (
            {"question": "Why?", "context": "Because.", "system": "Be brief.", "instructions": "One word."},
            Asked("Because.\n\nWhy?", "Why?", "Be brief.", "One word."),
        ),
        ({"messages": [USER]}, Asked("Is it?")),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "developer", "content": "Be kind."},
                    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]},
                    {"role": "assistant", "content": "Hello"},
                    USER,
                ]
            },
            Asked("Is it?", None, "Be brief.\n\nBe kind.", "", (("user", "Hi\nyou"), ("assistant", "Hello"))),
        ),
        ({"custom_id": "a", "body": {"model": "m", "messages": [USER]}}, Asked("Is it?")),
    ],
)
def test_each_form_is_read(found: dict[str, JsonValue], expected: Asked) -> None:
    """What goes past the rewrite must not be rewritten, and what is a column of the user's own must not be sent."""
    assert asked(found, Fields()) == expected


def test_names_are_the_jobs() -> None:
    """Nobody renames the columns of a file of a hundred gigabytes."""
    fields = Fields(prompt="text", system="role", instructions="form", oracle="clean")
    found: dict[str, JsonValue] = {"text": "Why?", "role": "Be brief.", "form": "One word.", "clean": "W?"}
    assert asked(found, fields) == Asked("Why?", None, "Be brief.", "One word.", oracle="W?")
    assert asked({"q": "Why?", "c": "So."}, Fields(question="q", context="c")) == Asked("So.\n\nWhy?", "Why?")
    assert asked({"chat": [USER]}, Fields(messages="chat")) == Asked("Is it?")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"text": "a"}, "'prompt' is missing; the object has text"),
        ({}, "the object has no fields"),
        ({"prompt": 7.5}, "'prompt' is a number"),
        ({"prompt": ""}, "'prompt' is empty"),
        ({"question": " \n"}, "'question' is blank"),
        ({"question": "Why?", "context": ["a"]}, "'context' is a list, expected text"),
        ({"question": "Why?", "system": True}, "'system' is true or false"),
        ({"messages": []}, "expected a list with at least one"),
        ({"messages": "hello"}, "the messages are a text"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "the last message is of role 'assistant'"),
        ({"messages": [{"role": "user", "content": " "}]}, "the last message is blank"),
        ({"messages": [{"role": "tool", "content": "x"}, USER]}, "message 1 has no role"),
        ({"messages": ["x", USER]}, "message 1 has no role"),
        ({"messages": [{"role": "user", "content": None}]}, "the content of message 1 is null"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "holds more than text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "holds more than text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "holds more than text"),
    ],
)
def test_what_asks_nothing_is_refused_with_the_reason(found: dict[str, JsonValue], says: str) -> None:
    """A model invents a question where there is none, and an answer to it is paid for."""
    with pytest.raises(UnusableInputError, match=r".") as caught:
        asked(found, Fields())
    assert says in str(caught.value)


def test_a_batch_line_has_the_id_of_its_own_kind() -> None:
    """Files that were made for a provider's batch endpoint run as they are, and are joined by their custom_id."""
    line: dict[str, JsonValue] = {"custom_id": "r-1", "method": "POST", "body": {"messages": [USER]}}
    assert id_of(line, Fields()) == "custom_id"
    assert id_of({**line, "id": 1}, Fields()) == "id"
    assert id_of({"custom_id": "r-1", "prompt": "Why?"}, Fields()) == "id"


def test_forms_come_out_of_the_source_with_their_ids(tmp_path: Path) -> None:
    """The id's JSON stays as it stands in the line, in each form."""
    path = tmp_path / "in.jsonl"
    rows: list[JsonValue] = [{"custom_id": "r-1", "body": {"messages": [USER]}}, {"id": 2, "question": "Why?"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def read() -> list[tuple[bytes, str]]:
        with KeyIndex() as keys:
            found = [record async for record in source.records(path, Fields(), keys)]
        return [(record.id_json, record.prompt) for record in found if isinstance(record, Record)]

    assert anyio.run(read) == [(b'"r-1"', "Is it?"), (b"2", "Why?")]


@pytest.mark.parametrize(
    ("found", "fields", "prompt"),
    [
        ({"prompt": "Why?", "question": "no"}, {}, "Why?"),
        ({"ask": "Why?", "prompt": "no"}, {"prompt": "ask", "id": "id"}, "Why?"),
        ({"q": "Why?", "c": "Ann sings.", "context": "no"}, {"question": "q", "context": "c"}, "Ann sings.\n\nWhy?"),
        ({"question": "Why?", "context": ""}, {}, "Why?"),
        ({"turns": [USER]}, {"messages": "turns"}, "Is it?"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Is"}, {"type": "text", "text": "it"}]}
                ]
            },
            {},
            "Is\nit",
        ),
        ({"body": {"messages": [USER]}}, {}, "Is it?"),
        ({"prompt": "Why?", "other": 1.5, "id": 7}, {"system": None}, "Why?"),
        ({"prompt": "Why?"}, {"prompt": 5, "of another version": {}}, "Why?"),
        ({"prompt": " "}, {}, " "),
        ({"prompt": 5}, {}, None),
        ({"prompt": 1.5, "question": "Why?"}, {}, "Why?"),
        ({"question": "Why?", "context": 5}, {}, "Why?"),
        ({"messages": [{"role": "assistant", "content": "Hello"}]}, {}, "Hello"),
        ({"messages": [{"content": [{"type": "image"}, {"type": "text", "text": "Is it?"}]}]}, {}, "Is it?"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 10**5000}]}]}, {}, None),
        ({"messages": [7]}, {}, None),
        ({"messages": []}, {}, None),
        ({"body": []}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_prompt_of_an_object_read_back_is_found(
    found: dict[str, JsonValue], fields: dict[str, JsonValue], prompt: str | None
) -> None:
    """Three views show the original beside its rewrite: all of them the text that was asked, also of a refused line."""
    assert prompt_of_input(found, fields) == prompt
