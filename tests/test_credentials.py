"""Keys and header values come from where the job says, are judged before anything is sent, and are shown nowhere."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from s2a_batch import credentials, jobfile
from s2a_batch.errors import JobError
from s2a_batch.job import OPENAI_KEY, Job, changes
from tests.processes import RUN, run, write_input
from tests.server import key_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import JsonValue

    from tests.server import Plan, Upstream

HERE = "http://127.0.0.1:8000/v1"


def test_secrets_come_from_the_named_variables_and_are_not_shown() -> None:
    """Whatever prints the job, a traceback included, must not print the key."""
    stage: dict[str, JsonValue] = {
        "model": "m",
        "base_url": HERE,
        "api_key_env": "MY_KEY",
        "headers_env": {"X-Gateway": "GATEWAY"},
    }
    job = _asking(stage)
    environ = {"MY_KEY": " keyZZ\n", "GATEWAY": "gateZZ", OPENAI_KEY: "otherZZ"}
    found = credentials.secrets_of(job, "answer", environ)
    assert (found.api_key, found.headers) == ("keyZZ", {"X-Gateway": "gateZZ"})
    assert "ZZ" not in repr(found) + str(found) + repr(job)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"model": "m"}, OPENAI_KEY),
        ({"model": "m", "api_key_env": "MY_KEY"}, "MY_KEY"),
        ({"model": "m", "base_url": HERE, "api_key_env": "MY_KEY"}, "MY_KEY"),
        ({"model": "m", "base_url": HERE, "headers_env": {"X-Gateway": "GATEWAY"}}, "GATEWAY"),
    ],
)
@pytest.mark.parametrize("environ", [{}, {"MY_KEY": "", OPENAI_KEY: " ", "GATEWAY": ""}])
def test_a_missing_secret_is_named_before_anything_is_sent(
    stage: dict[str, JsonValue], words: str, environ: dict[str, str]
) -> None:
    """Cron knows none of the variables of a login shell; the message must say which one is missing, and for what."""
    with pytest.raises(JobError, match=rf"answer.*the environment has no {words}"):
        credentials.secrets_of(_asking(stage), "answer", environ)


def test_only_the_stages_that_send_something_need_their_secrets() -> None:
    """A key for a stage that does not run, or that a local model serves, is nobody's business."""
    table: dict[str, JsonValue] = {"input": "a", "output": "b", "answer": {"model": "m", "api_key_env": "MY_KEY"}}
    with pytest.raises(JobError, match="answer: the environment has no MY_KEY"):
        credentials.check_secrets(jobfile.build(table, "here"), {})
    credentials.check_secrets(jobfile.build(table, "here"), {"MY_KEY": "k"})
    credentials.check_secrets(jobfile.build(table | {"only": "rewrite"}, "here"), {})


def test_a_server_without_keys_needs_none() -> None:
    """Local servers ask for no key, and nobody should have to invent one."""
    assert credentials.secrets_of(_asking({"model": "m", "base_url": HERE}), "answer", {}).api_key == "none"


def test_the_usual_key_does_not_go_to_an_endpoint_that_a_stage_has_to_itself() -> None:
    """Whoever puts a second server beside OpenAI must not hand it the key of the first without a word."""
    environ = {OPENAI_KEY: "usualZZ"}
    assert credentials.secrets_of(_asking({"model": "m", "base_url": HERE}), "answer", environ).api_key == "none"
    table: dict[str, JsonValue] = {"input": "a", "output": "b", "model": "m", "base_url": HERE}
    assert credentials.secrets_of(jobfile.build(table, "here"), "answer", environ).api_key == "usualZZ"


def _asking(stage: dict[str, JsonValue]) -> Job:
    """A job whose answer stage has its place to itself."""
    return jobfile.build({"input": "a", "output": "b", "answer": stage}, "here")


# --- a key in a file


def key_file(folder: Path, content: bytes = b"sk-fileZZ-1\n", mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"sk-fileZZ-1", b"sk-fileZZ-1\n", b"\n  sk-fileZZ-1 \r\n\n"])
def test_a_key_is_read_from_its_file_without_what_editors_add(tmp_path: Path, content: bytes) -> None:
    """A newline in a header is refused by the HTTP library at best, and every editor writes one."""
    job = _asking({"model": "m", "base_url": HERE, "api_key_file": str(key_file(tmp_path, content))})
    found = credentials.secrets_of(job, "answer", {OPENAI_KEY: "otherZZ"})
    assert found.api_key == "sk-fileZZ-1"
    assert "ZZ" not in repr(found) + repr(job) + json.dumps(job.effective())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"sk-ZZ\nsk-ZZ\n", "several lines"),
        (b"sk-ZZ\x0bsk-ZZ", "no HTTP header can"),
        (b"x" * 20_000, "several lines"),
        (b"sk-ZZ\xe2\x80\x8b", "no HTTP header can"),
        (b"\xef\xbb\xbfsk-ZZ", "no HTTP header can"),
        (b"sk-\x00ZZ", "no HTTP header can"),
        (b"sk-\x1b[31mZZ", "no HTTP header can"),
        (b"OPENAI_API_KEY=sk-ZZ", "like a line of a shell"),
        (b"export KEY = 'sk-ZZ'", "like a line of a shell"),
    ],
)
def test_a_file_that_holds_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes, words: str) -> None:
    """Sent as it is, it is refused by the server for a reason that nobody understands, or shown in its error."""
    job = _asking({"model": "m", "api_key_file": str(key_file(tmp_path, content))})
    with pytest.raises(JobError, match=rf"answer\.api_key_file.*{words}") as caught:
        credentials.secrets_of(job, "answer", {})
    assert str(tmp_path / "key") in str(caught.value)
    assert "ZZ" not in str(caught.value)


