"""No key, header or password in any message, log or file, whatever servers repeat and the environment asks."""

from __future__ import annotations

import base64
import html
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from s2a_batch.client import Endpoint
from s2a_batch.errors import AttemptError, S2AError
from tests.processes import ROOT, run, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s2a_batch.client import Request
    from tests import server
    from tests.server import Plan, Upstream

REQUEST: Request = {"model": "m1", "messages": [{"role": "user", "content": "[[r-1]] PROMPTTEXT so?"}]}
KEY = "sk-live/KEYZZ+1"
HEADER = "Bearer HEADERZZ-22"
PASSWORD = "PASS%40WORDZZ"  # noqa: S105  as it stands in a URL
QUERY = "QUERYZZ-7"
ORG = "orgZZ-1234"
NEEDLES = ("KEYZZ", "HEADERZZ", "WORDZZ", "USERZZ")

ECHOES: list[server.Reply] = [
    {"status": 401, "error": {"message": f"Incorrect API key provided: {KEY}"}},
    {"status": 401, "body": json.dumps({"error": {"message": f"bad key {KEY}"}}).replace("/", "\\/")},
    {"status": 403, "body": f"<p>token HEADERZZ-22 is unknown, also {HEADER}</p>"},
    {"status": 400, "error": {"message": "bad request to http://USERZZ:PASS%40WORDZZ@host/v1"}},
    {"status": 500, "error": {"message": "login failed for USERZZ with PASS@WORDZZ"}},
    {"status": 404, "error": {"message": f"no model for {KEY}", "code": KEY}},
    {"error": {"message": f"upstream refuses {KEY}"}},
    {"body": "x" * 106 + KEY + " is wrong", "content_type": "text/html"},
    {"body": "y" * 100 + f" Authorization: {HEADER}", "content_type": "text/plain"},
    {"status": 503, "body": "z" * 295 + KEY},
    {"status": 503, "body": "key=sk-live%2FKEYZZ%2B1"},
]


def with_login(base_url: str) -> str:
    return base_url.replace("http://", f"http://USERZZ:{PASSWORD}@")


@pytest.mark.anyio
@pytest.mark.parametrize("reply", ECHOES)
async def test_a_secret_that_a_server_repeats_is_masked(
    upstream: Callable[[Plan], Upstream], reply: server.Reply
) -> None:
    """Servers put the key into their error, whole or in a URL; dead letters and logs are mailed around."""
    up = upstream({"rules": [{"replies": [reply]}]})
    client = Endpoint(
        base_url=with_login(up.base_url), api_key=KEY, headers={"X-Gw": HEADER}, deadline_s=5, connections=2
    )
    async with client:
        with pytest.raises(S2AError) as caught:
            await client.send(REQUEST)
    said = str(caught.value) + repr(caught.value)
    said += str(caught.value.reply) if isinstance(caught.value, AttemptError) else ""
    assert [needle for needle in NEEDLES if needle in said] == []
    assert caught.value.__cause__ is None


@pytest.mark.anyio
async def test_a_failed_connection_does_not_show_the_login() -> None:
    """The innermost cause of a failed connection may name its URL."""
    client = Endpoint(
        base_url=with_login("http://host.invalid/v1"), api_key=KEY, headers={}, deadline_s=2, connections=1
    )
    async with client:
        with pytest.raises(S2AError) as caught:
            await client.send(REQUEST)
    assert [needle for needle in NEEDLES if needle in str(caught.value)] == []


@pytest.mark.anyio
async def test_a_short_key_of_a_keyless_server_masks_no_words(upstream: Callable[[Plan], Upstream]) -> None:
    """A stand-in like 'none' is part of ordinary words; masking it would garble each message."""
    up = upstream({"rules": [{"replies": [{"status": 503, "error": {"message": "nonetheless none is free"}}]}]})
    async with Endpoint(base_url=up.base_url, api_key="none", headers={}, deadline_s=5, connections=1) as client:
        with pytest.raises(S2AError, match="nonetheless none is free"):
            await client.send(REQUEST)


