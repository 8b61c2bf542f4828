"""Refusals as real servers word them, beyond the plain ones: what each stops, and what of it people get to read."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch import faults
from s2a_batch.bounds import Retry
from s2a_batch.client import Endpoint
from s2a_batch.errors import (
    AccountError,
    EndpointError,
    RateLimitedError,
    RequestRefused,
    S2AError,
    TransientError,
)
from s2a_batch.stages import Trail
from s2a_batch.transport import MOST_BYTES
from tests.fakes import FakeClient, a_stage, in_virtual_time
from tests.server import Ask, completion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from s2a_batch.client import Request
    from tests.server import Plan, Upstream

PAGE = {"content-type": "text/html; charset=UTF-8"}
PROMPT = 'My bank says "insufficient funds" and a billing error.\nIs [[r-1]] its fault?'
REQUEST: Request = {"model": "m1", "messages": [{"role": "user", "content": PROMPT}]}


def judged(status: int, body: object, headers: Mapping[str, str] | None = None) -> S2AError:
    text = body if isinstance(body, str) else json.dumps(body)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    return faults.from_status(status, headers or {}, text, now=now, model="m-1", url="http://host/v1")


def error(message: str, code: object = None) -> dict[str, object]:
    return {"error": {"message": message, "code": code}}


@pytest.mark.parametrize("status", [400, 429])
@pytest.mark.parametrize(
    "body",
    [
        {"code": "Some limit was hit", "error": "Your team has used all available credits."},
        {"code": "Some limit was hit", "error": "The team reached its monthly spending limit."},
        error("Budget has been exceeded! Cost so far: 12.1, most: 12.0", str(400)),
        error("ExceededBudget: this user is over budget"),
        error("Please make sure that your account is in good standing", "Arrearage"),
        error("You have reached your specified API usage limits. You will regain access on 2026-04-01."),
        error("Your account org-1 is suspended"),
    ],
)
def test_spent_money_stops_the_run_under_any_status_and_name(status: int, body: object) -> None:
    """Routers and budget keepers have words of their own; waiting for money to come back takes the whole night."""
    assert isinstance(judged(status, body), AccountError)


def minute_quota(name: str) -> list[object]:
    failure = {"@type": "type.example.com/QuotaFailure", "violations": [{"quotaId": name}]}
    details = [failure, {"@type": "type.example.com/RetryInfo", "retryDelay": "38s"}]
    message = "You exceeded your current quota, please check your plan and billing details."
    return [{"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}]


def test_the_quota_of_a_minute_is_waited_for_and_that_of_a_day_is_not() -> None:
    """One big provider says 'current quota' for both; only the details tell a pause from the end of the night."""
    minute = judged(429, minute_quota("RequestsPerMinutePerProject"))
    assert isinstance(minute, RateLimitedError)
    assert minute.retry_after_s == 38.0
    assert isinstance(judged(429, minute_quota("RequestsPerDayPerProject")), AccountError)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Limit 3 a minute. Please try again in 20s.", 20.0),
        ("Please try again in 6m0s. Visit the limits page.", 360.0),
        ("Please try again in 1h2m3.5s.", 3723.5),
        ("Please try again in 86ms.", 0.086),
        ("Please retry after 26 seconds.", 26.0),
        ("Please retry in 38.25s.", 38.25),
        ("Please try again in 99999999h", 7 * 86_400.0),
        ("Please try again in a while, at 5 s", None),
        ("Please try again later", None),
    ],
)
def test_a_wait_that_only_the_message_names_is_taken(message: str, seconds: float | None) -> None:
    """A gateway may drop the header; asking again before the time is over counts as a further offence."""
    found = judged(429, error(message))
    assert isinstance(found, RateLimitedError)
    assert found.retry_after_s == (None if seconds is None else pytest.approx(seconds))


def test_the_header_wins_over_the_message() -> None:
    """The header is for machines, and a proxy that lengthens it has its reasons."""
    found = judged(429, error("Please try again in 2s"), {"retry-after": "7"})
    assert isinstance(found, RateLimitedError)
    assert found.retry_after_s == 7.0


def test_a_request_over_the_limit_of_a_whole_minute_is_no_matter_of_waiting() -> None:
    """Asked again it is refused again, and each refusal pauses everyone: one long record would cost the night."""
    told = "Request too large for m-1 on tokens per min (TPM): Limit 30000, Requested 45000."
    found = judged(429, error(told, "rate_limit_exceeded"))
    assert isinstance(found, RequestRefused)
    assert found.kind == "too_long"
    fits = "This request would exceed the rate limit of 40000 tokens a minute. Reduce the prompt, or try again later."
    assert isinstance(judged(429, error(fits)), RateLimitedError)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Model Not Exist"),
        (400, "The model `m-1` does not exist"),
        (400, "m-1 is not a valid model ID"),
        (400, "The model `m-1` has been decommissioned and is no longer supported"),
        (400, "The operation does not work with the specified model, m-1"),
        (410, "m-1 was retired"),
    ],
)
def test_a_model_that_is_not_there_stops_the_run_under_other_statuses_too(status: int, message: str) -> None:
    """Each record would be refused, and written off as if it were at fault."""
    found = judged(status, error(message))
    assert isinstance(found, EndpointError)
    assert "the model 'm-1'" in str(found)


@pytest.mark.parametrize("status", [405, 406, 407, 411, 415, 421, 426, 431, 501])
def test_what_refuses_every_request_fails_no_record(status: int) -> None:
    """A wrong path or a proxy that wants a password is never the record's fault."""
    found = judged(status, "<h1>Not here</h1>", PAGE)
    assert isinstance(found, EndpointError)
    assert "base URL" in str(found)


