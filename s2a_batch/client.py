"""One request, once: openai sends it, and what comes back is a usable reply or one of our errors.

Knows openai; importing this module takes about a second. Invariants: the SDK never retries; one
`send` is one HTTP request with one deadline; no message of an error holds a secret.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import anyio
import openai
from openai.types.chat import ChatCompletion
from pydantic import JsonValue

from s2a_batch import faults
from s2a_batch.errors import AttemptError, RequestRefused, S2AError, TransientError, UnusableReply
from s2a_batch.job import OPENAI_URL
from s2a_batch.masking import Mask, masked_url, secrets_in, secrets_in_url
from s2a_batch.records import Usage
from s2a_batch.transport import BodyError, http_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pydantic import BaseModel

    from s2a_batch.errors import FailureKind

Request: TypeAlias = dict[str, JsonValue]
"""Parameters of a chat completion, by the API's names."""

_CONNECT_S: Final = 10.0
_MOST_TOKENS: Final = 10**9
_SAID_CHARS: Final = 8  # shorter prompts stand in ordinary words
_LOUD: Final = {"openai": logging.WARNING, "httpx2": logging.WARNING, "httpcore2": logging.WARNING}
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Reply:
    """A usable reply of one request.

    Attributes:
        text: What the model wrote (content, or the arguments of the forced tool), before any clean-up.
        completion: The SDK's object, for instructor.
    """

    text: str
    model: str
    finish_reason: str | None
    usage: Usage
    request_id: str | None
    status: int
    headers: Mapping[str, str]
    completion: ChatCompletion


class _RawReply(Protocol):
    """What the SDK's raw create() returns."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def status_code(self) -> int: ...
    def parse(self) -> object: ...


class Endpoint:
    """Sends requests to one endpoint with one key; use as an async context manager.

    Args:
        base_url: Ends in /v1 for most servers; a query goes along with each request.
        api_key: Sent as bearer token; any text for servers that need none.
        headers: Further headers of each request.
        deadline_s: From sending to the last byte.
        connections: Most connections open at a time.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        headers: dict[str, str],
        deadline_s: float,
        connections: int,
    ) -> None:
        _silence()
        parts = urlsplit(base_url)
        self._url = masked_url(base_url)
        self._mask = Mask([api_key, *headers.values(), *secrets_in_url(base_url), *secrets_in(os.environ)])
        self._deadline_s = deadline_s
        self._openai = openai.AsyncOpenAI(
            base_url=urlunsplit(parts._replace(query="", fragment="")),
            api_key=api_key,
            default_headers=headers,
            default_query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            max_retries=0,
            timeout=openai.Timeout(deadline_s, connect=min(_CONNECT_S, deadline_s)),
            http_client=http_client(base_url, connections),
        )
        if not base_url.startswith(OPENAI_URL):  # the environment may name them, for OpenAI alone
            self._openai.organization = self._openai.project = None
            self._openai._custom_headers = headers  # noqa: SLF001  without OPENAI_CUSTOM_HEADERS

    async def __aenter__(self) -> Self:
        create = self._openai.chat.completions.with_raw_response.create
        # Our request is open to any parameter a server knows; the SDK's overloads are not.
        self._create = cast("Callable[..., Awaitable[_RawReply]]", create)
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            await self._openai.close()

    async def send(self, request: Request) -> Reply:
        """Send exactly one HTTP request.

        Args:
            request: Parameters of a chat completion.

        Raises:
            AttemptError: This attempt failed; the class says whether another one may help.
            StopRun: The account or the endpoint refuses everything.
        """
        try:
            return await self._send(request)
        except S2AError as error:
            _mask(error, self._mask)
            raise

    async def _send(self, request: Request) -> Reply:
        status = 200
        try:
            with anyio.fail_after(self._deadline_s):
                raw = await self._create(**request)
            status = raw.status_code
            found = raw.parse()
        except (TimeoutError, openai.APITimeoutError):
            raise TransientError("timeout", f"no complete reply within {self._deadline_s:g} s") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, BodyError):
                raise TransientError("not_an_answer", f"a reply came, and {error.__cause__}") from None
            why = self._mask.text(f"{self._url}: connection failed ({_root(error)})")[:220]
            raise TransientError("connection", why) from None
        except openai.APIStatusError as error:
            raise self._refusal(error, request) from None
        except UnicodeEncodeError:
            raise RequestRefused(
                "bad_request", "the messages hold half of a surrogate pair, which is no character"
            ) from None
        except (ValueError, RecursionError, openai.APIError) as error:
            raise TransientError("not_an_answer", f"HTTP {status} with a broken body: {type(error).__name__}") from None
        return self._judged(found, raw.headers, raw.status_code, request)

    def _refusal(self, error: openai.APIStatusError, request: Request) -> S2AError:
        return faults.from_status(
            error.status_code,
            error.response.headers,
            _unsaid(self._mask.text(error.response.text), request),
            now=datetime.now(UTC),
            model=str(request.get("model")),
            url=self._url,
        )

    def _judged(self, found: object, headers: Mapping[str, str], status: int, request: Request) -> Reply:
        """A reply that holds an answer, or the error that says why it does not."""
        request_id = self._mask.message(headers["x-request-id"]) if "x-request-id" in headers else None
        if not isinstance(found, ChatCompletion):
            start = _unsaid(self._mask.text(_plain(" ".join(str(found).split()))), request)[:120]
            message = f"HTTP {status} with {headers.get('content-type', 'no content type')} in place of JSON: {start}"
            raise TransientError("not_an_answer", message, status=status, request_id=request_id)
        extra = found.model_extra or {}
        if not found.choices and extra.get("error"):
            error = json.loads(_unsaid(self._mask.text(json.dumps(extra["error"])), request))
            now = datetime.now(UTC)
            raise faults.from_error_body(error, headers, now=now, model=str(request.get("model")), url=self._url)
        try:
            return self._usable(found, headers, status, request_id)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            # The SDK validates nothing: any JSON may stand in any place.
            message = "HTTP 200 with JSON that holds no choices of a chat completion"
            raise TransientError("not_an_answer", message, status=status, request_id=request_id) from None

    def _usable(self, found: ChatCompletion, headers: Mapping[str, str], status: int, request_id: str | None) -> Reply:
        choice = found.choices[0]
        message = choice.message
        tool = message.tool_calls[0] if message.tool_calls else None
        usage, found.usage = _usage(found), None  # instructor would write running totals into it
        if tool is not None and tool.type == "function":
            text = tool.function.arguments = self._mask.reply(_plain(tool.function.arguments))
        else:
            text = message.content = self._mask.reply(_plain(_joined(message.content)))

        def failed(error: type[AttemptError], kind: FailureKind, why: str, reply: object) -> AttemptError:
            kept = _plain(str(reply)) or None
            return error(kind, why, status=status, request_id=request_id, reply=kept, usage=usage.model_dump())

        if message.refusal:
            raise failed(UnusableReply, "refusal", "the model refuses", message.refusal)
        if choice.finish_reason == "content_filter":
            raise failed(UnusableReply, "content_filter", "the server's content filter cut the reply", text)
        if choice.finish_reason == "length":
            raise failed(UnusableReply, "truncated", "the reply was cut at the token limit; raise max_tokens", text)
        if str(choice.finish_reason) == "error":
            raise failed(TransientError, "not_an_answer", "the server broke off in the middle of the reply", text)
        if not text.strip():
            thoughts = _reasoning(message.model_extra or {})
            if thoughts:
                why = "the reply holds reasoning and no answer; raise max_tokens"
                raise failed(UnusableReply, "only_reasoning", why, thoughts)
            raise failed(TransientError, "empty_answer", "the reply is empty", "")
        reason = None if choice.finish_reason is None else self._mask.message(_plain(str(choice.finish_reason)))
        model = self._mask.message(_plain(str(found.model or "")))
        return Reply(text, model, reason, usage, request_id, status, headers, completion=found)


