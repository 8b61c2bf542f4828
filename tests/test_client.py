"""One request, once, over real sockets: whatever comes back becomes a usable reply or one of our errors."""

from __future__ import annotations

import copy
import json
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from s2a_batch.client import Endpoint, strict_schema
from s2a_batch.errors import (
    AccountError,
    AttemptError,
    EndpointError,
    FailureKind,
    RateLimitedError,
    RequestRefused,
    S2AError,
    TransientError,
    UnusableReply,
)
from s2a_batch.records import Attempt, Usage
from s2a_batch.transport import MOST_BYTES
from tests.server import key_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import JsonValue

    from s2a_batch.client import Request
    from s2a_batch.completion import Reply
    from tests import server
    from tests.server import Plan, Upstream

pytestmark = pytest.mark.anyio
REQUEST: Request = {"model": "m1", "messages": [{"role": "user", "content": "[[r-1]] so?"}]}


SHORT = [True]


@pytest.fixture(params=[True, False], ids=["short", "sdk"], autouse=True)
def way(request: pytest.FixtureRequest) -> None:
    """Every promise here is one of both ways to send."""
    SHORT[0] = request.param


def endpoint(base_url: str, *, api_key: str = "sk-test-key", deadline_s: float = 5.0) -> Endpoint:
    return Endpoint(base_url=base_url, api_key=api_key, headers={}, deadline_s=deadline_s, connections=4)


async def sent(up: Upstream, request: Request = REQUEST, *, deadline_s: float = 5.0) -> Reply:
    async with endpoint(up.base_url, deadline_s=deadline_s) as client:
        return await client.send(request, short=SHORT[0])


async def failed(up: Upstream, request: Request = REQUEST, *, deadline_s: float = 5.0) -> S2AError:
    with pytest.raises(S2AError) as caught:
        await sent(up, request, deadline_s=deadline_s)
    return caught.value


def plan(reply: server.Reply) -> Plan:
    return {"rules": [{"replies": [reply]}], "keep_bodies": True}


async def test_a_good_reply_comes_back_with_its_audit(upstream: Callable[[Plan], Upstream]) -> None:
    """Tokens, model and request id are what a bill is checked against."""
    reply = await sent(upstream({}))
    assert reply.text == "ANSWER [[r-1]]"
    assert (reply.status, reply.model, reply.finish_reason) == (200, "m1", "stop")
    assert reply.request_id is not None
    assert reply.request_id.startswith("req-")
    assert reply.headers["content-type"] == "application/json"
    assert reply.usage == Usage(input_tokens=2, cached_tokens=0, output_tokens=4, reasoning_tokens=0)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_the_sdk_never_tries_again(upstream: Callable[[Plan], Upstream], status: int) -> None:
    """Two layers of retries multiply: one record cost sixteen requests with three of them."""
    up = upstream(plan({"status": status, "headers": {"x-should-retry": "true", "retry-after": "0"}}))
    error = await failed(up)
    assert isinstance(error, (TransientError, RateLimitedError))
    assert error.status == status
    assert error.request_id is not None
    assert up.stats().requests == 1


@pytest.mark.parametrize(
    ("reply", "deadline_s", "kind"),
    [
        ({"hang_s": 20}, 0.3, "timeout"),
        ({"trickle": {"every_s": 0.02}}, 0.4, "timeout"),
        ({"reset": True}, 5.0, "connection"),
        ({"hang_s": 0.05}, 5.0, "connection"),
        ({"cut": 40}, 5.0, "connection"),
        ({"cut": 0}, 5.0, "connection"),
    ],
)
async def test_a_broken_transport_is_a_transient_fault(
    upstream: Callable[[Plan], Upstream], reply: server.Reply, deadline_s: float, kind: str
) -> None:
    """The network's faults pass; a body that trickles must not outlive its deadline, as the SDK's time-out lets it."""
    up = upstream(plan(reply))
    error = await failed(up, deadline_s=deadline_s)
    assert isinstance(error, TransientError)
    assert (error.kind, error.status) == (kind, None)
    assert up.stats().requests == 1


async def test_a_refused_connection_is_a_transient_fault() -> None:
    """A server that restarts is back in a moment; one that is not there is a wrong address, which must be named."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unheard.getsockname()[1]}/v1"
        async with endpoint(f"http://USERZZ:WORDZZ@{place}") as client:
            with pytest.raises(TransientError) as caught:
                await client.send(REQUEST, short=SHORT[0])
    assert caught.value.kind == "connection"
    assert str(caught.value).startswith(f"http://{place}: connection failed")
    assert "ZZ" not in str(caught.value)
    assert len(str(caught.value)) < 300


async def test_headers_of_the_environment_go_to_openai_alone(
    upstream: Callable[[Plan], Upstream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK sends them to any server; what is meant for OpenAI, a key maybe, is nobody else's."""
    up = upstream({})
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-of-the-environment\nX-Other: 1")
    await sent(up)
    assert [row["key"] for row in up.requests()] == [key_digest("sk-test-key")]


