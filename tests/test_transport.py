"""The HTTP connections below the SDK: what is sent by the short way, and when a reply may go on."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import ssl
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.client import Endpoint
from s2a_batch.errors import EndpointError, TransientError
from s2a_batch.transport import Transport, _Turnstile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from anyio.abc import SocketStream

    from s2a_batch.client import Request
    from tests.server import Plan, Upstream

REQUEST: Request = {
    "model": "m1",
    "messages": [{"role": "system", "content": "\u2028 {{ x }} \\"}, {"role": "user", "content": "[[r-1]] so?"}],
    "temperature": 0.0,
    "max_completion_tokens": 9,
    "response_format": {"type": "json_schema", "json_schema": {"name": "A", "strict": True, "schema": {}}},
    "extra_body": {"top_k": 1, "chat_template_kwargs": {"enable_thinking": False}},
}


@pytest.mark.anyio
async def test_the_short_way_sends_what_the_sdk_sends(upstream: Callable[[Plan], Upstream]) -> None:
    """Whether a record is asked for the first or the second time must make no difference to the server."""
    up = upstream({"keep_bodies": True})
    async with Endpoint(base_url=up.base_url, api_key="k", headers={}, deadline_s=5, connections=1) as client:
        replies = [await client.send(REQUEST, short=short) for short in (True, False)]
    short, sdk = (row["body"] for row in up.requests())
    assert short == sdk
    assert short["top_k"] == 1
    assert "extra_body" not in short
    assert replies[0].text == replies[1].text
    assert up.stats().keys == [up.stats().keys[0]], "one key"


@pytest.mark.anyio
async def test_a_server_that_closes_after_each_reply_costs_next_to_no_attempt(
    upstream: Callable[[Plan], Upstream],
) -> None:
    """Some say nothing of it in their headers; taken for kept, every second connection was closed when it was used.

    One that closes in the very moment of the next request is a fault that passes, and an attempt like any other.
    """
    up = upstream({"rules": [{"replies": [{"close": True}]}]})
    answered, faults = [], []
    async with Endpoint(base_url=up.base_url, api_key="k", headers={}, deadline_s=5, connections=4) as client:

        async def ask() -> None:
            for _ in range(15):
                try:
                    answered.append(await client.send(REQUEST, short=True))
                except TransientError as error:
                    faults.append(error.kind)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask)
    assert len(answered) == up.stats().answered >= 54
    assert faults == ["connection"] * (60 - len(answered))


@pytest.mark.anyio
@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_body_comes_whole_whatever_its_size(upstream: Callable[[Plan], Upstream], size: int) -> None:
    """A short one is there at once, a long one in parts: no byte may be lost between the two ways to read."""
    up = upstream({"rules": [{"replies": [{"content": "x" * size}]}]})
    url = up.base_url + "/chat/completions"
    transport = Transport(url, deadline_s=20, connections=1)
    transport.headers = {"content-type": "application/json"}
    async with transport:
        found = await transport.post(
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}]}).encode()
        )
    body: Any = json.loads(found.body)
    assert (found.status, body["choices"][0]["message"]["content"]) == (200, "x" * size)


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[str]:
    """A server that answers whatever comes with these bytes, and its base URL."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()
                    await stream.send(reply)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        yield f"http://127.0.0.1:{listener.extra_attributes[SocketAttribute.local_port]()}/v1"
        tasks.cancel_scope.cancel()


GOOD = b'{"choices": [{"message": {"role": "assistant", "content": "yes"}}]}'


def http(body: bytes, headers: bytes = b"content-type: application/json\r\n") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (headers, len(body), body)


@pytest.mark.anyio
@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("header", [b"x-pop: Z\xc3\xbcrich", b"x-pop: \xff", b"x-request-id: \xff\xfe"])
async def test_a_header_of_any_bytes_costs_no_reply(header: bytes, short: bool) -> None:
    """A proxy in another country writes its town's name there: each retry of a night was lost for it, and paid."""
    async with (
        answering(http(GOOD, header + b"\r\n")) as base_url,
        Endpoint(base_url=base_url, api_key="k", headers={}, deadline_s=5, connections=1) as client,
    ):
        reply = await client.send(REQUEST, short=short)
    assert reply.text == "yes"
    (reply.request_id or "").encode()


@pytest.mark.anyio
@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize(
    "reply",
    [
        http(b"<html>", b"content-type: text/\xff\r\n"),
        http(GOOD, b"content-encoding: \xff\r\n"),
        b"HTTP/1.1 OK fine\r\n\r\n",
        b"SSH-2.0-server\r\n\r\n",
        http(GOOD, b"x: y\r\n" * 9000),
    ],
)
async def test_what_is_no_answer_is_told_in_words_that_can_be_written(reply: bytes, short: bool) -> None:
    """One reply that cannot be put into a file must not end the run; and the server is there, it has answered."""
    async with (
        answering(reply) as base_url,
        Endpoint(base_url=base_url, api_key="k", headers={}, deadline_s=5, connections=1) as client,
    ):
        with pytest.raises(TransientError) as caught:
            await client.send(REQUEST, short=short)
    assert caught.value.kind == "not_an_answer"
    assert str(caught.value).encode()
    assert "\n" not in str(caught.value), "a warning is one line of a log"