def test_a_firewalls_page_may_mean_one_prompt_or_everybody() -> None:
    """Firewalls dislike single prompts (code, SQL): taken for a wrong key, one such record stops every resume."""
    found = judged(403, "<title>Sorry</title><p>You have been blocked</p>", PAGE)
    assert isinstance(found, TransientError)
    assert "firewall" in str(found)
    assert isinstance(judged(403, error("no permission")), AccountError)


def test_people_read_a_pages_words_and_not_its_code() -> None:
    """At night one line must tell what stands in the way; styles and scripts fill it with nothing."""
    page = "<html><style>a{}</style><title>502</title><SCRIPT src=x>var a = '<b>'</SCRIPT ><p>Bad\ngateway</p></html>"
    assert str(judged(502, page, PAGE)) == "HTTP 502: 502 Bad gateway"
    hostile = "<script" * 4_000_000
    assert len(str(judged(502, hostile, PAGE))) < 400


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("context_length_exceeded", True),
        ("DeploymentNotFound", True),
        ("invalid_request_error", False),
        ("The caller is unknown", False),
        ("400", False),
        (400, False),
        (None, False),
    ],
)
def test_a_code_that_says_something_is_said(code: object, named: bool) -> None:
    """Some messages are just 'error', and the code is what a search engine knows."""
    said = str(judged(400, error("no", code)))
    assert said == (f"HTTP 400 ({code}): no" if named else "HTTP 400: no")


def test_a_list_of_faults_is_told_without_the_input_that_it_repeats() -> None:
    """Validating servers send the refused body back; the dead letter and the log would hold the prompt."""
    fault = {"type": "missing", "loc": ["body", "top_k"], "msg": "Field required", "input": {"messages": [PROMPT]}}
    assert str(judged(422, {"detail": [fault, fault | {"loc": None}]})) == (
        "HTTP 422: body.top_k: Field required; : Field required"
    )


def test_a_path_that_is_not_there_is_told_with_both_remedies() -> None:
    """A bare 'not found' may be the path or the model."""
    for body in ("404 page not found", {"detail": "Not Found"}, ""):
        found = str(judged(404, body))
        assert "model's name" in found
        assert "/v1?" in found