async def test_a_connection_that_was_closed_meanwhile_costs_nothing(upstream: Callable[[Plan], Upstream]) -> None:
    """Servers close idle connections without a word; the next request must open a new one."""
    up = upstream(plan({"close": True}))
    async with endpoint(up.base_url) as client:
        for _ in range(5):
            await client.send(REQUEST, short=SHORT[0])
            await anyio.sleep(0.05)  # the close is on its way; a request that meets it is a transient fault
    assert up.stats().answered == 5


async def test_requests_share_connections(upstream: Callable[[Plan], Upstream]) -> None:
    """A new connection for every request exhausts ports and the server's patience."""
    up = upstream({})
    async with endpoint(up.base_url) as client:
        for _ in range(5):
            await client.send(REQUEST, short=SHORT[0])
    assert up.stats().connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        {"body": "<html><h1>Sign in</h1></html>", "content_type": "text/html"},
        {"body": "", "content_type": "application/json"},
        {"body": '{"choices": [{"mess'},
        {"body": "[" * 100_000},
        {"body": "\ud800"},
        {"body": "null"},
        {"body": "{}"},
        {"choices": []},
        {"body": '{"choices": null}'},
        {"error": {"message": "engine 3 is on fire"}},
        {"content": "half an ans", "finish_reason": "error"},
    ],
)
async def test_a_200_that_is_no_answer_is_transient(upstream: Callable[[Plan], Upstream], reply: server.Reply) -> None:
    """A proxy or router that stumbles says 200 too; neither a crash nor an answer may come of it."""
    error = await failed(upstream(plan(reply)))
    assert isinstance(error, TransientError)
    assert (error.kind, error.status) == ("not_an_answer", 200) or "broken body" in str(error)


async def test_a_body_without_end_is_cut(upstream: Callable[[Plan], Upstream]) -> None:
    """A server that sends and sends would take all memory, and the run with it."""
    error = await failed(upstream(plan({"body": '{"choices": "' + "x" * (MOST_BYTES + 1)})))
    assert isinstance(error, TransientError)
    assert error.kind == "not_an_answer"
    assert "longer than" in str(error)


async def test_a_web_page_is_named_as_one(upstream: Callable[[Plan], Upstream]) -> None:
    """The content type and the page's start tell a wrong base URL at a glance."""
    page = "<html><h1>Sign in</h1>" + "x" * 9000
    error = await failed(upstream(plan({"body": page, "content_type": "text/html"})))
    assert "text/html" in str(error)
    assert "Sign in" in str(error)
    assert len(str(error)) < 300


async def test_a_redirect_is_not_followed(upstream: Callable[[Plan], Upstream]) -> None:
    """It would be a second request, and would carry our headers to a place that nobody named."""
    up = upstream(plan({"status": 307, "headers": {"location": "/elsewhere/v1/chat/completions"}}))
    assert isinstance(await failed(up), EndpointError)
    assert up.stats().requests == 1


UNUSABLE: list[tuple[server.Reply, type[AttemptError], FailureKind, str | None]] = [
    ({"message": {"content": None, "refusal": "No \ud83d"}}, UnusableReply, "refusal", "No \ufffd"),
    ({"content": "half an", "finish_reason": "length"}, UnusableReply, "truncated", "half an"),
    ({"content": None, "finish_reason": "length"}, UnusableReply, "truncated", None),
    ({"content": "", "finish_reason": "content_filter"}, UnusableReply, "content_filter", None),
    ({"content": None}, TransientError, "empty_answer", None),
    ({"content": " \n"}, TransientError, "empty_answer", None),
    ({"content": "", "message": {"reasoning_content": "hm"}}, UnusableReply, "only_reasoning", "hm"),
    ({"content": "", "message": {"reasoning": "hm \ud83d"}}, UnusableReply, "only_reasoning", "hm \ufffd"),
]


@pytest.mark.parametrize(("reply", "kind", "reason", "kept"), UNUSABLE)
async def test_an_unusable_reply_says_why_and_what_it_cost(
    upstream: Callable[[Plan], Upstream],
    reply: server.Reply,
    kind: type[AttemptError],
    reason: FailureKind,
    kept: str | None,
) -> None:
    """A cut or refused reply is billed like any other, and must never pass for an answer."""
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    error = await failed(upstream(plan({**reply, "usage": usage})))
    assert type(error) is kind
    assert isinstance(error, AttemptError)
    assert (error.kind, error.status, error.reply) == (reason, 200, kept)
    assert error.usage is not None
    assert Usage.model_validate(error.usage).total_tokens == 16
    assert error.request_id is not None


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        (None, Usage()),
        ({}, Usage()),
        ({"prompt_tokens": "12", "completion_tokens": -1}, Usage()),
        ({"prompt_tokens": 12, "completion_tokens": None}, Usage(input_tokens=12)),
        (
            {"prompt_tokens": 9, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 6}},
            Usage(input_tokens=9, output_tokens=7, reasoning_tokens=6),
        ),
    ],
)
async def test_odd_usage_costs_no_answer(
    upstream: Callable[[Plan], Upstream], usage: server.JsonObject | None, known: Usage
) -> None:
    """Local servers leave usage out or count oddly; unknown is not zero, and no reason to lose a reply."""
    assert (await sent(upstream(plan({"usage": usage})))).usage == known