CHILD = """
import logging, sys
import anyio
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from s2a_batch.client import Endpoint
from s2a_batch.asker import Asker
from s2a_batch.answers import RewriteReply
from s2a_batch.errors import S2AError

async def main():
    url, key, header = sys.argv[1:]
    async with Endpoint(base_url=url, api_key=key, headers={"X-Gw": header}, deadline_s=5, connections=1) as client:
        async def send(request):
            return await client.send({"model": "m1", **request})
        asker = Asker(RewriteReply, mode="json_schema", strict=True, max_chars=None)
        messages = [{"role": "user", "content": "[[r-1]] PROMPTTEXT"}]
        for _ in range(3):
            try:
                print(await asker.ask(send, messages, reasks=1, on_invalid=lambda kind, reason: None) is not None)
            except S2AError as error:
                print(type(error).__name__)

anyio.run(main)
"""


def child(environ: dict[str, str], url: str) -> str:
    """All that a process prints that sends three requests with every log turned on."""
    command = [sys.executable, "-c", CHILD, url, KEY, HEADER]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_debug_logs_show_no_secret_and_no_prompt(upstream: Callable[[Plan], Upstream]) -> None:
    """OPENAI_LOG=debug prints headers and prompts, the HTTP library the URL with its password, instructor replies."""
    replies: list[server.Reply] = [{"json": "REPLYTEXT no json"}, {"json": "REPLYTEXT again"}, {}, {"status": 401}]
    up = upstream({"rules": [{"replies": replies, "per_record": False}]})
    printed = child({"OPENAI_LOG": "debug"}, with_login(up.base_url))
    assert printed.splitlines()[-3:] == ["RecordError", "True", "AccountError"]
    basic = base64.b64encode(b"USERZZ:PASS@WORDZZ").decode()
    assert [needle for needle in (*NEEDLES, "PROMPTTEXT", "REPLYTEXT", basic) if needle in printed] == []


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(upstream: Callable[[Plan], Upstream]) -> None:
    """A company's proxy cannot reach a server on loopback, and would see the prompts."""
    up = upstream({})
    proxy = "http://127.0.0.1:9"
    environ = {"HTTP_PROXY": proxy, "http_proxy": proxy, "ALL_PROXY": proxy, "NO_PROXY": "", "no_proxy": ""}
    assert child(environ, up.base_url).splitlines()[-3:] == ["True"] * 3
    assert up.stats().requests == 3


def test_a_proxy_of_the_environment_is_used_for_other_machines(upstream: Callable[[Plan], Upstream]) -> None:
    """Behind a company's proxy nothing else reaches the world."""
    up = upstream({})
    proxy = f"http://{urlsplit(up.base_url).netloc}"
    environ = {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}
    assert child(environ, "http://host.invalid/v1").splitlines()[-3:] == ["True"] * 3
    assert up.stats().requests == 3


# --- through the program itself

ECHOED: list[server.Reply] = [
    {"status": 503, "error": {"message": "x" * 260 + " " + KEY}},
    {"status": 400, "error": {"message": f"no {KEY} or {ORG}"}, "headers": {"x-request-id": f"id {KEY}"}},
    {"status": 400, "body": html.escape(f"<p>{HEADER} for USERZZ</p>"), "content_type": f"text/{KEY}"},
    {"body": f"<p>login USERZZ:PASS@WORDZZ via PROXYZZ-9 {HEADER}</p>", "content_type": f"text/{KEY}"},
    {"content": f"The key is {KEY}."},
    {"finish_reason": "length", "content": f"The key is {KEY}"},
    {"message": {"refusal": f"Not with {KEY}"}},
    {"finish_reason": f"stop {KEY}"},
    {"status": 401, "error": {"message": f"Incorrect API key {base64.b64encode(KEY.encode()).decode()}, {KEY[:13]}.."}},
]


