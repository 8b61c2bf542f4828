"""Job files and options: every fault is named with its place and its near miss."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from s2a_batch import jobfile
from s2a_batch.errors import JobError
from s2a_batch.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import JsonValue

HERE = "http://127.0.0.1:1/v1"
LEAST = 'input = "in.jsonl"\noutput = "out"\n'


def written(folder: Path, text: str) -> Path:
    """A job file."""
    path = folder / "job.toml"
    path.write_text(LEAST + text, encoding="utf-8")
    return path


def fault(folder: Path, text: str) -> str:
    """What is said about a job file."""
    path = written(folder, text)
    with pytest.raises(JobError) as caught:
        jobfile.load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines), "each fault names its file"
    return "\n".join(line.removeprefix(f"{path}: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modelx = "m"', "modelx: no such key; did you mean 'model'?"),
        ('api_key = "sk-ZZ"', "api_key: no such key; did you mean 'api_key_env'?"),
        ("[rewrite]\ntemperaturex = 0", "rewrite.temperaturex: no such key; did you mean 'temperature'?"),
        ('[answer]\nclas = "a:B"', "answer.clas: no such key; did you mean 'class'?"),
        ("[limits]\nopen_request = 1", "limits.open_request: no such key; did you mean 'open_requests'?"),
        ("[answer.limits]\ntoken_per_minute = 1", "answer.limits.token_per_minute: no such key; did you mean"),
        ("[retry]\nattempt = 1", "retry.attempt: no such key; did you mean 'attempts'?"),
        ('[fields]\npromptx = "x"', "fields.promptx: no such key; did you mean 'prompt'?"),
        ("[fields]\nzzzzzz = 1", "fields.zzzzzz: no such key; known: prompt, id"),
        ("[answers]\nseed = 1", "answers: no such key; did you mean 'answer'?"),
        ('[rewrite]\npreset = "strong"', "rewrite.preset: expected 'unbiased', 'relevance' or 'question'"),
        (
            '[limits]\nopen_requests = "many"',
            "limits.open_requests: expected a whole number from 1 to 10000, or 'auto'",
        ),
        ("[retry]\ndeadline_s = 0", "retry.deadline_s: expected greater than 0"),
        ("[retry]\nreasks = 11", "retry.reasks: expected less or equal to 10"),
        ("rewrite = 5", "rewrite: expected a table, found a whole number"),
        ('[rewrite]\nseed = "ZZ"', "rewrite.seed: expected a whole number, found a text"),
        ("[rewrite]\nseed = 1.5", "rewrite.seed: expected a whole number, found a number"),
        ('[rewrite]\ntemperature = "warm"', "rewrite.temperature: expected a number, found a text"),
        ("[rewrite]\nstrict = 7", "rewrite.strict: expected true or false, found a whole number"),
        ("[rewrite]\nmodel = [1]", "rewrite.model: expected a text, found a list"),
        ("[budget]\nmax_requests = true", "budget.max_requests: expected a number, found true or false"),
        ("[price]\nusd_per_million_input = 1e300", "or equal to 1000000000"),
        ('[answer]\nchoices = "a"', "answer.choices: expected a list, found a text"),
        ("[answer]\nschema_file = true", "answer.schema_file: expected a path, found true or false"),
        ('[answer]\nchoices = ["a"]', "answer: type = 'choice' and choices = [..] go together"),
        ('[rewrite]\napi_key_env = "sk-ZZ"', "rewrite.api_key_env: this is no name of an environment variable"),
        ('model = "m', "not TOML: "),
        ('output = "again"', "not TOML: "),
    ],
)
def test_each_fault_names_the_file_the_key_and_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    """A typo that is taken in silence runs all night with a default; one without a place takes an hour to find."""
    said = fault(tmp_path, text)
    assert message in said
    assert "ZZ" not in said


def keys_of(table: type[BaseModel], place: str = "") -> Iterator[str]:
    """All keys of a job, dotted, tables included."""
    for name, field in table.model_fields.items():
        key = place + (field.alias or name)
        yield key
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys_of(kind, f"{key}.")


@pytest.mark.parametrize("key", [*keys_of(Job)])
def test_a_near_miss_of_any_key_is_recognised(key: str) -> None:
    """A table that is added later must help like the first ones."""
    table = jobfile.with_setting({"input": "a", "output": "b"}, f"{key}_x=1")
    with pytest.raises(JobError, match=rf"{key}_x: no such key; did you mean '{key.rpartition('.')[2]}'"):
        jobfile.build(table, "command line")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Whoever corrects one key must not meet the next one at the next start."""
    said = fault(tmp_path, "modelx = 1\n[retry]\nattempts = 0\n[answer]\ntypo = 1").splitlines()
    assert {line.partition(":")[0] for line in said} == {"modelx", "retry.attempts", "answer.typo"}


