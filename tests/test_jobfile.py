"""Job files and options: every fault is named with its place and its near miss."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from s2a_batch import jobfile
from s2a_batch.errors import JobError
from s2a_batch.job import Job
from tests.processes import run

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
    lines = [re.fullmatch(rf"{re.escape(str(path))}(?::(\d+))?: (.*)", line) for line in str(caught.value).splitlines()]
    assert all(lines), "each fault names its file"
    return "\n".join(f"{line[1]} {line[2]}" for line in lines if line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modelx = "m"', "3 modelx: no such key; did you mean 'model'?"),
        ('api_key = "sk-ZZ"', "3 api_key: no such key; did you mean 'api_key_env'?"),
        ("[rewrite]\ntemperaturex = 0", "4 rewrite.temperaturex: no such key; did you mean 'temperature'?"),
        ('[answer]\ntypee = "int"', "4 answer.typee: no such key; did you mean 'type'?"),
        ('[answer]\nclas = "a:B"', "4 answer.clas: no such key; did you mean 'class'?"),
        ("[answer]\nopen_request = 1", "4 answer.open_request: no such key; did you mean 'open_requests'?"),
        ("\n\n# x\nlimits.open_request = 1", "6 limits.open_request: no such key; did you mean 'open_requests'?"),
        ("[answer.limits]\ntoken_per_minute = 1", "4 answer.limits.token_per_minute: no such key; did you mean"),
        ("[retry]\nattempt = 1", "4 retry.attempt: no such key; did you mean 'attempts'?"),
        ('[fields]\npromptx = "x"', "4 fields.promptx: no such key; did you mean 'prompt'?"),
        ("[fields]\nzzzzzz = 1", "4 fields.zzzzzz: no such key; known: prompt, id"),
        ("\n[limit]\nopen_requests = 1", "4 limit: no such key; did you mean 'limits'?"),
        ("[answers]\nseed = 1", "3 answers: no such key; did you mean 'answer'?"),
        ('extend = "x"', "3 extend: no such key; did you mean 'extends'?"),
        ('modle = "x"', "3 modle: no such key; did you mean 'model'?"),
        ('[answer]\nmodle = "x"', "4 answer.modle: no such key; did you mean 'model'?"),
        ("[retry]\nmax_retries = 3", "4 retry.max_retries: no such key; did you mean 'attempts'?"),
        ("[retry]\ntimeout = 3", "4 retry.timeout: no such key; did you mean 'deadline_s'?"),
        (
            "[retry]\ntimeout_s = 3",
            "4 retry.timeout_s: no such key; did you mean 'deadline_s'? 'timeout_s' belongs into",
        ),
        ("timeout = 3", "3 timeout: no such key; did you mean 'deadline_s'? it belongs into [retry]"),
        ("[fields]\nretry_max = 3", "4 fields.retry_max: no such key; known: prompt, id"),
        ('[answer]\ntype = "string"', "; did you mean 'text'?"),
        ('[answer]\ntype = "integer"', "; did you mean 'int'?"),
        ('[answer]\ntype = "number"', "; did you mean 'float'?"),
        ("temperature = 1", "3 temperature: no such key; 'temperature' belongs into [rewrite] or [answer]"),
        (
            "temperatuer = 1",
            "3 temperatuer: no such key; did you mean 'temperature'? it belongs into [rewrite] or [answer]",
        ),
        ('[rewrite]\ntype = "int"', "4 rewrite.type: no such key; 'type' belongs into [answer]"),
        ('[answer]\npreset = "relevance"', "4 answer.preset: no such key; 'preset' belongs into [rewrite]"),
        ("[answer]\nattempts = 3", "4 answer.attempts: no such key; 'attempts' belongs into [retry]"),
        (
            '[hooks]\ncommand = ["x"]',
            "4 hooks.command: no such key; 'command' belongs into [hooks.on_success] or [hooks.on_failure]",
        ),
        (
            "[rewrite]\nbudget = 1",
            "4 rewrite.budget: no such key; 'budget' belongs to the top of the file, before the first",
        ),
        ('[rewrite]\nextends = "x"', "4 rewrite.extends: no such key; 'extends' belongs to the top of the file"),
        (
            '[rewrite]\npreset = "relevanse"',
            "4 rewrite.preset: expected 'unbiased', 'relevance' or 'question'; did you mean 'relevance'?",
        ),
        ('[rewrite]\npreset = "strong"', "4 rewrite.preset: expected 'unbiased', 'relevance' or 'question'"),
        ('[answer]\non_failed_check = "keep-original"', "; did you mean 'keep_original'?"),
        ('arm = "S2A"', "3 arm: expected 's2a', 'baseline', 'instructed', 'cot' or 'oracle'; did you mean 's2a'?"),
        (
            '[limits]\nopen_requests = "many"',
            "4 limits.open_requests: expected a whole number from 1 to 10000, or 'auto'",
        ),
        ("[retry]\ndeadline_s = 0", "4 retry.deadline_s: expected greater than 0"),
        ("[retry]\nreasks = 11", "4 retry.reasks: expected less or equal to 10"),
        ("rewrite = 5", "3 rewrite: expected a table, found a whole number"),
        ('[rewrite]\nseed = "ZZ"', "4 rewrite.seed: expected a whole number, found a text"),
        ("[rewrite]\nseed = 1.5", "4 rewrite.seed: expected a whole number, found a number"),
        ('[rewrite]\ntemperature = "warm"', "4 rewrite.temperature: expected a number, found a text"),
        ('[rewrite]\nseed = "5"', "4 rewrite.seed: expected a whole number, found a text"),
        ('[rewrite]\ntop_p = "0.5"', "4 rewrite.top_p: expected a number, found a text"),
        ("[rewrite]\nstrict = 1", "4 rewrite.strict: expected true or false, found a whole number"),
        ('[rewrite]\nstrict = "no"', "4 rewrite.strict: expected true or false, found a text"),
        ("model = 1979-05-27", "3 model: expected a text, found a date or time"),
        ("[rewrite]\nstrict = 7", "4 rewrite.strict: expected true or false, found a whole number"),
        ("[answer]\ninstructed = 7", "4 answer.instructed: expected true or false, found a whole number"),
        ("[rewrite]\nmodel = [1]", "4 rewrite.model: expected a text, found a list"),
        ("model = 5", "3 model: expected a text, found a whole number"),
        ("[budget]\nmax_requests = true", "4 budget.max_requests: expected a whole number, found true or false"),
        (
            "[price]\nusd_per_million_input = 1e300",
            "4 price.usd_per_million_input: expected less or equal to 1000000000",
        ),
        ("[price]\nusd_per_million_input = 1", "3 no price.usd_per_million_output"),
        ('[answer]\nchoices = "a"', "4 answer.choices: expected a list, found a text"),
        ("[answer]\nschema_file = true", "4 answer.schema_file: expected a path, found true or false"),
        ('[answer]\nchoices = ["a"]', "4 answer.choices: type = 'choice' and choices = [..] go together"),
        ('[answer]\nseed = 1\ntype = "choice"', "5 answer.type: type = 'choice' and choices = [..] go together"),
        ('api_key_env = "A"\napi_key_file = "b"', "3 api_key_env: give api_key_env or api_key_file, not both"),
        ('base_url = "ftp://ZZ"', "3 base_url: no http(s) address; example: "),
        (f'base_url = "{HERE}"', "3 base_url: rewrite has a base_url and no model; name the model"),
        ('model = "m"\nprocesses = 2\n[answer]\nmodel = "embedded"', "4 processes: is for a server of your own"),
        ('[schedule]\ntimezone = "Mars"', "4 schedule.timezone: no time zone; expected an IANA name"),
        ('[rewrite]\napi_key_env = "sk-ZZ"', "4 rewrite.api_key_env: this is no name of an environment variable"),
        ('\nmodel = "m', "4 not TOML: "),
        ("[answer]\nseed = 1 1\n", "4 not TOML: Expected newline or end of document after a statement (column 10)"),
        ('output = "again"', "3 not TOML: Cannot overwrite a value (the file's end)"),
        ("seed = [\n\n\n", "3 not TOML: "),
        ("seed = " + "[" * 5000, "not TOML: nested too deeply"),
        ("seed = " + "9" * 5000, "not TOML: Exceeds the limit"),
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


def test_all_faults_are_told_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    """Whoever corrects one key must not meet the next one at the next start."""
    said = fault(tmp_path, "modelx = 1\n[retry]\nattempts = 0\n[answer]\ntypo = 1\n[rewrite]\nstrict = 5").splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "3 modelx",
        "5 retry.attempts",
        "7 answer.typo",
        "9 rewrite.strict",
    ]


@pytest.mark.parametrize("text", ["model = 5", 'base_url = "ftp://h"', "[answer]\ninstructed = 7"])
def test_one_fault_is_told_once(tmp_path: Path, text: str) -> None:
    """What both stages take from the top is one key in the file, whatever kinds of value may stand there."""
    assert len(fault(tmp_path, text).splitlines()) == 1


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
    for path, words in (
        (tmp_path / "no.toml", "cannot be read"),
        (tmp_path, "cannot be read"),
        (latin, r"latin\.toml:1: not TOML: a byte that is no UTF-8"),
    ):
        with pytest.raises(JobError, match=words) as caught:
            jobfile.load(path)
        assert str(path) in str(caught.value)


def test_a_bom_before_a_job_file_is_ignored(tmp_path: Path) -> None:
    """Editors on Windows write one, and nobody can see it."""
    path = written(tmp_path, 'model = "m"')
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    made = jobfile.load(path)
    assert made.model == "m"
    assert made.files == [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]


def test_relative_paths_are_relative_to_the_job_file(tmp_path: Path) -> None:
    """Cron and systemd run a job from anywhere; it must read and write in the same places."""
    text = 'model = "m.gguf"\n[rewrite]\nmodel = "sub/r.gguf"\n[answer]\nmodel = "/abs/a.gguf"\nschema_file = "s.json"'
    made = jobfile.load(written(tmp_path, text))
    assert (made.input, made.output) == ((str(tmp_path / "in.jsonl"),), tmp_path / "out")
    assert (made.model, made.rewrite.model) == (str(tmp_path / "m.gguf"), str(tmp_path / "sub/r.gguf"))
    assert made.answer.model == "/abs/a.gguf"
    assert made.answer.schema_file == tmp_path / "s.json"
    assert jobfile.load(written(tmp_path, 'model = "org/name"')).model == "org/name"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('output = ""', "output"),
        ('rewrites = ""', "rewrites"),
        ('api_key_file = ""', "api_key_file"),
        ('rewrite.api_key_file = ""', "rewrite.api_key_file"),
        ('answer.schema_file = ""', "answer.schema_file"),
        ('metrics.textfile = ""', "metrics.textfile"),
        ('input = ""', "input"),
    ],
)
def test_an_empty_path_is_refused(tmp_path: Path, text: str, name: str) -> None:
    """A variable of a shell script that is not set must not fill the working directory with a run's files."""
    least = "".join(line for line in LEAST.splitlines(keepends=True) if not line.startswith(name))
    path = tmp_path / "job.toml"
    path.write_text(f'{least}model = "m"\n{text}\n')
    line = len(path.read_text().splitlines())
    with pytest.raises(JobError, match=rf"job\.toml:{line}: {re.escape(name)}: expected a path") as caught:
        jobfile.load(path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(JobError, match=rf"--set {re.escape(name)}: {re.escape(name)}: expected a path"):
        jobfile.load(written(tmp_path, 'model = "m"'), None, [f"{name}="])


def test_an_empty_option_is_no_directory(tmp_path: Path) -> None:
    """`-o "$OUT"` with no OUT."""
    written(tmp_path, 'model = "m"')
    done = run(tmp_path, "run", "job.toml", "-o", "")
    assert (done.status, done.err) == (2, "error: -o: output: expected a path, found an empty text\n")


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


def test_a_fault_of_an_option_names_the_option_and_no_value(tmp_path: Path) -> None:
    """A fault of the command line is looked for in vain in the file; a value of a wrong key may be a secret."""
    path = written(tmp_path, 'model = "m"\n[rewrite]\nseed = 1\n[retry]\nattempts = 0')
    settings = ["rewrite.temperatuer=0", "api_key=sk-ZZ", "rewrite.seed=ZZ"]
    with pytest.raises(JobError) as caught:
        jobfile.load(path, {"only": "rewrit", "limits": {"open_requests": "many"}}, settings)
    said = str(caught.value)
    assert [line.rpartition(": ")[0] for line in said.splitlines()] == [
        "--set rewrite.seed: rewrite.seed",
        "--set api_key: api_key",
        "--set rewrite.temperatuer: rewrite.temperatuer",
        "--open-requests: limits.open_requests",
        "--only: only",
        f"{path}:7: retry.attempts",
    ]
    assert "ZZ" not in said


def test_the_last_setting_wins(tmp_path: Path) -> None:
    """Scripts put their own settings behind those that they were given."""
    made = jobfile.load(written(tmp_path, "rewrite.seed = 1"), None, ["rewrite.seed=2", "rewrite.seed=3"])
    assert made.rewrite.seed == 3
