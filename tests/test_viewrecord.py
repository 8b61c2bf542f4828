"""One line as the page shows it: of any status, arm and input form, and never a fault for a line that is odd."""

from __future__ import annotations

import copy
import json
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from s2a_batch.web import viewindex
from s2a_batch.web.viewquery import Filters, Place, page
from s2a_batch.web.viewrecord import CUT_CHARS, original, policy_told, shown
from tests.rundata import append, attempt, bad_line, encoded, failed, result, run_directory, stage

if TYPE_CHECKING:
    from tests.processes import JsonObject

ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def plain(text: JsonObject) -> str:
    return "".join(piece for piece, _ in text["pieces"])


def seen(line: JsonObject, *, full: bool = False) -> JsonObject:
    """What the page gets of a line."""
    found = json.loads(to_json(shown(encoded(line), "prompt", full=full)))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ({"prompt": "Who?", "context": "no"}, "Who?"),
        ({"context": "Ann sings.", "question": "Who sings?"}, "Ann sings.\n\nWho sings?"),
        ({"question": "Who sings?"}, "Who sings?"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Who?"}]}, "Who?"),
        ({"custom_id": "x", "body": {"messages": [{"role": "user", "content": "Who?"}]}}, "Who?"),
        ({"prompt": 5}, '{"prompt": 5}'),
        ({"messages": "none"}, '{"messages": "none"}'),
    ],
)
def test_the_original_is_found_in_every_form_of_input(given: JsonObject, prompt: str) -> None:
    """With hashes in place of messages, or without a rewrite stage, the input alone has it."""
    assert original({"stages": {}, "input": given}, "prompt") == prompt


def test_the_original_is_what_was_given_even_when_something_else_was_sent() -> None:
    """A rewrite by passages sends numbers between the sentences; marks on those would show what nobody wrote."""
    sent = {"rewrite": stage("s", "[1] Ann sings.\n[2] Why?"), "answer": None}
    assert original(result(1, prompt="Ann sings. Why?", stages=sent), "prompt") == "Ann sings. Why?"
    assert original(result(1, stages=sent) | {"input": {"ask": "Why?"}}, {"prompt": "ask"}) == "Why?"
    assert original(result(1, stages=sent) | {"input": {"ask": "Why?"}}, "prompt") == "[1] Ann sings.\n[2] Why?"
    assert original(bad_line(2), "prompt") == "{oops"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"policy": "answer_anyway"}, "answered from the rewrite all the same (it failed a check)"),
        (
            {"policy": "keep_original"},
            "answered from the rewrite and the original together (the rewrite failed a check)",
        ),
        ({"policy": "original"}, "answered from the original (the rewrite failed a check)"),
        ({"policy": "original", "rewrite": None}, "answered from the original (there is no usable rewrite)"),
        ({"policy": "original", "status": "failed"}, "to be answered from the original (the rewrite failed a check)"),
        ({"policy": "fail", "status": "failed"}, "not answered (the rewrite failed a check)"),
        ({"policy": "skipped"}, "no rewrite was asked for (the prompt is one plain question)"),
        ({"policy": "another"}, "another"),
    ],
)
def test_a_policy_is_told_in_words(changes: JsonObject, told: str) -> None:
    """Whoever audits an answer must know from which text it was made."""
    line = result(1) | changes
    assert policy_told(line) == told
    page = seen(line)
    assert (page["policy"], page["policy_told"]) == (line["policy"], told)


@pytest.mark.parametrize(
    ("answer", "baseline", "flipped"),
    [
        ({"answer": 3}, None, None),
        (None, {"answer": 3}, None),
        ({"answer": 3}, {"answer": 3}, False),
        ({"answer": 3}, {"answer": 4}, True),
        ({"answer": "x" * CUT_CHARS + "yes"}, {"answer": "x" * CUT_CHARS + "not"}, True),
    ],
)
def test_a_flip_is_told_from_whole_answers(
    answer: JsonObject | None, baseline: JsonObject | None, flipped: bool | None
) -> None:
    """Two long answers may differ in their last word alone, which the page cuts off; no answer is no other one."""
    page = seen(result(1, answer=answer, baseline=baseline))
    assert page["flipped"] is flipped
    assert (page["baseline"] is None) is (baseline is None)


def test_a_record_is_shown_with_its_marks_and_times() -> None:
    """It is the page's purpose."""
    tries = [attempt(1), attempt(2, "2026-11-25T02:00:01.750+00:00", reask=True, reply="oops")]
    prompt = "Ann has 3 cats. I think it is 99. How many cats?"
    line = result(3, prompt=prompt, stages={"rewrite": stage("Rewrite.", prompt, attempts=tries)})
    page = seen(line)
    assert [piece for piece, kept in page["original"]["pieces"] if not kept] == ["I think it is 99. "]
    assert plain(page["rewrite"]["query"]) == "How many cats does Ann have?"
    assert [piece for piece, known in page["rewrite"]["query"]["pieces"] if not known] == ["does ", "have?"]
    assert page["rewrite"]["question_kept"] is True
    assert page["answer"]["text"] == "3"
    assert [found["at_s"] for found in page["stages"][0]["attempts"]] == [0.5, 1.75]
    assert page["stages"][0]["attempts"][1]["reply"]["text"] == "oops"
    assert page["tokens"] == 66


