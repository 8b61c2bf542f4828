"""No key, header or password in any message, log or file, whatever servers repeat and the environment asks."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from s2a_batch.client import Endpoint
from s2a_batch.errors import AttemptError, S2AError
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2a_batch.client import Request
    from tests import server
    from tests.server import Plan, Upstream

REQUEST: Request = {"model": "m1", "messages": [{"role": "user", "content": "[[r-1]] PROMPTTEXT so?"}]}
KEY = "sk-live/KEYZZ+1"
HEADER = "Bearer HEADERZZ-22"
PASSWORD = "PASS%40WORDZZ"  # noqa: S105  as it stands in a URL
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
