"""What a server's refusal means: HTTP status, headers and body become one of our errors, once, here.

Knows no other package, so every transport classifies alike. Invariant: what would refuse the next record too (key,
quota, model, path) stops the run; what only this request suffers from does not.
"""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import (
    AccountError,
    EndpointError,
    RateLimitedError,
    RequestRefused,
    S2AError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_QUOTA: Final = re.compile(
    r"insufficient[ _]?(quota|balance|funds?|credits?)|exceeded your current quota|billing|credit balance"
    r"|payment required|out of credits?|quota[ _]exhausted|no credits",
    re.IGNORECASE,
)
_KEY: Final = re.compile(
    r"(invalid|incorrect|missing|expired).{0,20}api[ _-]?key|api[ _-]?key.{0,30}(invalid|not valid)", re.IGNORECASE
)
_FILTER: Final = re.compile(r"content[ _]?(filter|management|policy)|responsible ?ai", re.IGNORECASE)
_MODERATED: Final = re.compile(r"(input|prompt|content|request).{0,40}(flagged|moderat)|moderation", re.IGNORECASE)
_TOO_LONG: Final = re.compile(
    r"context[ _]length|context[ _]size|maximum context|too (long|large)|exceed.{0,30}(token|context)"
    r"|token.{0,30}exceed",
    re.IGNORECASE,
)
_ACCOUNT: Final = frozenset({401, 402, 403})
_TRANSIENT: Final = frozenset({408, 409, 425, 499})
_ERROR_STATUS: Final = range(400, 600)
_LONGEST_WAIT_S: Final = 7 * 86_400.0
_MESSAGE_CHARS: Final = 300
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_URL: Final = re.compile(r"https?://\S+")


def from_status(  # noqa: PLR0911, PLR0913  one request's whole story, told once
    status: int,
    headers: Mapping[str, str],
    body: str,
    *,
    now: datetime,
    model: str,
    url: str,
) -> S2AError:
    """The error of a reply whose status is not 200.

    Args:
        status: HTTP status.
        headers: The reply's headers, names in lower case.
        body: The reply's text, free of secrets.
        now: Present time, for a Retry-After that is a date.
        model: Named in messages.
        url: Named in messages; holds no password.
    """
    message, code = _error_of(body)
    request_id = headers.get("x-request-id")
    said = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    # Every rate limit of OpenAI's ends in a link to its billing page.
    whole = _URL.sub(" ", f"{code} {message}")
    if status < HTTPStatus.BAD_REQUEST:
        return EndpointError(f"{url} answers with a redirect (HTTP {status}); set base_url to where it leads")
    if status == HTTPStatus.FORBIDDEN and _MODERATED.search(whole):
        return RequestRefused("content_filter", said, status=status, request_id=request_id)
    if status in _ACCOUNT or (status in (400, 429) and _KEY.search(whole)):
        return AccountError(f"{url} refuses the account ({said}); check the key, its permissions and the billing")
    if _QUOTA.search(whole) and status in (400, 429):
        return AccountError(f"{url}: the account's quota or credit is used up ({said}); check the billing")
    if status == HTTPStatus.NOT_FOUND:
        hint = (
            "does the base URL end in /v1?" if "html" in headers.get("content-type", "") else "check the model's name"
        )
        return EndpointError(f"{url} does not know the path or the model '{model}' ({said}); {hint}")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimitedError(said, retry_after_s=retry_after_s(headers, now), request_id=request_id)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT:
        return TransientError("server_error", said, status=status, request_id=request_id)
    if _FILTER.search(whole):
        return RequestRefused("content_filter", said, status=status, request_id=request_id)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _TOO_LONG.search(whole):
        return RequestRefused("too_long", said, status=status, request_id=request_id)
    return RequestRefused("bad_request", said, status=status, request_id=request_id)


def from_error_body(error: object, headers: Mapping[str, str], *, now: datetime, model: str, url: str) -> S2AError:
    """The error of a 200 that carries an error object, as routers send it.

    Judged by the status that it names as its code; without one it is transient, unless it speaks of quota.
    """
    code = str(error.get("code")) if isinstance(error, dict) else ""
    body = json.dumps({"error": error})
    if code.isdecimal() and int(code[:4]) in _ERROR_STATUS:
        return from_status(int(code[:4]), headers, body, now=now, model=model, url=url)
    message, _ = _error_of(body)
    if _QUOTA.search(body):
        return from_status(429, headers, body, now=now, model=model, url=url)
    said = f"HTTP 200 with an error in place of an answer: {message}"
    return TransientError("not_an_answer", said, status=200, request_id=headers.get("x-request-id"))


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait that the headers name; None for nonsense.

    Read are `retry-after-ms`, and `retry-after` as seconds or as HTTP date. Zero and the past mean "at once"; nothing
    is longer than a week.
    """
    ms = _number(headers.get("retry-after-ms"))
    seconds = ms / 1000 if ms is not None else _number(headers.get("retry-after"))
    if seconds is None and "retry-after" in headers:
        try:
            seconds = max(0.0, (parsedate_to_datetime(headers["retry-after"]) - now).total_seconds())
        except (ValueError, TypeError):
            return None
    return None if seconds is None or seconds < 0 else min(seconds, _LONGEST_WAIT_S)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def _error_of(body: str) -> tuple[str, str]:
    """A short message, and the code or type, in whatever shape servers put them."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _short(re.sub(r"<[^>]*>", " ", body)), ""
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return _short(str(error)), ""
    message = error.get("message") or error.get("detail") or found.get("message") or ""
    return _short(str(message)), f"{error.get('code') or ''} {error.get('type') or ''}"


def _short(text: str) -> str:
    text = _SURROGATES.sub("\ufffd", " ".join(text.split()))
    return text if len(text) <= _MESSAGE_CHARS else text[:_MESSAGE_CHARS] + " [cut]"