@pytest.mark.parametrize("spell", [str, lambda text: json.dumps(text)[1:-1], lambda text: repr(text)[1:-1]])
@pytest.mark.anyio
async def test_a_prompt_that_a_refusal_repeats_is_neither_told_nor_its_judge(
    upstream: Callable[[Plan], Upstream], spell: Callable[[str], str]
) -> None:
    """A prompt about bills must not look like an unpaid bill and stop the run, nor stand in a log."""
    for status in (200, 400):
        refusal = {"message": f"cannot read <<{spell(PROMPT)}>>", "code": 400}
        up = upstream({"rules": [{"replies": [{"status": status, "error": refusal}]}]})
        found = await failed(up.base_url)
        assert isinstance(found, RequestRefused)
        assert found.kind == "bad_request"
        assert "<<[the prompt]>>" in str(found)


async def failed(base_url: str) -> S2AError:
    async with Endpoint(base_url=base_url, api_key="none", headers={}, deadline_s=10, connections=1) as client:
        with pytest.raises(S2AError) as caught:
            await client.send(REQUEST)
    return caught.value


async def answered_with(body: bytes, packed: str) -> S2AError | str:
    """What a request comes to when a server sends this packed body."""
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {packed}\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + body)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, Endpoint(base_url=url, api_key="none", headers={}, deadline_s=10, connections=1) as client:
        try:
            return (await client.send(REQUEST)).text
        except S2AError as error:
            return error


def good_body() -> bytes:
    ask = Ask.read(json.dumps(REQUEST).encode(), None)
    return json.dumps(completion(ask, {}, {}, 1)).encode()


@pytest.mark.anyio
async def test_a_packed_reply_is_read() -> None:
    """Gateways pack replies; ours asks for gzip and unpacks it itself."""
    assert await answered_with(gzip.compress(good_body()), "gzip") == "ANSWER [[r-1]]"
    assert await answered_with(good_body(), "identity") == "ANSWER [[r-1]]"


@pytest.mark.anyio
async def test_a_small_reply_that_unpacks_to_all_memory_is_cut() -> None:
    """A few kilobytes of gzip can be gigabytes: the bound is on what comes out."""
    found = await answered_with(gzip.compress(b" " * (MOST_BYTES + 1) + good_body()), "gzip")
    assert isinstance(found, TransientError)
    assert (found.kind, "longer than" in str(found)) == ("not_an_answer", True)


@pytest.mark.parametrize("packed", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.anyio
async def test_a_body_that_cannot_be_unpacked_is_named_as_that(packed: str) -> None:
    """Named a lost connection it would send people to look at cables, and count as an outage."""
    found = await answered_with(b"these are no packed bytes", packed)
    assert isinstance(found, TransientError)
    assert (found.kind, packed in str(found)) == ("not_an_answer", True)
    assert ("which was not asked for" in str(found)) == (packed in {"br", "zstd"})


@pytest.mark.parametrize(("named_s", "least_s"), [(5.0, 5.0), (None, 0.0), (1e9, 600.0)])
def test_an_overloaded_server_is_given_the_time_it_asks_for(named_s: float | None, least_s: float) -> None:
    """A 503 with Retry-After is asked again after that time, up to the job's bound, and costs an attempt."""

    async def main() -> list[float]:
        busy = TransientError("server_error", "HTTP 503", status=503, retry_after_s=named_s)
        client = FakeClient([busy, {"content": "Yes."}])
        stage = a_stage(client, name="answer", model=None, retry=Retry(backoff_s=0.1, max_wait_s=600))
        assert await stage.run([{"role": "user", "content": "Is it so?"}], Trail(anyio.current_time())) == "Yes."
        return client.started

    first, second = in_virtual_time(main)
    assert least_s <= second - first <= least_s + 0.1
    found = judged(503, error("overloaded"), {"retry-after": "5"})
    assert isinstance(found, TransientError)
    assert found.retry_after_s == 5.0
