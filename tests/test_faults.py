"""What a server's refusal means, in the spellings of real servers; a wrong verdict costs a night or an account."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch import faults
from s2a_batch.errors import (
    AccountError,
    AttemptError,
    EndpointError,
    RateLimitedError,
    RequestRefused,
    S2AError,
    StopRun,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def judged(status: int, body: str = "", headers: Mapping[str, str] | None = None) -> S2AError:
    return faults.from_status(status, headers or {}, body, now=NOW, model="m-1", url="http://host/v1")


def body(message: str, code: object = None, kind: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def wait_of(headers: Mapping[str, str]) -> float | None:
    return faults.retry_after_s(headers, NOW)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AccountError),
        (402, AccountError),
        (403, AccountError),
        (404, EndpointError),
        (301, EndpointError),
        (308, EndpointError),
        (400, RequestRefused),
        (413, RequestRefused),
        (422, RequestRefused),
        (408, TransientError),
        (409, TransientError),
        (425, TransientError),
        (500, TransientError),
        (502, TransientError),
        (503, TransientError),
        (529, TransientError),
        (429, RateLimitedError),
    ],
)
def test_each_status_stops_what_it_should(status: int, kind: type[S2AError]) -> None:
    """The class decides whether an attempt, a record or the whole run stops: the wrong one costs either of them."""
    assert type(judged(status, body("no reason given"))) is kind


QUOTA_BODIES = [
    body("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota"),
    body("Quota is gone", None, "insufficient_quota"),
    body("Your credit balance is too low to use the API", None, "invalid_request_error"),
    body("Insufficient Balance", "invalid_request_error"),
    body("Billing hard limit has been reached", "billing_hard_limit_reached"),
    body("insufficient funds"),
    json.dumps({"error": "You have no credits left"}),
    json.dumps([{"error": {"message": "quota exhausted", "code": 429}}]),
    "insufficient credits",
]


@pytest.mark.parametrize("status", [429, 400])
@pytest.mark.parametrize("text", QUOTA_BODIES)
def test_a_spent_quota_stops_the_run_in_every_spelling(status: int, text: str) -> None:
    """A spent quota looks like a rate limit and never ends: waiting for it would last the whole night."""
    error = judged(status, text)
    assert isinstance(error, AccountError)
    assert "http://host/v1" in str(error)


@pytest.mark.parametrize(
    "message",
    [
        "Limit: 3 / min. Try again in 20s. Visit https://platform.example.com/account/billing to add a payment method.",
        "Rate limit reached for m-1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 1500.",
        "Too many requests",
    ],
)
def test_a_rate_limit_is_no_spent_quota(message: str) -> None:
    """Real rate limits link to the billing page; taking one for a spent quota would stop a healthy run."""
    assert isinstance(judged(429, body(message, "rate_limit_exceeded", "requests")), RateLimitedError)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, body("API key not valid. Please pass a valid API key.")),
        (400, body("Invalid API-key provided", "invalid_api_key")),
        (429, body("Incorrect API key provided")),
        (400, body("The api key is invalid")),
    ],
)
def test_a_wrong_key_is_seen_behind_other_statuses(status: int, text: str) -> None:
    """Some servers answer a wrong key with 400: every record would become a dead letter."""
    assert isinstance(judged(status, text), AccountError)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, body("This model's maximum context length is 4096 tokens", "context_length_exceeded"), "too_long"),
        (400, body("the request exceeds the available context size"), "too_long"),
        (413, "", "too_long"),
        (400, body("Input is too long for requested model"), "too_long"),
        (400, body("The response was filtered", "content_filter"), "content_filter"),
        (400, body("triggered the content management policy"), "content_filter"),
        (403, body("Your input was flagged for violence", 403), "content_filter"),
        (403, body("m-1 requires moderation on this provider", 403), "content_filter"),
        (400, body("Unsupported value: 'temperature'", "unsupported_value"), "bad_request"),
        (422, json.dumps({"detail": [{"loc": ["body"], "msg": "field required"}]}), "bad_request"),
    ],
)
def test_a_refused_request_says_which_of_its_faults_it_is(status: int, text: str, kind: str) -> None:
    """Too long, filtered and malformed have different remedies; whoever reads the dead letters must see which it is."""
    error = judged(status, text)
    assert isinstance(error, RequestRefused)
    assert error.kind == kind


def test_a_404_names_the_model_and_a_web_page_the_path() -> None:
    """The two usual slips, a wrong model and a base URL without /v1, need different fixes."""
    json_404 = judged(404, body("The model does not exist", "model_not_found"), {"content-type": "application/json"})
    html_404 = judged(404, "<html><body>Not <b>Found</b></body></html>", {"content-type": "text/html; charset=utf-8"})
    assert "'m-1'" in str(json_404)
    assert "model's name" in str(json_404)
    assert "/v1?" in str(html_404)
    assert "<" not in str(html_404)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(NOW - timedelta(hours=1), usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:10 -0000"}, None),
        ({"retry-after": "2, 2"}, None),
        ({"retry-after": "9999999999"}, 7 * 86_400.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Asking again before the named wait is over is a further offence; nonsense must not become a wait."""
    assert wait_of(headers) == seconds