@pytest.mark.parametrize("started", ["", "soon", "2026-11-25T02:00:01", "2026-11-25"])
def test_an_attempt_whose_time_cannot_be_told_is_shown_without(started: str) -> None:
    """A time without an offset cannot be compared with one that has it."""
    line = result(1, stages={"rewrite": stage("s", "u", attempts=[attempt(1, started)])})
    assert seen(line)["stages"][0]["attempts"][0]["at_s"] is None


@pytest.mark.parametrize(("level", "kept"), [("error", False), ("warn", False), ("info", True)])
def test_a_question_that_a_check_calls_lost_is_not_kept(level: str, kept: bool) -> None:
    """The badge and the checks must not contradict each other."""
    check = {"name": "question_lost", "level": level, "message": "", "words": []}
    assert seen(result(1, checks=[check]))["rewrite"]["question_kept"] is kept


@pytest.mark.parametrize(
    "line", [failed(1), bad_line(2), result(3, rewrite=None, stages={}), result(4, answer={"a": [1]})]
)
def test_lines_of_every_kind_are_shown(line: JsonObject) -> None:
    """What went wrong is looked at first."""
    page = seen(line)
    assert page["status"] == line["status"]
    assert page["error"] == line["error"]
    assert (page["rewrite"] is None) is (line["rewrite"] is None)


def test_long_texts_are_cut_and_say_so() -> None:
    """A megabyte in each of ten places would be a page that nobody can open."""
    line = result(1, prompt="word " * 50_000, answer={"answer": "x" * 100_000})
    page = seen(line)
    assert len(to_json(page)) < 10 * CUT_CHARS
    assert page["original"]["chars"] == 250_000
    assert page["answer"] == {"text": "x" * CUT_CHARS, "chars": 100_000}
    whole = seen(line, full=True)
    assert plain(whole["original"]) == "word " * 50_000
    assert len(whole["answer"]["text"]) == 100_000


def test_a_text_of_very_many_pieces_is_whole_all_the_same() -> None:
    """So many marks freeze a page; the text is what counts."""
    prompt = " ".join(f"a{n} b" for n in range(9_000))
    rewrite = {"relevant_context": "b " * 9_000, "user_query": "b", "raw": ""}
    page = seen(result(1, prompt=prompt, rewrite=rewrite), full=True)
    assert plain(page["original"]) == prompt
    assert len(page["original"]["pieces"]) < 4_100


def _changed(line: JsonObject, dice: random.Random, value: object) -> JsonObject:
    """A line with an odd value in some place."""
    line = copy.deepcopy(line)
    node: object = line
    while True:
        keys: list[object] = list(node) if isinstance(node, dict) else list(range(len(node)))  # type: ignore[arg-type]
        key = dice.choice(keys)
        inner = node[key]  # type: ignore[index]
        if not isinstance(inner, dict | list) or not inner or dice.random() < 0.3:
            node[key] = value  # type: ignore[index]
            return line
        node = inner


@settings(max_examples=150, deadline=None)
@given(st.integers(), ODD, st.sampled_from([result(1), failed(2), bad_line(3)]))
def test_a_line_with_an_odd_value_in_any_place_is_shown(seed: int, value: object, line: JsonObject) -> None:
    """Another version's line, or one that was edited by hand, must not take the page down."""
    odd = to_json(_changed(line, random.Random(seed), value), inf_nan_mode="constants")  # noqa: S311
    page = shown(odd, "prompt")
    assert from_json(to_json(page, inf_nan_mode="null"), allow_inf_nan=False)


def test_lines_with_odd_values_are_indexed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As above, for the list; a line that stops the index would hide all that follow."""
    dice = random.Random(5)  # noqa: S311
    values: list[object] = [None, -1, 10**30, 1e308, "", "x", [], {}, [[]], {"a": None}, True, "\u0000"]
    lines = [json.dumps(_changed(result(n), dice, dice.choice(values))).encode() + b"\n" for n in range(1, 400)]
    directory = run_directory(tmp_path_factory.mktemp("odd") / "out", *lines)
    append(directory, encoded(result(400)).replace(b"400.0", b"1e999", 1), encoded(result(401)))
    db = viewindex.open_index(directory / viewindex.NAME)
    indexer = viewindex.Indexer(db, directory, "prompt")
    while indexer.step(100):
        pass
    rows = page(db, Filters(), Place(descending=True), 1000)
    db.close()
    assert len(rows) > 350
    assert any(row["line"] == 401 for row in rows)
