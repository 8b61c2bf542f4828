"""The parts of a job whose names are free: further request fields, headers, variables, addresses; what they may not be.

Knows pydantic. Invariants: what the program sets in a request, a job cannot override behind its back; no value is shown
in a refusal, for it may be a key in the wrong place.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, JsonValue

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WAYS: Final = {
    "the wording is `instructions`, the rest is made of the record": ("messages",),
    "set `model` of the stage": ("model",),
    "replies are read as a whole": ("stream", "stream_options"),
    "a request brings one reply; for more of them run the job into further outputs": ("n", "best_of"),
    "the reply's shape is told by `mode`, and by `type`, `schema_file` or `class` of [answer]": (
        *("response_format", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
    ),
    "set it beside extra_body": ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens"),
    "it is kept in the files as it is; send a secret by `headers_env`": (
        *("api_key", "apikey", "api-key", "authorization", "access_token", "token", "password", "secret"),
    ),
}
_OWNED: Final = {name: way for way, names in _WAYS.items() for name in names}
_OWNED_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("this is no name of an environment variable; a job names the variable and never holds the key")
    return name


def _body(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(body, allow_nan=False)
    for name in body:
        if (way := _OWNED.get(_plain(name))) is not None:
            raise ValueError(f"'{name}' is not for extra_body: {way}")
    return body


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name in headers:
        if _plain(name) in _OWNED_HEADERS:
            raise ValueError(f"the header '{name}' belongs to the transport; leave it out")
    if len({_plain(name) for name in headers}) < len(headers):
        raise ValueError("the same header twice, in two spellings; leave one out")
    return headers


def _plain(name: str) -> str:
    return name.strip().lower()


def http_url(url: str) -> str:
    """The address, when it is one of http or https; ValueError, which does not show it, when it is not."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    except ValueError:  # its text may show a password
        pass
    raise ValueError("no http(s) address; example: http://127.0.0.1:8000/v1")


HttpUrl = Annotated[str, AfterValidator(http_url)]
Variable = Annotated[str, AfterValidator(_variable)]
Body = Annotated[dict[str, JsonValue], AfterValidator(_body)]
Headers = Annotated[dict[str, Variable], AfterValidator(_headers)]
