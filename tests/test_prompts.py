"""The wording of both stages: what arrives unchanged, and what makes a difference."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.prompts import PROMPT_VERSION, Examples, answer_messages, rewrite_messages
from s2a_batch.stagejob import Preset

PRESETS: tuple[Preset, ...] = get_args(Preset)
EXAMPLES: tuple[Examples, ...] = get_args(Examples)
HOSTILE = [
    "{prompt} {0} {} %s %(x)s $name ${name}",
    "{{ system }} {% raw %}{# note #}",
    "  leading, trailing \t\r\n\n",
    "\\n \\u0041 \\ C:\\new\x00\x1b[31m",
    "\ud83d is half a character; \U0001f36c is one; e\u0301 is two",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("examples", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_prompt_is_the_whole_last_message(preset: Preset, examples: bool, text: str) -> None:
    """The text is data: whatever it looks like, stage 1 gets it byte for byte."""
    messages = rewrite_messages(text, preset=preset, examples=examples)
    assert messages[-1] == {"role": "user", "content": text}


@given(st.text())
def test_any_prompt_arrives_byte_for_byte(text: str) -> None:
    """No text is special: templates, controls and all of Unicode pass unchanged."""
    assert rewrite_messages(text, examples=True)[-1]["content"] == text


@given(st.text(), st.text(), st.text())
def test_stage_2_holds_its_texts_as_contiguous_pieces(context: str, query: str, original: str) -> None:
    """What stage 1 gave, and the original when asked for, reach stage 2 in one piece each."""
    content = answer_messages(context, query, original=original)[-1]["content"]
    assert content.endswith(context + "\n\n" + query if context else query)
    assert original in content


@pytest.mark.parametrize("text", HOSTILE)
def test_the_prompt_changes_no_other_message(text: str) -> None:
    """The user's text must not leak into the instructions, where it could be obeyed."""
    assert rewrite_messages(text, examples=True)[:-1] == rewrite_messages("other", examples=True)[:-1]


def test_presets_differ_in_their_instructions_alone() -> None:
    """A preset is a wording: each has its own, and none has other messages."""
    made = [rewrite_messages("text", preset=preset) for preset in PRESETS]
    assert len({messages[0]["content"] for messages in made}) == len(PRESETS)
    assert all([message["role"] for message in messages] == ["system", "user"] for messages in made)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_both_fields_and_forbids_to_answer_or_obey(preset: Preset) -> None:
    """The failure modes of rewriters: other fields, an answer, an embedded order followed."""
    wording = rewrite_messages("text", preset=preset)[0]["content"]
    for part in ('"relevant_context"', '"user_query"', "Do not answer", "do not follow instructions", "condition"):
        assert part in wording


@pytest.mark.parametrize("preset", PRESETS)
def test_instructions_replace_the_wording_as_they_are(preset: Preset) -> None:
    """A job's own wording is taken literally, whatever the preset, and examples still follow it."""
    own = "Rewrite {this} my way: {{ braces }}"
    messages = rewrite_messages("text", preset=preset, instructions=own, examples=True)
    assert messages[0] == {"role": "system", "content": own}
    assert messages[1:] == rewrite_messages("text", examples=True)[1:]


def test_empty_instructions_count_as_given() -> None:
    """An empty string is a choice of the job, not a missing value."""
    assert rewrite_messages("text", instructions="")[0]["content"] == ""
    assert answer_messages("c", "q", instructions="")[0]["content"] == ""


def test_rewrite_examples_are_turns_that_show_the_reply() -> None:
    """Tiny models copy what they see: each example must be a true rewrite in the asked form."""
    turns = rewrite_messages("text", examples=True)[1:-1]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    for text, reply in zip(turns[::2], turns[1::2], strict=True):
        shown = json.loads(reply["content"])
        assert list(shown) == ["relevant_context", "user_query"]
        assert text["content"].endswith(shown["user_query"])
        assert len(shown["relevant_context"]) < len(text["content"]) - len(shown["user_query"]) - 1


def test_rewrite_examples_keep_a_condition_in_the_question() -> None:
    """39 % of GSM8K problems have a number in the question sentence only: one example shows it stays."""
    replies = [
        json.loads(turn["content"]) for turn in rewrite_messages("text", examples=True) if "assistant" in turn["role"]
    ]
    assert any(character.isdigit() for reply in replies for character in reply["user_query"])


def test_stage_2_sees_nothing_but_the_rewrite() -> None:
    """System 2 Attention is hard attention: without `original`, the rewrite is all there is."""
    assert answer_messages("context", "query")[1:] == [{"role": "user", "content": "context\n\nquery"}]


def test_an_empty_context_leaves_the_question_alone() -> None:
    """A prompt may be all question; its answer must not begin with a gap."""
    assert answer_messages("", "query")[-1]["content"] == "query"


def test_the_original_comes_before_the_rewrite() -> None:
    """S2A-KeepOrig: both are there, and the rewrite has the last word."""
    content = answer_messages("context", "query", original=" {whole} ")[-1]["content"]
    assert content.index(" {whole} ") < content.index("context\n\nquery")


def test_instructed_adds_the_request_for_an_unbiased_answer() -> None:
    """The paper's S2A-NI is the same call without that sentence."""
    with_it = answer_messages("c", "q")[0]["content"]
    without = answer_messages("c", "q", instructed=False)[0]["content"]
    assert with_it.startswith(without)
    assert len(with_it) > len(without)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_answer_examples_show_the_type_asked_for(examples: Examples) -> None:
    """An example of another type would teach the model a reply that does not validate."""
    replies = [turn["content"] for turn in answer_messages("c", "q", examples=examples) if turn["role"] == "assistant"]
    types = {"number": int, "bool": bool}
    assert bool(replies) == (examples != "none")
    if examples in types:
        assert {type(json.loads(reply)["answer"]) for reply in replies} == {types[examples]}


def test_each_call_makes_messages_of_its_own() -> None:
    """A caller that appends a re-ask must not change the next record's messages."""
    first = rewrite_messages("text", examples=True)
    first[1]["content"] = "changed"
    assert rewrite_messages("text", examples=True)[1]["content"] != "changed"


def test_the_version_is_a_word() -> None:
    """It goes into fingerprints and results, where it is compared as text."""
    assert PROMPT_VERSION
    assert PROMPT_VERSION.strip() == PROMPT_VERSION
