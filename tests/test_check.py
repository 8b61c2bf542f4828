"""The check of a job names every fault before a run meets it, sends nothing unasked, and asks little when asked."""

from __future__ import annotations

import gzip
import json
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server import Plan, Reply, Upstream

NOBODY = "http://127.0.0.1:9/v1"
LEAST = 'input = "in.jsonl"\noutput = "out"\nmodel = "m"\n'
PRICE = "usd_per_million_input = 1000\nusd_per_million_output = 2000\n"
RECORDS = 2


def checked(folder: Path, text: str, *options: str, environ: dict[str, str] | None = None) -> tuple[int, Any]:
    """Exit status and findings of a job file's check, as (level, about, message)."""
    (folder / "job.toml").write_text(LEAST + text)
    done = run(folder, "check", "job.toml", "--json", *options, environ=environ)
    found = json.loads(done.out)
    assert found["exit_status"] == done.status
    return done.status, [(row["level"], row["about"], row["message"]) for row in found["findings"]]


def faults(found: Any) -> dict[str, str]:  # noqa: ANN401  JSON
    """What is not well, by what it is about."""
    return {about: message for level, about, message in found if level != "ok"}


def test_a_sound_job_is_told_so_and_nothing_is_sent_or_written(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """It may be asked at any time, by any script."""
    up = upstream({})
    before = sorted(folder.iterdir())
    status, found = checked(folder, f'base_url = "{up.base_url}"\n[price]\n{PRICE}')
    assert (status, faults(found)) == (0, {})
    told = next(message for _, about, message in found if about == "lines")
    assert told.startswith("2 lines: 2 pending, 0 done, 0 faulty; about 4 requests, ")
    assert up.requests() == []
    assert {path.name for path in folder.iterdir()} == {path.name for path in before} | {"job.toml"}


def test_all_faults_are_told_at_once(folder: Path) -> None:
    """Who corrects one at a time at night corrects until morning."""
    (folder / "in.jsonl").write_text('{"prompt": 1}\n')
    (folder / "s.json").write_text("[1")
    text = """
        api_key_env = "NO_SUCH_KEY"
        [answer]
        schema_file = "s.json"
        [answer.limits]
        open_requests = 1
        [budget]
        max_cost_usd = 1
        [hooks.on_failure]
        command = ["no-such-program"]
        [hooks.on_success]
        url_env = "NO_SUCH_URL"
        [metrics]
        textfile = "/no/such/place/x.prom"
        [telemetry]
        endpoint = "http://127.0.0.1:9"
        headers_env = { authorization = "NO_SUCH_TOKEN" }
        """
    status, found = checked(folder, f'base_url = "{NOBODY}"\n{text}')
    said = faults(found)
    assert status == 2
    assert said["key of rewrite"].startswith("rewrite: the environment has no NO_SUCH_KEY")
    assert said["key of answer"].startswith("answer: the environment has no NO_SUCH_KEY")
    assert "s.json" in said["answer"]
    assert said["prices"].startswith("budget.max_cost_usd: no price is known")
    assert said["line"] == "in.jsonl:1: 'prompt' is a number, expected text"
    assert said["hooks.on_failure"].startswith("hooks.on_failure: 'no-such-program': no such command")
    assert said["hooks.on_success"] == "hooks.on_success: the environment has no NO_SUCH_URL"
    assert said["metrics"].startswith("metrics.textfile: nothing can be written in /no/such/place")
    assert said["telemetry"] == "the environment has no NO_SUCH_TOKEN"
    messages = [message for level, _, message in found if level != "ok"]
    assert len(set(messages)) == len(messages), "each once"


def test_faults_of_the_file_come_with_their_lines(folder: Path) -> None:
    """An editor jumps there."""
    status, found = checked(folder, "[answer]\ntypee = 1\n[retry]\nattempts = 0")
    assert (status, [row[2] for row in found]) == (
        2,
        [
            "job.toml:5: answer.typee: no such key; did you mean 'type'?",
            "job.toml:7: retry.attempts: expected greater or equal to 1",
        ],
    )


def test_faulty_lines_alone_are_exit_1(folder: Path) -> None:
    """A run would go through and make dead letters of them."""
    with (folder / "in.jsonl").open("a") as file:
        file.write('{"prompt": \n{"id": 5}\n' + "[]\n" * 30)
    status, found = checked(folder, f'base_url = "{NOBODY}"')
    lines = [message for _, about, message in found if about == "line"]
    assert status == 1
    assert lines[0].startswith("in.jsonl:3: ")
    assert lines[-1] == "in.jsonl: 12 more faulty lines"
    assert len(lines) == 21


def test_an_input_that_cannot_be_read_to_its_end_is_exit_3(folder: Path) -> None:
    """As of the run itself: the job is right, and may be tried again when the store is back."""
    packed = gzip.compress((folder / "in.jsonl").read_bytes())
    (folder / "cut.jsonl.gz").write_bytes(packed[:-9])
    status, found = checked(folder, f'base_url = "{NOBODY}"', "--set", "input=cut.jsonl.gz")
    assert (status, list(faults(found))) == (3, ["prices", "input"])
    assert run(folder, "run", "job.toml", "--set", "input=cut.jsonl.gz", "--dry-run").status == 3
    url = ("--set", "input=http://127.0.0.1:9/x.jsonl")
    assert checked(folder, f'base_url = "{NOBODY}"', *url)[0] == 3
    assert checked(folder, f'base_url = "{NOBODY}"\napi_key_env = "NO_SUCH_KEY"', *url)[0] == 2, "it reads nothing then"


def test_faults_of_arms_and_judge_come_with_their_lines(folder: Path) -> None:
    """A comparison takes longest: what `compare` would refuse at night is found in the afternoon, all of it."""
    (folder / "base.toml").write_text('[compare.judge]\nmodle = "b"\n[compare.variants.y]\nrewrite.seed = "5"\n')
    text = f"""
        extends = "base.toml"
        base_url = "{NOBODY}"
        [compare]
        score = "judge"
        arms = ["s2a", "s2a_single", "x", "y"]
        [compare.variants.x]
        modle = "b"
        rewrite = {{formm = "single"}}
        """
    status, found = checked(folder, text, "--set", "compare.variants.y.answer.seeed=1")
    assert status == 2
    assert [message for _, about, message in found if about in ("compare", "judge")] == [
        "job.toml:11: compare.variants.x.modle: no such key; did you mean 'model'?",
        "job.toml:12: compare.variants.x.rewrite.formm: no such key; did you mean 'form'?",
        "--set compare.variants.y.answer.seeed: compare.variants.y.answer.seeed: no such key; did you mean 'seed'?",
        "base.toml:4: compare.variants.y.rewrite.seed: expected a whole number, found a text",
        "base.toml:2: compare.judge.modle: no such key; did you mean 'model'?",
    ]
    assert run(folder, "compare", "job.toml").status == 2


def test_what_an_arm_or_the_judge_lacks_is_found(folder: Path) -> None:
    """A key or a schema of one arm alone stops the comparison before its first request."""
    text = f"""
        base_url = "{NOBODY}"
        [compare]
        score = "judge"
        arms = ["s2a", "x", "y"]
        judge = {{api_key_env = "NO_KEY_OF_JUDGE"}}
        variants.x = {{api_key_env = "NO_KEY_OF_X"}}
        variants.y = {{answer = {{schema_file = "gone.json"}}}}
        """
    status, found = checked(folder, text)
    assert status == 2
    assert "gone.json: cannot be read" in faults(found)["compare"]
    assert "NO_KEY_OF_JUDGE" in faults(found)["judge"]
    status, found = checked(folder, text.replace("variants.y", "# variants.y").replace(', "y"', ""))
    assert "NO_KEY_OF_X" in faults(found)["arm x"]
    assert status == 2


def test_a_job_that_is_run_in_a_way_that_no_comparison_knows_is_sound(folder: Path) -> None:
    """One file serves both commands."""
    status, found = checked(folder, f'base_url = "{NOBODY}"\n[compare]\narms = ["s2a"]\n', "--only", "rewrite")
    assert status == 0
    assert faults(found)["compare"].startswith("only: has no place in a comparison")


def test_ids_that_are_missing_or_twice_are_told(folder: Path) -> None:
    """Whoever joins answers by id finds out before paying for them."""
    rows: list[dict[str, object]] = [{"id": 1}, {"id": "1"}, {"id": 1}, {}, {"id": None}, {"id": 2}, {"id": 1}]
    (folder / "in.jsonl").write_text(
        "".join(json.dumps({**row, "prompt": f"Is {n}?"}) + "\n" for n, row in enumerate(rows))
    )
    status, found = checked(folder, f'base_url = "{NOBODY}"')
    assert status == 0
    assert [message for _, about, message in found if about == "ids"] == [
        "2 of 7 pending records have none",
        "2 of 7 pending records have the id of an earlier one",
    ]


def test_a_run_that_would_refuse_to_resume_is_told(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A changed model is found in the afternoon, and not by the job that should begin at two."""
    where = f'base_url = "{upstream({}).base_url}"\n'
    (folder / "job.toml").write_text(LEAST + where)
    assert run(folder, "run", "job.toml").status == 0
    assert checked(folder, where)[0] == 0
    status, found = checked(folder, where + "rewrite.seed = 1")
    assert status == 2
    assert "rewrite.seed: null -> 1" in faults(found)["settings"]


def test_options_count_as_they_do_for_a_run(folder: Path) -> None:
    """The command of the crontab is what has to be sound."""
    status, found = checked(folder, f'base_url = "{NOBODY}"', "--set", "rewrite.temperatuer=1", "--answer", "itn")
    assert (status, [row[2] for row in found]) == (
        2,
        [
            "--set rewrite.temperatuer: rewrite.temperatuer: no such key; did you mean 'temperature'?",
            "--answer: answer.type: expected 'text', 'int', 'float', 'bool' or 'choice'; did you mean 'int'?",
        ],
    )


def test_a_taken_port_and_a_readable_key_are_warnings(folder: Path) -> None:
    """They may be well by the time of the run, and stop none."""
    key = folder / "key"
    key.write_text("sk-ZZ")
    key.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, found = checked(folder, f'base_url = "{NOBODY}"\napi_key_file = "key"\nmetrics.port = {port}')
    said = faults(found)
    assert status == 0
    assert said["metrics"].startswith(f"metrics.port {port} on 127.0.0.1 cannot be had now")
    assert "others may read it" in said["key"]
    assert "ZZ" not in str(found)


def test_as_text_there_is_one_line_a_finding_and_nothing_moves_the_terminal(folder: Path) -> None:
    """It is read in a terminal, and what it shows comes from files of others."""
    (folder / "in.jsonl").write_text('{"text\\u001b[2J": "a"}\n')
    (folder / "job.toml").write_text(LEAST + f'base_url = "{NOBODY}"\n[price]\n{PRICE}')
    done = run(folder, "check", "job.toml")
    quiet = run(folder, "check", "job.toml", "-q")
    assert done.status == quiet.status == 1
    assert "\x1b" not in done.out
    assert "text\\x1b[2J" in done.out
    assert all(line.startswith(("ok ", "warning ", "error ")) for line in done.out.splitlines())
    assert quiet.out.splitlines() == [line for line in quiet.out.splitlines() if line.startswith("error")] != []


def test_online_asks_each_stage_once_and_says_how_it_went(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """One request proves key, address, model and form of the reply; ten thousand prove it at a price."""
    up = upstream(
        {
            "rules": [
                {"replies": [{"headers": {"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "30000"}}]}
            ],
            "keep_bodies": True,
        }
    )
    limited = "[limits]\nrequests_per_minute = 9"
    text = f'base_url = "{up.base_url}"\n[answer]\ntype = "int"\nseed = 7\n[price]\n{PRICE}{limited}'
    status, found = checked(folder, text, "--online")
    rows = {about: (level, message) for level, about, message in found if about.startswith("online")}
    assert (status, [row["stage"] for row in up.requests()]) == (0, ["rewrite", "answer"])
    assert rows["online rewrite"][0] == rows["online answer"][0] == "ok"
    assert "HTTP 200 in " in rows["online answer"][1]
    assert " USD; the server's limits: 500 requests and 30,000 tokens a minute" in rows["online answer"][1]
    assert up.requests()[1]["body"]["seed"] == 7, "as a run sends it"


def test_online_asks_no_plain_answer_of_a_model_that_was_asked(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """It would prove nothing more."""
    up = upstream({})
    assert checked(folder, f'base_url = "{up.base_url}"', "--online")[0] == 0
    assert [row["stage"] for row in up.requests()] == ["rewrite"]
    other = upstream({})
    assert checked(folder, f'base_url = "{other.base_url}"\nanswer.model = "other"', "--online")[0] == 0
    assert [row["stage"] for row in other.requests()] == ["rewrite", "answer"]


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        ({"status": 401, "error": {"message": "Incorrect API key"}}, 2, "401"),
        ({"status": 404, "error": {"message": "The model m does not exist", "code": "model_not_found"}}, 2, "m"),
        ({"status": 400, "error": {"message": "response_format is not supported"}}, 2, "response_format"),
        ({"status": 500, "error": {"message": "oops"}}, 2, "500"),
        ({"status": 429, "error": {"message": "slow down"}, "headers": {"retry-after": "7"}}, 2, "slow down"),
        ({"status": 200, "body": "<html>", "content_type": "text/html"}, 2, "text/html"),
        ({"reset": True}, 2, "connection"),
        ({"hang_s": 30}, 2, "no complete reply"),
        ({"content": "Sure! The answer is 2."}, 0, "invalid_reply: the reply does not fit: "),
        ({"finish_reason": "length", "content": '{"rel'}, 0, "truncated"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_online_tells_each_way_to_fail_after_one_request(
    folder: Path, upstream: Callable[[Plan], Upstream], reply: Reply, status: int, words: str
) -> None:
    """The reason is in the morning's mail, and nobody waited for an hour of retries."""
    up = upstream({"rules": [{"when": {"stage": "rewrite"}, "replies": [reply], "per_record": False}]})
    text = f'base_url = "{up.base_url}"\nretry.deadline_s = 1\nanswer.type = "int"'
    ended, found = checked(folder, text, "--online")
    level, message = next((level, message) for level, about, message in found if about == "online rewrite")
    assert (ended, level) == (status, "error" if status else "warning")
    assert words in message
    assert [row["stage"] for row in up.requests()] == ["rewrite", "answer"], "and the other stage is still looked at"


def test_online_sends_nothing_for_a_job_that_is_refused(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A key goes nowhere before all else is right."""
    up = upstream({})
    status, found = checked(folder, f'base_url = "{up.base_url}"\nanswer.api_key_env = "NO_SUCH_KEY"', "--online")
    assert status == 2
    assert "nothing was sent" in faults(found)["online"]
    assert up.requests() == []


SDK_VARIABLES = {
    "OPENAI_BASE_URL": "http://127.0.0.1:9/elsewhere",
    "OPENAI_API_BASE": "http://127.0.0.1:9/elsewhere",
    "OPENAI_ORG_ID": "org-of-the-environment",
    "OPENAI_PROJECT_ID": "project-of-the-environment",
    "OPENAI_CUSTOM_HEADERS": "X-Other: 1",
    "OPENAI_ADMIN_KEY": "admin-of-the-environment",
    "OPENAI_API_VERSION": "1",
    "OPENAI_MODEL": "model-of-the-environment",
    "OPENAI_LOG": "debug",
    "AZURE_OPENAI_API_KEY": "azure-of-the-environment",
    "INSTRUCTOR_MODE": "tools",
    "S2A_BATCH_MODEL": "x",
}


@contextmanager
def whole_requests() -> Iterator[tuple[str, list[tuple[list[tuple[str, str]], bytes]]]]:
    """A server's address, and the requests that it gets with all their headers; each is answered by a rewrite."""
    got: list[tuple[list[tuple[str, str]], bytes]] = []
    content = json.dumps({"relevant_context": "Tom has 2 red apples.", "user_query": "How many apples does Tom have?"})
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    reply = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.headers.items(), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", got
        finally:
            server.shutdown()
            thread.join()


def test_the_environment_changes_no_request_unasked(folder: Path) -> None:
    """A job that runs by cron and by hand must be one job, whatever a shell exports."""
    with whole_requests() as (url, got):
        for environ in ({}, SDK_VARIABLES):
            assert checked(folder, f'base_url = "{url}"', "--online", environ=environ)[0] == 0
    bare, exported = got
    assert exported == bare
    assert dict(bare[0])["Host" if "Host" in dict(bare[0]) else "host"], "the measure itself"


def test_run_json_holds_the_whole_effective_job_and_its_files(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A year later the files have changed; what ran is in the directory."""
    (folder / "base.toml").write_text(f'base_url = "{upstream({}).base_url}"\n[limits]\nopen_requests = 3\n')
    (folder / "job.toml").write_text(f'extends = "base.toml"\n{LEAST}[answer]\nseed = 1\n')
    assert run(folder, "run", "job.toml", "--set", "rewrite.seed=5", "--processes", "1").status == 0
    found = json.loads((folder / "out" / "run.json").read_text())
    assert (found["job"]["limits"]["open_requests"], found["job"]["answer"]["seed"]) == (3, 1)
    assert (found["job"]["rewrite"]["seed"], found["job"]["retry"]["attempts"]) == (5, 6)
    assert [file["path"] for file in found["job_files"]] == ["base.toml", "job.toml"]
    assert all(len(file["sha256"]) == 64 for file in found["job_files"])