def test_a_key_ending_in_equals_signs_is_a_key(tmp_path: Path) -> None:
    """Keys in base64 end so; taken for a line of a shell they could not be used."""
    job = _asking({"model": "m", "api_key_file": str(key_file(tmp_path, b"c2VjcmV0=="))})
    assert credentials.secrets_of(job, "answer", {}).api_key == "c2VjcmV0=="


def test_a_place_that_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    """A missing mount must be found before the night; a pipe would hang the run, or give the key once only."""
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("missing", "No such file"), (".", "is a directory"), ("pipe", "no regular file")):
        job = _asking({"model": "m", "api_key_file": str(tmp_path / name)})
        with pytest.raises(JobError, match=rf"^answer\.api_key_file: .*{words}"):
            credentials.check_secrets(job, {OPENAI_KEY: "rewrites"})
    with pytest.raises(JobError, match=r"answer\.api_key_file: .*\*\*\* cannot be read") as caught:
        credentials.secrets_of(_asking({"model": "m", "api_key_file": "sk-live-ZZ-0123456789"}), "answer", {})
    assert "ZZ" not in str(caught.value), "a key in place of its file's name"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    """The service's user is another one than the person's who wrote the file."""
    job = _asking({"model": "m", "api_key_file": str(key_file(tmp_path, mode=0))})
    with pytest.raises(JobError, match=r"answer\.api_key_file: .*key cannot be read: Permission denied"):
        credentials.secrets_of(job, "answer", {})


def test_only_a_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    """A shared machine's other users need no exploit for a key of mode 644."""
    job = _asking({"model": "m", "api_key_file": str(key_file(tmp_path, mode=0o640))})
    (line,) = credentials.warnings(job)
    assert line.startswith(f"{tmp_path / 'key'} holds a key and others may read it (-rw-r-----)")
    key_file(tmp_path, mode=0o400)
    assert credentials.warnings(job) == []
    assert credentials.warnings(_asking({"model": "m", "api_key_file": str(tmp_path / "missing")})) == []
    assert credentials.warnings(_asking({"model": "m"})) == []


@pytest.mark.parametrize(
    "table",
    [
        {"api_key_env": "A", "api_key_file": "b"},
        {"rewrite": {"model": "m", "api_key_env": "A", "api_key_file": "b"}},
    ],
)
def test_two_places_for_one_key_are_refused(table: dict[str, JsonValue]) -> None:
    """Which of them counts would be a guess, and the wrong account pays."""
    with pytest.raises(JobError, match="give api_key_env or api_key_file, not both"):
        jobfile.build({"input": "a", "output": "b", "model": "m", **table}, "here")


def test_a_stages_own_place_of_the_key_counts_alone(tmp_path: Path) -> None:
    """What a stage says itself must neither be mixed with the job's, nor refused beside it."""
    (tmp_path / "job.toml").write_text(
        'input = "in.jsonl"\noutput = "out"\nmodel = "m"\napi_key_env = "A"\n[rewrite]\napi_key_file = "keys/r"\n'
        '[answer]\napi_key_file = "~/a"\n'
    )
    job = jobfile.load(tmp_path / "job.toml")
    assert (job.rewrite.api_key_env, job.rewrite.api_key_file) == (None, tmp_path / "keys" / "r")
    assert job.answer.api_key_file is not None
    assert not str(job.answer.api_key_file).startswith(("~", str(tmp_path)))
    made = jobfile.build({"input": "a", "output": "b", "model": "m", "api_key_file": "k"}, "here")
    assert {str(stage.api_key_file) for stage in made.stages().values()} == {"k"}
    own: JsonValue = {"model": "n", "base_url": HERE}
    made = jobfile.build({"input": "a", "output": "b", "model": "m", "api_key_file": "k", "answer": own}, "here")
    assert made.answer.api_key_file is None, "a key goes to no endpoint that it was not named for"
    assert changes(made.settings(), job.settings()) == [
        change for change in changes(made.settings(), job.settings()) if "key" not in change
    ]


def test_a_run_with_a_key_file_sends_it_and_keeps_it_nowhere(
    tmp_path: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The run's directory is copied around; the key's path may be in it, the key may not."""
    (tmp_path / "work").mkdir()
    work = tmp_path / "work"
    write_input(work / "in.jsonl", range(3))
    path = key_file(tmp_path, b"sk-fileZZ-123\n", mode=0o644)
    up = upstream({"rules": [{"replies": [{"status": 401, "error": {"message": "bad sk-fileZZ-123"}}]}]})
    where = ("--base-url", up.base_url)
    setting = ("--set", f"api_key_file={path}")
    for quiet in ((), ("--quiet",)):
        assert run(work, *RUN, *where, *setting, "--dry-run", *quiet).err.startswith("warning: ")
    refused = run(work, *RUN, *where, *setting)
    assert refused.status == 3
    assert refused.err.count("holds a key and others may read it") == 1
    up = upstream({})
    assert run(work, *RUN, *where, *setting).status == 0, "not refused as a changed job"
    assert {request["key"] for request in up.requests()} == {key_digest("sk-fileZZ-123")}
    assert run(work, *RUN, *where, environ={OPENAI_KEY: "another"}).status == 0, "the key may change freely"
    kept = b"".join(file.read_bytes() for file in (work / "out").iterdir())
    assert str(path).encode() not in kept, "the last execution's job is what run.json holds"
    assert b"ZZ" not in kept
    assert "ZZ" not in refused.err + refused.out
