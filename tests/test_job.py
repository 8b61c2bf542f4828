"""The job: defaults, what a stage inherits, what can change an answer, and that no secret stays in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from s2a_batch.errors import JobError
from s2a_batch.job import Job, changes, fingerprint, is_embedded
from s2a_batch.masking import masked_url
from s2a_batch.stagejob import EMBEDDED, StageJob

if TYPE_CHECKING:
    from pathlib import Path

Table = dict[str, JsonValue]
HERE = "http://127.0.0.1:1/v1"
THERE = "http://127.0.0.1:2/v1"


def job(**table: JsonValue) -> Job:
    """A job of these settings and the least that every job has."""
    return Job.model_validate({"input": "in.jsonl", "output": "out", **table})


def print_of(**table: JsonValue) -> str:
    """The fingerprint of such a job."""
    return fingerprint(job(**table).settings())


BASE: Table = {"model": "m", "base_url": HERE, "api_key_env": "KEY"}


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": THERE},
        {"api_key_env": "OTHER"},
        {"limits": {"open_requests": 1, "requests_per_minute": 5, "tokens_per_minute": 5}},
        {"retry": {"attempts": 1, "deadline_s": 5}},
        {"fsync_s": 0},
        {"messages": "hash"},
        {"input": "other.jsonl"},
        {"output": "elsewhere"},
        {"rewrite": {"open_requests": 3, "limits": {"open_requests": 3}, "headers_env": {"X-Gateway": "GATEWAY"}}},
        {"answer": {"base_url": THERE, "api_key_env": "OTHER", "open_requests": 1}},
    ],
)
def test_what_cannot_change_an_answer_stops_no_resume(change: Table) -> None:
    """Another key, a slower night or a moved server must not cost the half of the file that is done."""
    assert print_of(**{**BASE, **change}) == print_of(**BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"fields": {"prompt": "text"}},
        {"fields": {"id": "name"}},
        *({stage: {"model": "other"}} for stage in ("rewrite", "answer")),
        *({stage: {"temperature": 0}} for stage in ("rewrite", "answer")),
        *({stage: {"top_p": 0.5}} for stage in ("rewrite", "answer")),
        *({stage: {"seed": 1}} for stage in ("rewrite", "answer")),
        *({stage: {"max_tokens": 5}} for stage in ("rewrite", "answer")),
        *({stage: {"max_completion_tokens": 5}} for stage in ("rewrite", "answer")),
        *({stage: {"max_chars": 5}} for stage in ("rewrite", "answer")),
        *({stage: {"extra_body": {"top_k": 1}}} for stage in ("rewrite", "answer")),
        *({stage: {"instructions": "Be kind."}} for stage in ("rewrite", "answer")),
        *({stage: {"examples": True}} for stage in ("rewrite", "answer")),
        *({stage: {"mode": "tools"}} for stage in ("rewrite", "answer")),
        *({stage: {"strict": False}} for stage in ("rewrite", "answer")),
        {"rewrite": {"preset": "question"}},
        {"answer": {"type": "int"}},
        {"answer": {"type": "choice", "choices": ["a", "b"]}},
        {"answer": {"class": "package.module:Model"}},
        {"answer": {"instructed": False}},
        {"answer": {"keep_original": True}},
    ],
    ids=json.dumps,
)
def test_whatever_can_change_an_answer_changes_the_fingerprint(change: Table) -> None:
    """Answers of two settings in one file, without a word, make the whole file worthless."""
    assert print_of(**{**BASE, **change}) != print_of(**BASE)
    (line,) = changes(job(**BASE).settings(), job(**{**BASE, **change}).settings())[:1]
    assert " -> " in line


def test_a_schema_counts_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    """A schema that was edited in place asks for other answers; one that was moved does not."""
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text('{"type":"object"}')
    second.write_text('{"type":"object"}')
    prints = [print_of(answer={"schema_file": str(path)}) for path in (first, second)]
    first.write_text('{"type":"object","required":["n"]}')
    assert prints == [prints[0]] * 2
    assert print_of(answer={"schema_file": str(first)}) != prints[0]
    first.unlink()
    with pytest.raises(JobError, match=r"a\.json: cannot be read"):
        print_of(answer={"schema_file": str(first)})


def test_the_order_of_choices_is_a_setting() -> None:
    """Models lean to the option that comes first, so another order is another question."""
    orders: list[list[JsonValue]] = [["a", "b"], ["b", "a"]]
    prints = {print_of(answer={"type": "choice", "choices": order}) for order in orders}
    assert len(prints) == 2


def test_changes_name_each_setting_old_and_new_and_stay_short() -> None:
    """Whoever is refused a resume must see what differs, without a screen full of prompt."""
    old = job(rewrite={"instructions": "x" * 500, "temperature": 0.5}).settings()
    new = job(rewrite={"instructions": "y" * 500}).settings()
    lines = changes(old, new)
    assert [line.partition(":")[0] for line in lines] == ["rewrite.instructions", "rewrite.temperature"]
    assert "0.5 -> 0.0" in lines[1]
    assert all(len(line) < 200 for line in lines)
    assert changes(new, dict(new)) == []
    assert changes({}, {"a": 1}) == ["a: null -> 1"]


@given(st.sampled_from([{}, BASE, {"model": "m"}, {"answer": {"type": "float"}}]))
def test_settings_survive_the_manifest(table: Table) -> None:
    """The settings are compared with what `run.json` says of them; a type that JSON changes refuses every resume."""
    settings = job(**table).settings()
    assert changes(json.loads(json.dumps(settings, allow_nan=False)), settings) == []


def places(made: Job) -> list[tuple[str | None, str | None, str | None]]:
    """Where each stage asks, and with whose key."""
    return [(stage.model, stage.base_url, stage.api_key_env) for stage in (made.rewrite, made.answer)]


@pytest.mark.parametrize(
    ("table", "rewrite", "answer"),
    [
        (BASE, ("m", HERE, "KEY"), ("m", HERE, "KEY")),
        ({**BASE, "answer": {"model": "n"}}, ("m", HERE, "KEY"), ("n", HERE, "KEY")),
        ({**BASE, "answer": {"api_key_env": "MINE"}}, ("m", HERE, "KEY"), ("m", HERE, "MINE")),
        ({**BASE, "answer": {"base_url": THERE}}, ("m", HERE, "KEY"), ("m", THERE, None)),
        ({**BASE, "rewrite": {"base_url": THERE, "api_key_env": "MINE"}}, ("m", THERE, "MINE"), ("m", HERE, "KEY")),
        ({**BASE, "rewrite": {"model": EMBEDDED}}, (EMBEDDED, None, None), ("m", HERE, "KEY")),
        ({**BASE, "answer": {"model": "small.gguf"}}, ("m", HERE, "KEY"), ("small.gguf", None, None)),
        ({"model": "m"}, ("m", None, None), ("m", None, None)),
        ({"model": "m", "answer": {"base_url": THERE}}, ("m", None, None), ("m", THERE, None)),
        ({}, (EMBEDDED, None, None), (EMBEDDED, None, None)),
        ({"answer": BASE}, (EMBEDDED, None, None), ("m", HERE, "KEY")),
    ],
)
def test_a_stage_inherits_what_fits_and_never_a_key_of_another_endpoint(
    table: Table, rewrite: tuple[str, ...], answer: tuple[str, ...]
) -> None:
    """A key that goes to a server it was not named for is a leak; an endpoint without its key is a night lost."""
    assert places(job(**table)) == [rewrite, answer]


@pytest.mark.parametrize("table", [{}, {"model": EMBEDDED}, {"model": "dir/small.gguf"}])
def test_the_embedded_model_gets_settings_it_can_live_with(table: Table) -> None:
    """Out of the box a tiny model must come through: bounded replies, examples, no chance."""
    made = job(**table)
    for stage in (made.rewrite, made.answer):
        assert is_embedded(stage)
        assert (stage.temperature, stage.examples) == (0.0, True)
        assert stage.max_tokens
        assert stage.max_chars
    assert job(**table, rewrite={"examples": False, "max_tokens": 9}).rewrite.max_tokens == 9


def test_a_named_endpoint_gets_no_settings_of_ours() -> None:
    """Some servers refuse parameters they do not know; what the job does not say is not sent."""
    for made in (job(**BASE), job(model="m")):
        for stage in (made.rewrite, made.answer):
            assert not is_embedded(stage)
            bare = StageJob(model=stage.model, base_url=stage.base_url, api_key_env=stage.api_key_env)
            assert stage.model_dump(include=set(StageJob.model_fields)) == bare.model_dump()
    assert not is_embedded(job(model="x.gguf", base_url=HERE).rewrite)


URL_WITH_KEYS = "https://user:p%40ssZZ@host.example:8443/v1?key=querykeyZZ"


def test_what_is_kept_of_a_job_holds_no_secret() -> None:
    """`run.json` is copied into reports and tickets."""
    made = job(model="m", base_url=URL_WITH_KEYS, answer={"base_url": URL_WITH_KEYS, "model": "n"})
    for text in (json.dumps(made.effective()), json.dumps(made.settings()), repr(made), str(made)):
        assert "ZZ" not in text
    assert made.effective()["base_url"] == "https://host.example:8443/v1"
    assert made.rewrite.base_url == URL_WITH_KEYS, "it is used as it was given"
    assert masked_url("http://[::1]:80/v1") == "http://[::1]:80/v1"


@pytest.mark.parametrize(
    "table",
    [
        {"api_key_env": "sk-ZZ-1234"},
        {"rewrite": {"api_key_env": "sk ZZ"}},
        {"answer": {"headers_env": {"X-Gateway": "Bearer ZZ"}}},
        {"api_key_env": ""},
    ],
)
def test_a_key_in_place_of_its_variable_is_refused_and_not_shown(table: Table) -> None:
    """People paste the key where its name belongs; it must not end up in the manifest or on the screen."""
    with pytest.raises(ValidationError) as caught:
        job(**table)
    messages = [error["msg"] for error in caught.value.errors()]
    assert all("names the variable" in message for message in messages)
    assert "ZZ" not in "".join(messages)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"base_url": HERE}, "rewrite has a base_url and no model"),
        ({"model": "m", "base_url": "localhost:8000/v1"}, "no http(s) address"),
        ({"model": "m", "answer": {"base_url": "ftp://host/v1"}}, "no http(s) address"),
        ({"model": "m", "base_url": "http://user:pZZ/w@host/v1"}, "no http(s) address"),
        ({"model": "m", "base_url": "http://host:99999999"}, "no http(s) address"),
        ({"model": "m", "base_url": "http://[::1"}, "no http(s) address"),
        ({"model": "m", "base_url": ""}, "no http(s) address"),
        ({"output": "in.jsonl"}, "it is the run's directory"),
        ({"answer": {"type": "choice"}}, "go together"),
        ({"answer": {"choices": ["a"]}}, "go together"),
        ({"answer": {"type": "int", "class": "a:B"}}, "give one of type, schema_file and class"),
        ({"rewrite": {"max_tokens": 1, "max_completion_tokens": 1}}, "not both"),
        ({"rewrite": {"temperature": float("nan")}}, "less than or equal to 2"),
        ({"rewrite": {"extra_body": {"a": [float("inf")]}}}, "not JSON compliant"),
        ({"fsync_s": float("inf")}, "finite"),
        ({"retry": {"max_s": float("inf")}}, "finite"),
        ({"limits": {"open_requests": 0}}, "expected a whole number from 1"),
        ({"limits": {"requests_per_minute": 0}}, "greater than 0"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_anything_is_sent(table: Table, words: str) -> None:
    """Found at once, a fault costs a second; found by the first request, it costs a morning."""
    with pytest.raises(ValidationError) as caught:
        job(**table)
    text = "\n".join(error["msg"] for error in caught.value.errors())
    assert words in text
    assert "ZZ" not in text


def test_the_output_is_a_directory_and_never_the_users_file(tmp_path: Path) -> None:
    """A slip of the command line must not write into somebody's data."""
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(ValidationError, match="it is the run's directory"):
        job(output=str(tmp_path / "data.jsonl"))
    assert job(output=str(tmp_path)).output == tmp_path


def test_a_job_is_frozen() -> None:
    """What was checked is what runs."""
    for part, name in ((job(), "model"), (job().rewrite, "preset"), (job().limits, "open_requests")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 1)
