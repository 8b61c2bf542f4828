"""One request, once: it goes out, and what comes back is a usable reply or one of our errors.

Knows openai; importing this module takes about a second. Invariants: one `send` is one HTTP request with one deadline,
the SDK never retries; no message of an error holds a secret. A record's first request takes a short way: the SDK names
its headers once, and its body goes straight to the connections that the SDK uses too (0.1 ms, not 0.9 ms).
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias, cast
from urllib.parse import urlsplit, urlunsplit

import openai
from openai.types.chat import ChatCompletion
from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, to_json

from s2a_batch import faults
from s2a_batch.completion import parsed, plain, reply_of
from s2a_batch.credentials import login_header
from s2a_batch.errors import AttemptError, EndpointError, RequestRefused, S2AError, TransientError
from s2a_batch.job import OPENAI_URL
from s2a_batch.masking import Mask, masked_url, secrets_in, secrets_in_url
from s2a_batch.transport import Response, Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pydantic import BaseModel

    from s2a_batch.completion import Reply

Request: TypeAlias = dict[str, JsonValue]
"""Parameters of a chat completion, by the API's names; what is in `extra_body` goes beside them."""

_SAID_CHARS: Final = 8  # shorter prompts stand in ordinary words
_LOUD: Final = {"openai": logging.WARNING, "httpx2": logging.WARNING, "httpcore2": logging.WARNING}
_SUCCESS: Final = range(200, 300)


class _Received(Protocol):
    """A reply as the SDK holds it."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


class _RawReply(Protocol):
    """What the SDK's raw create() returns."""

    @property
    def http_response(self) -> _Received: ...


class Endpoint:
    """Sends requests to one endpoint with one key; use as an async context manager.

    Args:
        base_url: Ends in /v1 for most servers; a query goes along with each request.
        api_key: Sent as bearer token; any text for servers that need none.
        headers: Further headers of each request.
        deadline_s: From sending to the last byte.
        connections: Most connections open at a time.

    Raises:
        JobError: The environment names a proxy or certificates that cannot be used.
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
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        address = urlunsplit(place._replace(path=parts.path.rstrip("/") + "/chat/completions"))
        self._transport = Transport(address, deadline_s=deadline_s, connections=connections)
        self._openai = openai.AsyncOpenAI(
            base_url=urlunsplit(place._replace(query="")),
            api_key=api_key,
            default_headers=headers,
            max_retries=0,
            timeout=deadline_s,
            http_client=self._transport.for_sdk(),
        )
        if not base_url.startswith(OPENAI_URL):  # the environment may name them, for OpenAI alone
            self._openai.organization = self._openai.project = None
            self._openai._custom_headers = headers  # noqa: SLF001  without OPENAI_CUSTOM_HEADERS
        named = self._openai.auth_headers | login_header(parts.netloc) | self._openai.default_headers
        # The SDK's own statistics stay out: a third of all bytes of the headers, which no server needs.
        self._transport.headers = {
            name.lower(): value
            for name, value in named.items()
            if isinstance(value, str) and not name.startswith("X-Stainless-")
        }

    async def __aenter__(self) -> Self:
        create = self._openai.chat.completions.with_raw_response.create
        # Our request is open to any parameter a server knows; the SDK's overloads are not.
        self._create = cast("Callable[..., Awaitable[_RawReply]]", create)
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.__aexit__()

    async def send(self, request: Request, *, short: bool = False) -> Reply:
        """Send exactly one HTTP request.

        Args:
            request: Parameters of a chat completion.
            short: Without the SDK's work around each request; what is sent and what comes back is the same.

        Raises:
            AttemptError: This attempt failed; the class says whether another one may help.
            StopRun: The account or the endpoint refuses everything.
        """
        try:
            response = await (self._post(request) if short else self._through_sdk(request))
            return self._judged(response, request)
        except S2AError as error:
            _mask(error, self._mask)
            raise
        except (UnicodeEncodeError, PydanticSerializationError):
            raise RequestRefused(
                "bad_request", "the messages hold half of a surrogate pair, which is no character"
            ) from None

    async def _post(self, request: Request) -> Response:
        beside = request.get("extra_body")
        if isinstance(beside, dict):
            request = {name: value for name, value in request.items() if name != "extra_body"} | beside
        try:
            return await self._transport.post(to_json(request))
        except TransientError as error:
            raise self._named(error) from None

    async def _through_sdk(self, request: Request) -> Response:
        try:
            found: _Received = (await self._create(**request)).http_response
        except openai.APIStatusError as error:
            found = error.response
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, EndpointError):
                raise error.__cause__ from None
            if isinstance(error.__cause__, TransientError):
                raise self._named(error.__cause__) from None
            raise TransientError("connection", f"connection failed ({type(error.__cause__).__name__})") from None
        return Response(found.status_code, found.headers, found.content)

    def _named(self, error: TransientError) -> TransientError:
        """The transport's fault with the address, which it does not know how to mask."""
        if error.kind != "connection":
            return error
        return TransientError("connection", self._mask.text(f"{self._url}: {error}")[:220])

    def _judged(self, response: Response, request: Request) -> Reply:
        """A reply that holds an answer, or the error that says why it does not."""
        status, headers = response.status, response.headers
        if status not in _SUCCESS:
            raise self._refusal(response, request)
        request_id = headers.get("x-request-id")
        request_id = None if request_id is None else self._mask.message(plain(request_id))
        try:
            body = parsed(response.body)
        except (ValueError, RecursionError) as error:
            kind = headers.get("content-type", "no content type")
            why = f"with a broken body: {type(error).__name__}"
            if "json" not in kind:
                text = " ".join(response.body.decode(errors="replace").split())
                why = f"with {kind} in place of JSON: {_unsaid(self._mask.text(text), request)[:120]}"
            message = f"HTTP {status} {why}"
            raise TransientError("not_an_answer", message, status=status, request_id=request_id) from None
        if isinstance(body, dict) and body.get("error") and not body.get("choices"):
            told = self._told(body["error"], request)
            now, model = datetime.now(UTC), str(request.get("model"))
            raise faults.from_error_body(told, headers, now=now, model=model, url=self._url)
        return reply_of(body, headers, status=status, request_id=request_id, mask=self._mask)

    def _told(self, value: JsonValue, request: Request) -> JsonValue:
        """A server's words without secrets and the prompt, in whatever shape they come."""
        if isinstance(value, dict):
            return {name: self._told(part, request) for name, part in value.items()}
        if isinstance(value, list):
            return [self._told(part, request) for part in value]
        return _unsaid(self._mask.text(plain(value)), request) if isinstance(value, str) else value

    def _refusal(self, response: Response, request: Request) -> S2AError:
        return faults.from_status(
            response.status,
            response.headers,
            _unsaid(self._mask.text(response.body.decode(errors="replace")), request),
            now=datetime.now(UTC),
            model=str(request.get("model")),
            url=self._url,
        )


def as_completion(reply: Reply, text: str) -> ChatCompletion:
    """A reply as instructor takes it, its text cleaned up."""
    return ChatCompletion.construct(None, **reply.saying(text))


def _mask(error: S2AError, mask: Mask) -> None:
    """Take secrets out of all that an error carries."""
    error.args = (mask.message(plain(str(error))),)  # a header may hold any bytes
    if isinstance(error, AttemptError):
        error.request_id = None if error.request_id is None else mask.message(plain(error.request_id))
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
