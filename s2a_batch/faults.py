"""What a server's refusal means: HTTP status, headers and body become one of our errors, once, here.

Knows no other package, so every transport classifies alike. Invariant: what would refuse the next record too (key,
quota, model, path) stops the run; what only this request suffers from does not.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import (
    AccountError,
    EndpointError,
    RateLimitedError,
    RequestRefused,
    S2AError,
    StopRun,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from s2a_batch.errors import FailureKind

_QUOTA: Final = re.compile(
    r"insufficient[ _]?(quota|balance|funds?|credits?)|exceeded your current quota|billing|credit balance"
    r"|payment required|out of credits?|quota[ _]exhausted|no credits|used all available credits|spending limit"
    r"|usage limits\b|budget has been exceeded|budget_exceeded|exceeded ?budget|over budget|arrearage|good standing"
    r"|account .{0,20}(suspended|deactivated|overdue|in arrears)",
    re.IGNORECASE,
)
_MODEL: Final = re.compile(
    r"model.{0,80}(not (exist|found)|n't exist|no longer|decommissioned|deprecated)|not a valid model"
    r"|(unknown|invalid|specified) model\b",
    re.IGNORECASE,
)
_KEY: Final = re.compile(
    r"(invalid|incorrect|missing|expired).{0,20}api[ _-]?key|api[ _-]?key.{0,30}(invalid|not valid)", re.IGNORECASE
)
_FILTER: Final = re.compile(r"content[ _]?(filter|management|policy)|responsible ?ai", re.IGNORECASE)
_MODERATED: Final = re.compile(r"(input|prompt|content|request).{0,40}(flagged|moderat)|moderation", re.IGNORECASE)
_NEVER_FITS: Final = re.compile(r"request too large|tokens must be reduced", re.IGNORECASE)
_TOO_LONG: Final = re.compile(
    r"context[ _]length|context[ _]size|maximum context|too (long|large)|exceed.{0,30}(token|context)"
    r"|token.{0,30}exceed",
    re.IGNORECASE,
)
_PAGE: Final = re.compile(r"(?is)<(script|style)\b.*?</\1\s*>|<[^<>]*>")
_CODE: Final = re.compile(r"(?!\w*_error\b)(?=\w*_|\w*[a-z][A-Z])[A-Za-z][\w.-]{1,60}")  # no word of a sentence
_WAIT: Final = re.compile(
    r'"retryDelay"\s*:\s*"([\d.]+s)"|(?:again|retry) (?:in|after) ((?:\d[\d.]* ?(?:ms|[hms])[a-z]*,? ?)+)',
    re.IGNORECASE,
)
_PARTS: Final = re.compile(r"(\d+(?:\.\d+)?) ?(ms|[hms])", re.IGNORECASE)
_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_ACCOUNT: Final = frozenset({401, 402, 403})
_NO_CHAT: Final = frozenset({405, 406, 407, 411, 415, 421, 426, 431, 501})
"""What refuses any request, whatever is in it."""
_TRANSIENT: Final = frozenset({408, 409, 425, 499})
_ERROR_STATUS: Final = range(400, 600)
_LONGEST_WAIT_S: Final = 7 * 86_400.0
_MESSAGE_CHARS: Final = 300
_READ_CHARS: Final = 16_384  # of an error's body; an error that is longer says the rest of it in vain
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_URL: Final = re.compile(r"https?://\S+")


def from_status(  # noqa: PLR0913  one request's whole story, told once
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
        body: The reply's text, free of secrets and of the prompt.
        now: Present time, for a Retry-After that is a date.
        model: Named in messages.
        url: Named in messages; holds no password.
    """
    body = body[:_READ_CHARS]
    message, code = _error_of(body)
    # Every rate limit of OpenAI's ends in a link to its billing page.
    whole = _URL.sub(" ", f"{code} {message}")
    told = _Told(status, whole, _said(status, message, code), body, page="html" in headers.get("content-type", ""))
    if not (told.is_moderated() or told.is_firewall()) and (stop := _stop(told, model=model, url=url)) is not None:
        return stop
    request_id, wait_s = headers.get("x-request-id"), retry_after_s(headers, now)
    if status == HTTPStatus.TOO_MANY_REQUESTS and not _NEVER_FITS.search(whole):
        wait_s = _wait_s(body) if wait_s is None else wait_s
        return RateLimitedError(told.said, retry_after_s=wait_s, request_id=request_id)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT or told.is_firewall():
        said = f"{told.said} (a firewall's page?)" if told.is_firewall() else told.said
        return TransientError("server_error", said, status=status, request_id=request_id, retry_after_s=wait_s)
    kind: FailureKind = "bad_request"
    if status == HTTPStatus.FORBIDDEN or _FILTER.search(whole):
        kind = "content_filter"
    elif status in (413, 429) or _TOO_LONG.search(whole):
        kind = "too_long"
    return RequestRefused(kind, told.said, status=status, request_id=request_id)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a refusal tells.

    Attributes:
        whole: Code, type and message.
        said: Status and message, for people.
        page: Whether the body is a web page.
    """

    status: int
    whole: str
    said: str
    body: str
    page: bool

    def is_firewall(self) -> bool:
        """A page before the API: it may dislike one prompt, or everything; whoever counts the failures can tell."""
        return self.status == HTTPStatus.FORBIDDEN and self.page

    def is_moderated(self) -> bool:
        """Whether the prompt is refused, under a status that usually means the account."""
        return self.status == HTTPStatus.FORBIDDEN and bool(_MODERATED.search(self.whole))


def _stop(told: _Told, *, model: str, url: str) -> StopRun | None:
    """The error that stops the run; None when the refusal is of this request."""
    status, whole, said = told.status, told.whole, told.said
    if status < HTTPStatus.BAD_REQUEST:
        return EndpointError(f"{url} answers with a redirect (HTTP {status}); set base_url to where it leads")
    if status in _ACCOUNT or (status in (400, 429) and _KEY.search(whole)):
        return AccountError(f"{url} refuses the account ({said}); check the key, its permissions and the billing")
    if status in (400, 429) and _QUOTA.search(whole) and not _passes(told.body):
        return AccountError(f"{url}: the account's quota or credit is used up ({said}); check the billing")
    if status in (404, 410) or (status == HTTPStatus.BAD_REQUEST and _MODEL.search(whole)):
        hint = _where(whole, page=told.page)
        return EndpointError(f"{url} does not know the path or the model '{model}' ({said}); {hint}")
    if status in _NO_CHAT:
        return EndpointError(f"{url} takes no chat requests ({said}); check the base URL, and any proxy on the way")
    return None


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


def _passes(body: str) -> bool:
    """Whether a server that says quota means the minute's: Google names the wait, and the day in the quota's name."""
    return '"retryDelay"' in body and "PerDay" not in body


def _wait_s(body: str) -> float | None:
    """The wait that a body names, for want of a header: `try again in 6m0s`, `retryDelay: 38s`."""
    found = _WAIT.search(body)
    if found is None:
        return None
    parts = _PARTS.findall(found[1] or found[2])
    return min(sum(float(number) * _UNITS_S[unit.lower()] for number, unit in parts), _LONGEST_WAIT_S)


def _where(whole: str, *, page: bool) -> str:
    """What to look at when a server does not know what it is asked for."""
    if page:
        return "does the base URL end in /v1?"
    if re.search("model|deployment", whole, re.IGNORECASE):
        return "check the model's name"
    return "check the model's name; does the base URL end in /v1?"


def _said(status: int, message: str, code: str) -> str:
    """Status, the first word of the code that the message lacks, message."""
    word = code.partition(" ")[0]
    named = f" ({word})" if _CODE.fullmatch(word) and word not in message else ""
    return f"HTTP {status}{named}: {message}" if message else f"HTTP {status}{named}"


def _error_of(body: str) -> tuple[str, str]:
    """A short message, and the code and type, in whatever shape servers put them."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _short(_PAGE.sub(" ", body)), ""
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return _short(str(error)), str(found.get("code") or "") if isinstance(found, dict) else ""
    message = error.get("message") or error.get("detail") or found.get("message") or ""
    return _short(_told(message)), f"{error.get('code') or ''} {error.get('type') or ''}"


def _told(message: object) -> str:
    """A message as text; of a list of faults their places and reasons, without the input that some repeat."""
    if isinstance(message, list) and message and all(isinstance(m, dict) and "msg" in m for m in message):
        return "; ".join(f"{'.'.join(map(str, _list(m.get('loc'))))}: {m['msg']}" for m in message)
    return str(message)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _short(text: str) -> str:
    text = _SURROGATES.sub("\ufffd", " ".join(text.split()))
    return text if len(text) <= _MESSAGE_CHARS else text[:_MESSAGE_CHARS] + " [cut]"