def _mask(error: S2AError, mask: Mask) -> None:
    """Take secrets out of all that an error carries."""
    error.args = (mask.message(str(error)),)
    if isinstance(error, AttemptError):
        error.request_id = None if error.request_id is None else mask.message(_plain(error.request_id))
        error.reply = None if error.reply is None else mask.reply(error.reply)


def strict_schema(model: type[BaseModel]) -> dict[str, JsonValue]:
    """The model's JSON Schema as OpenAI's strict mode wants it: all fields required, no others allowed."""
    parameters = openai.pydantic_function_tool(model)["function"]["parameters"]
    return cast("dict[str, JsonValue]", json.loads(json.dumps(parameters)))


def _silence() -> None:
    """Keep the libraries' logs from printing prompts and URLs with passwords, whatever OPENAI_LOG says."""
    for name, level in _LOUD.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("instructor").setLevel(logging.CRITICAL)


def _usage(found: ChatCompletion) -> Usage:
    """Tokens as far as the server names them; a server that counts oddly does not cost the answer."""
    usage: object = found.usage
    inputs = getattr(usage, "prompt_tokens_details", None)
    outputs = getattr(usage, "completion_tokens_details", None)
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        cached_tokens=_count(inputs, "cached_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        reasoning_tokens=_count(outputs, "reasoning_tokens"),
    )


def _count(usage: object, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS else None


def _joined(content: object) -> str:
    """The text of a message's content; some servers send it in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError


def _plain(text: str) -> str:
    return _SURROGATES.sub("\ufffd", text)


def _unsaid(text: str, request: Request) -> str:
    """A server's words without the messages that they repeat: a prompt belongs in no error, and must not judge one."""
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        said = message.get("content") if isinstance(message, dict) else None
        if isinstance(said, str) and len(said) >= _SAID_CHARS:
            ways = {said, json.dumps(said)[1:-1], json.dumps(said, ensure_ascii=False)[1:-1], repr(said)[1:-1]}
            for way in sorted(ways | {json.dumps(way)[1:-1] for way in ways}, key=len, reverse=True):
                text = text.replace(way, "[the prompt]")
    return text


def _reasoning(extra: Mapping[str, object]) -> str:
    return str(extra.get("reasoning_content") or extra.get("reasoning") or "")


def _root(error: BaseException) -> str:
    """The innermost cause in a few words."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"
