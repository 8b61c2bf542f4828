"""What a server sent as a chat completion, read: the model's text with all that the audit keeps, or why there is none.

Invariants: any JSON may stand in any place, and makes no other error than ours; nothing that is kept holds a secret or
half of a surrogate pair, which no strict JSON file can hold.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic_core import from_json

from s2a_batch.errors import AttemptError, TransientError, UnusableReply
from s2a_batch.records import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from s2a_batch.errors import FailureKind
    from s2a_batch.masking import Mask

_MOST_TOKENS: Final = 10**9
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


class Reply(NamedTuple):
    """A usable reply of one request.

    Attributes:
        text: What the model wrote (content, or the arguments of the forced tool), before any clean-up.
        tool: Which function's arguments they are; None for content.
        headers: Names in any case.
        body: All that the server sent.
    """

    text: str
    tool: str | None
    model: str
    finish_reason: str | None
    usage: Usage
    request_id: str | None
    status: int
    headers: Mapping[str, str]
    body: dict[str, JsonValue]

    def saying(self, text: str) -> dict[str, JsonValue]:
        """The body as if the model had written this text, and without usage: nobody shall count it twice."""
        choice = _object(_list(self.body["choices"])[0])
        message = dict(_object(choice["message"]))
        if (call := _call(message)) is not None:
            message["tool_calls"] = [
                {**call, "type": "function", "function": {**_object(call["function"]), "arguments": text}}
            ]
        else:
            message["content"] = text
        return {**self.body, "usage": None, "choices": [{**choice, "message": message}]}


def parsed(body: bytes) -> JsonValue:
    """The JSON of a body; raises ValueError or RecursionError."""
    try:
        found: JsonValue = from_json(body, cache_strings="keys")
    except ValueError:  # half of a surrogate pair too, which the standard library reads
        found = json.loads(body)
    return found


def reply_of(body: JsonValue, headers: Mapping[str, str], *, status: int, request_id: str | None, mask: Mask) -> Reply:
    """The reply that a completion holds.

    Raises:
        AttemptError: It holds none that can be used; the class says whether another attempt may help.
    """
    try:
        return _usable(_object(body), headers, status, request_id, mask)
    except (IndexError, KeyError, TypeError):
        message = "HTTP 200 with JSON that holds no choices of a chat completion"
        raise TransientError("not_an_answer", message, status=status, request_id=request_id) from None


def _usable(
    body: dict[str, JsonValue], headers: Mapping[str, str], status: int, request_id: str | None, mask: Mask
) -> Reply:
    choice = _object(_list(body["choices"])[0])
    message = _object(choice["message"])
    call = _call(message)
    function = None if call is None else _object(call["function"])
    said = _joined(message.get("content")) if function is None else _text(function["arguments"])
    text = mask.reply(plain(said))
    usage, finish_reason = usage_of(body.get("usage")), choice.get("finish_reason")

    def failed(error: type[AttemptError], kind: FailureKind, why: str, reply: object) -> AttemptError:
        kept = plain(str(reply)) or None
        return error(kind, why, status=status, request_id=request_id, reply=kept, usage=usage.model_dump())

    if message.get("refusal"):
        raise failed(UnusableReply, "refusal", "the model refuses", message["refusal"])
    if finish_reason == "content_filter":
        raise failed(UnusableReply, "content_filter", "the server's content filter cut the reply", text)
    if finish_reason == "length":
        raise failed(UnusableReply, "truncated", "the reply was cut at the token limit; raise max_tokens", text)
    if finish_reason == "error":
        raise failed(TransientError, "not_an_answer", "the server broke off in the middle of the reply", text)
    if not text.strip():
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        if thoughts:
            why = "the reply holds reasoning and no answer; raise max_tokens"
            raise failed(UnusableReply, "only_reasoning", why, thoughts)
        raise failed(TransientError, "empty_answer", "the reply is empty", "")
    reason = None if finish_reason is None else mask.word(plain(str(finish_reason)))
    return Reply(
        text,
        None if function is None else str(function.get("name")),
        mask.word(plain(str(body.get("model") or ""))),
        reason,
        usage,
        request_id,
        status,
        headers,
        body,
    )


def plain(text: str) -> str:
    """A text without halves of surrogate pairs."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def usage_of(found: JsonValue) -> Usage:
    """Tokens as far as the server names them; a server that counts oddly does not cost the answer."""
    if not isinstance(found, dict):
        return Usage()
    inputs, outputs = found.get("prompt_tokens_details"), found.get("completion_tokens_details")
    return Usage(
        input_tokens=_count(found.get("prompt_tokens")),
        cached_tokens=_count(inputs.get("cached_tokens")) if isinstance(inputs, dict) else None,
        output_tokens=_count(found.get("completion_tokens")),
        reasoning_tokens=_count(outputs.get("reasoning_tokens")) if isinstance(outputs, dict) else None,
    )


def _count(value: JsonValue) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None  # true is an int to isinstance


def _call(message: dict[str, JsonValue]) -> dict[str, JsonValue] | None:
    """The first tool call of a message, when it is that of a function."""
    calls = message.get("tool_calls")
    call = _object(_list(calls)[0]) if calls else None
    return call if call is not None and call.get("type", "function") == "function" else None


def _joined(content: JsonValue) -> str:
    """The text of a message's content; some servers send it in parts."""
    if isinstance(content, list):
        parts = [_object(part) for part in content]
        return "".join(_text(part["text"]) for part in parts if part["type"] == "text")
    return "" if content is None else _text(content)


def _object(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