@pytest.mark.parametrize("mode", ["0000", "0177"])
def test_no_secret_leaves_the_program_whatever_comes_back(
    tmp_path: Path, upstream: Callable[[Plan], Upstream], mode: str
) -> None:
    """All at once, as in a real night: files and screens are copied into tickets, with a key they are a bill."""
    rules: list[server.Rule] = [
        {"when": {"contains": f"[[r-{n}]]", "stage": "answer"}, "replies": [reply]} for n, reply in enumerate(ECHOED)
    ]
    up = upstream({"rules": rules})
    work = tmp_path / "work"
    work.mkdir()
    write_input(work / "in.jsonl", range(len(ECHOED)))
    (work / "key").write_text(KEY)
    (work / "job.toml").write_text(
        f'input = "in.jsonl"\noutput = "new/out"\nmodel = "m"\nbase_url = "{with_login(up.base_url)}"\n'
        'api_key_file = "key"\n[limits]\nopen_requests = 1\n[retry]\nattempts = 1\n'
        '[rewrite]\nheaders_env = {X-Gw = "GATEWAY"}\n[answer]\nheaders_env = {X-Gw = "GATEWAY"}\n'
    )
    environ = {
        "GATEWAY": HEADER,
        "OPENAI_ORG_ID": ORG,
        "HTTPS_PROXY": "http://me:PROXYZZ-9@127.0.0.1:9",
        "OPENAI_LOG": "debug",
        "HTTPX_LOG_LEVEL": "trace",
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
    }
    said, statuses = "", list[int]()
    for words in ("--dry-run", ""):
        command = [sys.executable, "-m", "s2a_batch", "run", "job.toml", *words.split()]
        done = subprocess.run(
            command, cwd=work, env=environ, umask=int(mode, 8), capture_output=True, text=True, check=False
        )
        statuses.append(done.returncode)
        said += done.stdout + done.stderr
    assert statuses == [0, 3], said
    for words in ("status new/out", "verify new/out", *(f"show new/out line:{n + 1}" for n in range(len(ECHOED)))):
        looked = run(work, *words.split())
        said += looked.out + looked.err
    run(work, "run", "job.toml", "--fresh", environ=environ)
    assert said.count("***") > len(ECHOED), said
    for path in (work / "new").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
        said += path.read_text() if path.is_file() else ""
    coded = [base64.b64encode(secret.encode()).decode().rstrip("=")[:-1] for secret in (KEY, HEADER, "USERZZ")]
    assert [needle for needle in (*NEEDLES, "PROXYZZ", "QUERYZZ", "orgZZ", *coded) if needle in said] == []


@pytest.mark.parametrize(
    "proxy", ["http://me:PROXYZZ-9@host:port", "ftp://me:PROXYZZ-9@host", "http://me:PROXYZZ-9@[::1:9"]
)
def test_an_unusable_proxy_is_a_fault_of_the_set_up(tmp_path: Path, proxy: str) -> None:
    """A traceback with the proxy's password in the cron mail, or a night of failed connections, helps nobody."""
    write_input(tmp_path / "in.jsonl", range(1))
    environ = {"HTTPS_PROXY": proxy, "OPENAI_API_KEY": KEY}
    done = run(tmp_path, "run", "in.jsonl", "-o", "out", "--model", "m", environ=environ)
    assert done.status == 2, done.err
    assert "look at HTTP_PROXY" in done.err
    assert "PROXYZZ" not in done.err


@pytest.mark.anyio
async def test_a_query_of_the_address_goes_along_with_each_request() -> None:
    """Gateways take their key or version so; glued between address and path it makes another address."""
    lines: list[bytes] = []

    async def answer(stream: SocketStream) -> None:
        lines.append((await stream.receive()).partition(b"\r\n")[0])
        await stream.send(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await stream.aclose()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        url = f"http://127.0.0.1:{listener.extra_attributes[SocketAttribute.local_port]()}/v1?key=a%20b&v=2"
        async with Endpoint(base_url=url, api_key=KEY, headers={}, deadline_s=5, connections=1) as client:
            with pytest.raises(S2AError):
                await client.send(REQUEST)
        tasks.cancel_scope.cancel()
    assert lines == [b"POST /v1/chat/completions?key=a%20b&v=2 HTTP/1.1"]


def test_a_key_in_the_address_is_masked_where_the_server_repeats_the_path(
    tmp_path: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A server that does not know a path quotes it, with the query and the key in that."""
    write_input(tmp_path / "in.jsonl", range(1))
    done = run(
        tmp_path, "run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", f"{upstream({}).base_url}?key={QUERY}"
    )
    assert done.status == 3
    assert "/v1/chat/completions?key=***" in done.err
    assert "QUERYZZ" not in done.err + (tmp_path / "out" / "run.json").read_text()