@pytest.mark.anyio
async def test_a_connection_that_nobody_takes_is_told_as_one() -> None:
    """It reached nobody, so it cost nothing; told as a slow reply it was charged, and the remedy was none."""
    with socket.socket() as deaf, ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # more than it holds
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            with suppress(BlockingIOError):
                caller.connect(deaf.getsockname())
        base_url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        async with Endpoint(base_url=base_url, api_key="k", headers={}, deadline_s=0.6, connections=1) as client:
            with pytest.raises(TransientError, match="none was made within") as caught:
                await client.send(REQUEST, short=True)
    assert caught.value.kind == "connection"


@pytest.mark.anyio
async def test_as_many_files_may_be_open_as_connections_are_needed() -> None:
    """Where 256 files is the system's first offer, 256 open requests stopped a run with a word about a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY, -1) and hard < 700:
        pytest.skip("the system allows no more")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        async with Endpoint(base_url="http://127.0.0.1:9", api_key="k", headers={}, deadline_s=1, connections=500):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (600, hard)
        async with Endpoint(base_url="http://127.0.0.1:9", api_key="k", headers={}, deadline_s=1, connections=5):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (600, hard), "never less than there was"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.anyio
async def test_a_proxy_that_refuses_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses all requests alike: retried for ten minutes, then told as a server that is not up."""
    async with answering(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n") as base_url:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, base_url.removesuffix("/v1"))
        there = "https://host.invalid/v1"
        async with Endpoint(base_url=there, api_key="k", headers={}, deadline_s=5, connections=1) as client:
            with pytest.raises(EndpointError, match="proxy of the environment refuses: 407"):
                await client.send(REQUEST, short=True)


@pytest.mark.anyio
@pytest.mark.parametrize("prompt", ['"message": ', '", "code": "', "insufficient_quota"])
async def test_a_prompt_that_looks_like_json_changes_no_error(
    upstream: Callable[[Plan], Upstream], prompt: str
) -> None:
    """The prompt is taken out of what a server says; taken out of its JSON, it broke the error or hid its code."""
    error = {"message": f"no room for {prompt}", "code": "server_busy"}
    up = upstream({"rules": [{"replies": [{"error": error, "status": 200}]}]})
    async with Endpoint(base_url=up.base_url, api_key="k", headers={}, deadline_s=5, connections=1) as client:
        with pytest.raises(TransientError) as caught:
            await client.send({"model": "m", "messages": [{"role": "user", "content": prompt}]}, short=True)
    assert "[the prompt]" in str(caught.value)


def turns(cancelled: set[int], count: int) -> list[int]:
    """In which turn of the loop each of so many replies goes through that come in one; -1: it was cancelled."""
    found = [-1] * count

    async def main() -> None:
        turnstile, turn = _Turnstile(), 0

        async def go(n: int) -> None:
            await turnstile.go_through()
            found[n] = turn

        tasks = [asyncio.ensure_future(go(n)) for n in range(count)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turn += 1
            if turn == 1:
                for n in cancelled:
                    tasks[n].cancel()
            assert turn < 3 * count + 10, "somebody is never let through"
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())
    return found


@given(st.sets(st.integers(0, 99)), st.integers(1, 100))
def test_replies_that_come_together_go_on_a_few_at_a_time(cancelled: set[int], count: int) -> None:
    """Else all go on step by step side by side for ever, and a quarter of the time all wait for each other."""
    found = turns({n for n in cancelled if n < count}, count)
    through = [turn for turn in found if turn >= 0]
    assert through == sorted(through), "first come, first served"
    assert max(through.count(turn) for turn in through) <= 4 if through else True
    assert all(found[n] >= 0 for n in range(count) if n not in cancelled), "who was cancelled holds up nobody"


def _untrusted(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(hours=1))
    named = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = named.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


@pytest.mark.anyio
@pytest.mark.parametrize("short", [True, False])
async def test_a_certificate_that_nobody_trusts_stops_the_run(tmp_path: Path, short: bool) -> None:
    """It will not be trusted at the sixth try either, and ten thousand records would wait for that."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=_untrusted(tmp_path))
    async with server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
        async with Endpoint(base_url=url, api_key="k", headers={}, deadline_s=5, connections=1) as client:
            with pytest.raises(EndpointError, match=r"certificate is not trusted.*SSL_CERT_FILE"):
                await client.send(REQUEST, short=short)
