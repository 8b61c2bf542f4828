"""A result line is read whole, in every form, or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.htmlreport.digest import digest
from tests.result_lines import JOB, JsonObject, attempt, line, stage, write_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("form", ["question", "messages", "batch", "other name"])
def test_a_prompt_is_found_in_every_form_of_input(tmp_path: Path, form: str) -> None:
    """Without its prompt a record has no compression and no comparison, and the sums lie."""
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a b c d"}]
    inputs: dict[str, JsonObject] = {
        "question": {"context": "a b", "question": "c d"},
        "messages": {"messages": turns},
        "batch": {"custom_id": "1", "body": {"messages": turns}},
        "other name": {"ask": "a b c d"},
    }
    job = {**JOB, "fields": {"prompt": "ask"}} if form == "other name" else JOB
    found = digest(write_run(tmp_path, [line(1, rewrite=("a", "b"), input=inputs[form])], job=job))
    assert (found["compression"]["prompt_words"], found["compression"]["rewrite_words"]) == (4, 2)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize(
    ("prompt", "words"), [("two words", 2), ("日本語を書く", 6), ("naïve — übung", 3), ("ab 東京 cd", 4), ("", 0)]
)
def test_words_are_counted_in_every_script(tmp_path: Path, prompt: str, words: int) -> None:
    """A Japanese prompt that counts as one word would always be kept whole."""
    found = digest(write_run(tmp_path, [line(1, prompt, rewrite=("x", "y"))]))
    assert found["compression"]["prompt_words"] == words


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "now", ""])
def test_a_moment_of_no_calendar_is_unreadable(tmp_path: Path, moment: str) -> None:
    """A clock that was wrong, or a damaged line, must not end the report at its first chart."""
    found = digest(write_run(tmp_path, [line(1, started_at=moment), line(2)]))
    assert (found["counts"]["answered"], found["counts"]["unreadable"]) == (1, 1)


PATHS = [
    *(("line", name) for name in line(1)),
    *(("stage", name) for name in stage()),
    *(("attempt", name) for name in attempt()),
    *(("usage", name) for name in ("input_tokens", "output_tokens")),
    *(("rewrite", name) for name in ("relevant_context", "user_query")),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PATHS), HOSTILE)
def test_a_line_counts_whole_or_as_unreadable(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, str], value: object
) -> None:
    """One odd line of another version, or of a damaged disk, must not end the report nor half-count itself."""
    odd = line(2, stages={"rewrite": stage(attempt(5))})
    sent = odd["stages"]["rewrite"]["attempts"][0]
    places = {"line": odd, "stage": odd["stages"]["rewrite"], "attempt": sent}
    places |= {"usage": sent["usage"], "rewrite": odd["rewrite"]}
    places[path[0]][path[1]] = value
    good = line(1, stages={"rewrite": stage(attempt())})
    odd_bytes = b'{"schema":1,"key":"' + b"0" * 32 + b'",' + json.dumps(odd).encode()[1:]
    found = digest(write_run(tmp_path_factory.mktemp("odd"), [good, odd_bytes, line(3)]))
    counts = found["counts"]
    read = counts["answered"] + counts["failed"] + counts["rewritten"]
    assert read + counts["unreadable"] == 3
    assert counts["unreadable"] <= 1
    if counts["unreadable"]:
        assert found["stages"]["rewrite"]["requests"] == 1, "no half of it"
        assert sum(b["requests"] for b in found["course"]["bins"]) == 1


def test_a_torn_or_damaged_line_is_counted_as_such(tmp_path: Path) -> None:
    """A run that goes on has half a line at its end; a power cut leaves zeros."""
    found = digest(write_run(tmp_path, [line(1), b"\0" * 80, b'{"schema":1,"key":"half', line(2)]))
    assert (found["counts"]["answered"], found["counts"]["unreadable"]) == (2, 2)