@given(st.text() | st.floats().map(str) | st.integers().map(str), st.text() | st.floats().map(str))
def test_no_retry_after_makes_an_unusable_wait(after: str, ms: str) -> None:
    """Whatever a server sends: no exception, no negative or endless wait."""
    found = wait_of({"retry-after": after, "retry-after-ms": ms})
    assert found is None or 0.0 <= found <= 7 * 86_400.0


@given(
    st.integers(300, 599), JSON_VALUES.map(json.dumps) | st.text() | JSON_VALUES.map(lambda v: json.dumps({"error": v}))
)
def test_any_body_becomes_a_short_sayable_error(status: int, text: str) -> None:
    """A body of any shape must not crash its judge, fill the log or break the output's UTF-8."""
    error = judged(status, text)
    assert isinstance(error, (AttemptError, StopRun))
    assert len(str(error)) < 600
    assert "\n" not in str(error)
    str(error).encode()


@pytest.mark.parametrize("text", ["[" * 200_000, '{"error": {"message": "half \\ud83d of one"}}', "\ud83d"])
def test_a_hostile_body_is_survived(text: str) -> None:
    """Nested without end, or half a character: what breaks the parser must not break the run."""
    error = judged(500, text)
    assert isinstance(error, TransientError)
    str(error).encode()


def test_a_long_message_is_cut() -> None:
    """An error may repeat the whole request; a log line must not."""
    assert len(str(judged(500, body("x" * 50_000)))) < 400


def test_the_request_id_goes_with_the_error() -> None:
    """It is what the server's people ask for first."""
    error = judged(503, "", {"x-request-id": "req-7"})
    assert isinstance(error, AttemptError)
    assert (error.status, error.request_id) == (503, "req-7")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "upstream is busy", "code": 502}, TransientError),
        ({"message": "upstream is busy", "code": "502"}, TransientError),
        ({"message": "slow down", "code": 429}, RateLimitedError),
        ({"message": "no such model", "code": 404}, EndpointError),
        ({"message": "bad key", "code": 401}, AccountError),
        ({"message": "too long: maximum context is 10", "code": 400}, RequestRefused),
        ({"message": "insufficient credits"}, AccountError),
        ({"message": "upstream failed", "code": "overloaded"}, TransientError),
        ({"message": "upstream failed", "code": True}, TransientError),
        ("upstream failed", TransientError),
        (["upstream failed"], TransientError),
        (5, TransientError),
    ],
)
def test_an_error_in_a_200_is_judged_by_what_it_says(error: object, kind: type[S2AError]) -> None:
    """Routers hide the real status in the body of a 200; a wrong key there must stop the run too."""
    found = faults.from_error_body(error, {}, now=NOW, model="m-1", url="http://host/v1")
    assert type(found) is kind


def test_an_error_in_a_200_keeps_the_upstreams_words() -> None:
    """Without them nobody can tell what failed behind the router."""
    found = faults.from_error_body({"message": "engine 3 is on fire"}, {}, now=NOW, model="m", url="u")
    assert "engine 3 is on fire" in str(found)


def test_an_error_in_a_200_keeps_the_wait_and_the_request_id() -> None:
    """A rate limit stays one behind a router: asked again before its wait is over, it only grows."""
    headers = {"retry-after": "30", "x-request-id": "req-9"}
    found = faults.from_error_body({"message": "slow down", "code": 429}, headers, now=NOW, model="m", url="u")
    assert isinstance(found, RateLimitedError)
    assert (found.retry_after_s, found.request_id) == (30.0, "req-9")
    other = faults.from_error_body("busy", headers, now=NOW, model="m", url="u")
    assert isinstance(other, TransientError)
    assert other.request_id == "req-9"


@given(JSON_VALUES)
def test_an_error_object_of_any_shape_is_judged(error: object) -> None:
    """Nobody promises that shape."""
    found = faults.from_error_body(error, {}, now=NOW, model="m", url="u")
    assert isinstance(found, (AttemptError, StopRun))
    str(found).encode()