@pytest.mark.parametrize("name", ["input", "output"])
def test_what_every_job_needs_is_asked_for_by_name(tmp_path: Path, name: str) -> None:
    """A job without an input says so, in the words of the file."""
    path = tmp_path / "job.toml"
    path.write_text("".join(line for line in LEAST.splitlines(keepends=True) if not line.startswith(name)))
    with pytest.raises(JobError, match=rf"job\.toml: no {name}; give .*{name} = "):
        jobfile.load(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A wrong path, a directory, another encoding: one line each, no traceback."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'model = "gr\xfcn"')
    for path, words in ((tmp_path / "no.toml", "cannot be read"), (tmp_path, "cannot be read"), (latin, "not TOML")):
        with pytest.raises(JobError, match=words) as caught:
            jobfile.load(path)
        assert str(path) in str(caught.value)


def test_a_bom_before_a_job_file_is_ignored(tmp_path: Path) -> None:
    """Editors on Windows write one, and nobody can see it."""
    path = written(tmp_path, 'model = "m"')
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert jobfile.load(path).model == "m"


def test_relative_paths_are_relative_to_the_job_file(tmp_path: Path) -> None:
    """Cron and systemd run a job from anywhere; it must read and write in the same places."""
    text = 'model = "m.gguf"\n[rewrite]\nmodel = "sub/r.gguf"\n[answer]\nmodel = "/abs/a.gguf"\nschema_file = "s.json"'
    made = jobfile.load(written(tmp_path, text))
    assert (made.input, made.output) == ((str(tmp_path / "in.jsonl"),), tmp_path / "out")
    assert (made.model, made.rewrite.model) == (str(tmp_path / "m.gguf"), str(tmp_path / "sub/r.gguf"))
    assert made.answer.model == "/abs/a.gguf"
    assert made.answer.schema_file == tmp_path / "s.json"
    assert jobfile.load(written(tmp_path, 'model = "org/name"')).model == "org/name"


def test_the_command_line_wins_and_leaves_the_rest(tmp_path: Path) -> None:
    """An option for one night changes one value, not the table it stands in."""
    path = written(tmp_path, 'model = "m"\n[rewrite]\nseed = 1\ntop_p = 0.5\n[limits]\nopen_requests = 3')
    made = jobfile.load(path, {"model": "n", "rewrite": {"seed": 2}, "output": "here"})
    assert (made.model, made.rewrite.seed, made.rewrite.top_p, made.limits.open_requests) == ("n", 2, 0.5, 3)
    assert str(made.output) == "here", "an option's path is relative to where the command runs"


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("model=gpt-large", {"model": "gpt-large"}),
        ("model=org/name:7b", {"model": "org/name:7b"}),
        ('model="4"', {"model": "4"}),
        (" model = spaced out ", {"model": "spaced out"}),
        ("rewrite.temperature=0.5", {"rewrite": {"temperature": 0.5}}),
        ("rewrite.examples=true", {"rewrite": {"examples": True}}),
        ("limits.requests_per_minute = 60", {"limits": {"requests_per_minute": 60}}),
        ('answer.choices=["a", "b=c"]', {"answer": {"choices": ["a", "b=c"]}}),
        ("rewrite.extra_body={top_k=1}", {"rewrite": {"extra_body": {"top_k": 1}}}),
        (
            'rewrite.instructions=Keep a=b, "quotes" and \\n # too',
            {"rewrite": {"instructions": 'Keep a=b, "quotes" and \\n # too'}},
        ),
        (
            "rewrite.instructions=Sei nett \U0001f36c zu Jürgen",
            {"rewrite": {"instructions": "Sei nett \U0001f36c zu Jürgen"}},
        ),
        ("rewrite.instructions=One line.\n2 = two", {"rewrite": {"instructions": "One line.\n2 = two"}}),
        ("rewrite.headers_env.X-Gateway=GATEWAY", {"rewrite": {"headers_env": {"X-Gateway": "GATEWAY"}}}),
    ],
)
def test_any_key_can_be_set_from_the_command_line(text: str, table: dict[str, JsonValue]) -> None:
    """Shells eat quotes: a bare word is a text, everything else is what TOML takes it for."""
    assert jobfile.with_setting({}, text) == table
    assert jobfile.with_setting({"rewrite": {"seed": 1}}, "rewrite.top_p=1.0") == {"rewrite": {"seed": 1, "top_p": 1.0}}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool))
def test_a_text_from_the_command_line_arrives_as_it_is(value: str) -> None:
    """Instructions in any language and with any sign must not be cut or refused."""
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert jobfile.with_setting({}, f"answer.instructions={quoted}") == {"answer": {"instructions": value}}
    bare = jobfile.with_setting({}, f"answer.instructions=so {value}")
    assert bare == {"answer": {"instructions": f"so {value}"}}


@pytest.mark.parametrize("text", ["", "model", "=m", " = m", "a b=1", "rewrite.=1", "[rewrite]=1"])
def test_what_is_no_setting_is_refused_with_an_example(text: str) -> None:
    """A setting that is ignored in silence changes what is paid for."""
    with pytest.raises(JobError, match=r"expected key=value, as in rewrite\.temperature=0"):
        jobfile.with_setting({}, text)


def test_a_setting_with_a_wrong_key_is_named_like_any_other() -> None:
    """The command line gets the same help as a job file."""
    table = jobfile.with_setting({"input": "a", "output": "b"}, "rewrite.temperaturex=0")
    with pytest.raises(JobError, match=r"command line: rewrite\.temperaturex: no such key; did you mean 'temperature'"):
        jobfile.build(table, "command line")