async def test_a_tool_call_is_the_reply(upstream: Callable[[Plan], Upstream]) -> None:
    """In tools mode the text is in the call's arguments, and half characters in it cannot be written to disk."""
    tool: JsonValue = {
        "type": "function",
        "function": {"name": "T", "parameters": {"type": "object", "properties": {}}},
    }
    request: Request = {**REQUEST, "tools": [tool]}
    reply = await sent(upstream(plan({"json": '{"a": "\ud83d"}'})), request)
    assert reply.text == '{"a": "\ufffd"}'


async def test_content_in_parts_is_joined(upstream: Callable[[Plan], Upstream]) -> None:
    """Some servers send a list of parts where others send text."""
    parts = [{"type": "text", "text": "four"}, {"type": "reference", "ids": [1]}, {"type": "text", "text": "teen"}]
    assert (await sent(upstream(plan({"message": {"content": parts}})))).text == "fourteen"


async def test_half_a_character_of_a_reply_becomes_the_replacement_character(
    upstream: Callable[[Plan], Upstream],
) -> None:
    """It cannot be written as UTF-8: the record would be lost when its line is written."""
    assert (await sent(upstream(plan({"content": "a \ud83d b \U0001f36c"})))).text == "a \ufffd b \U0001f36c"


async def test_half_a_character_in_a_request_is_refused_without_sending(upstream: Callable[[Plan], Upstream]) -> None:
    """The SDK fails on it before the network; that is the record's fault and nobody else's."""
    up = upstream({})
    error = await failed(up, {"model": "m1", "messages": [{"role": "user", "content": "\ud83d"}]})
    assert isinstance(error, RequestRefused)
    assert error.kind == "bad_request"
    assert up.stats().requests == 0


async def test_a_wrong_key_and_a_wrong_model_stop_the_run(upstream: Callable[[Plan], Upstream]) -> None:
    """Nothing later in the file can go better."""
    assert isinstance(await failed(upstream(plan({"status": 401}))), AccountError)
    missing = await failed(upstream(plan({"status": 404, "error": {"message": "no such model"}})))
    assert isinstance(missing, EndpointError)
    assert "'m1'" in str(missing)


async def test_retry_after_reaches_the_error(upstream: Callable[[Plan], Upstream]) -> None:
    """The limiter can only keep a wait that it is told of."""
    error = await failed(upstream(plan({"status": 429, "headers": {"retry-after": "17"}})))
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == 17.0


GOOD = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
PLACES = [
    "choices",
    "usage",
    "model",
    "error",
    "choices.0",
    "choices.0.message",
    "choices.0.finish_reason",
    "choices.0.message.content",
    "choices.0.message.refusal",
    "choices.0.message.tool_calls",
    "choices.0.message.reasoning_content",
    "usage.prompt_tokens",
    "usage.completion_tokens_details",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just("\ud83d"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "function", "arguments", "text", "message", "code"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=VALUES)
async def test_any_json_in_any_place_is_a_reply_or_one_of_our_errors(
    upstream: Callable[[Plan], Upstream], place: str, value: object
) -> None:
    """The SDK validates nothing, so each odd server would show up as a bug of ours, one dead letter a record."""
    body: Any = copy.deepcopy(GOOD)
    part = body
    *steps, last = (int(step) if step.isdecimal() else step for step in place.split("."))
    for step in steps:
        part = part[step]
    part[last] = value
    try:
        reply = await sent(upstream(plan({"body": json.dumps(body)})))
    except S2AError as error:
        str(error).encode()
        if isinstance(error, AttemptError):
            (error.reply or "").encode()
    else:
        attempt = Attempt(n=1, started="", seconds=0, waited_s=0, model=reply.model, finish_reason=reply.finish_reason)
        attempt.model_copy(update={"reply": reply.text, "usage": reply.usage}).model_dump_json()


def test_the_strict_schema_requires_all_and_allows_no_more() -> None:
    """OpenAI's strict mode refuses any other schema, and the reason comes only with the first paid request."""

    class Shape(BaseModel):
        name: str
        note: str = "none"

    schema = strict_schema(Shape)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["name", "note"]
