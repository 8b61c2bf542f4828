"""Asks for a reply of one shape: schema, parsing, and re-asks with the reason why a reply does not fit.

Knows instructor. Invariants: every request goes through the `send` that the caller hands in, so re-asks pass limiter,
retry and audit like any other; the user's text is never rendered (instructor's `context` stays unset). What instructor
would send first is built once, and a reply that fits needs it no more; one that does not is handed to it as if it had
asked itself, and it re-asks.
"""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import instructor
from instructor.core.exceptions import InstructorRetryException, ResponseParsingError
from instructor.core.hooks import HookName, Hooks
from pydantic import BaseModel, JsonValue, ValidationError

from s2a_batch.client import as_completion, strict_schema
from s2a_batch.errors import RecordError, UnusableReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from openai.types.chat import ChatCompletion

    from s2a_batch.client import Request
    from s2a_batch.completion import Reply
    from s2a_batch.errors import FailureKind
    from s2a_batch.stagejob import Mode

_MODES: Final[dict[str, instructor.Mode]] = {
    "json_schema": instructor.Mode.JSON_SCHEMA,
    "tools": instructor.Mode.TOOLS,
    "json": instructor.Mode.JSON,
    "md_json": instructor.Mode.MD_JSON,
}
_SHORT: Final = (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS)  # the others put the schema into the messages
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_THINKING: Final = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE_OPENS: Final = re.compile(r"```(?:json)?\s*(?=\{)")
_FENCE_CLOSES: Final = re.compile(r"\}\s*```")


class Asker:
    """Asks for a reply of one shape.

    Args:
        model: Shape of the reply; None for plain text.
        mode: How the shape is asked for.
        strict: Ask the server to hold the schema strictly.
        max_chars: Bound on each text field in the schema.
    """

    def __init__(self, model: type[BaseModel] | None, *, mode: Mode, strict: bool, max_chars: int | None) -> None:
        self._model = None if model is None else instructor.response_schema(model)
        self._mode = _MODES[mode]
        self._shape = {} if model is None else _shape(model, self._mode, strict=strict, max_chars=max_chars)
        self._is_short = self._mode in _SHORT
        self._ask = cast("Callable[..., Awaitable[BaseModel]]", instructor.patch(create=self._create, mode=self._mode))

    async def ask(
        self,
        send: Callable[[Request], Awaitable[Reply]],
        messages: list[dict[str, str]],
        *,
        reasks: int,
        on_invalid: Callable[[FailureKind, str], None],
    ) -> BaseModel | str:
        """The reply as the model's instance, or as text when there is no model.

        Args:
            send: Sends one request; called anew for each re-ask.
            messages: As they go out first.
            reasks: Further attempts that tell the model why its reply does not fit.
            on_invalid: Told of each reply that does not fit: the reason's code, and why.

        Raises:
            RecordError: No reply fitted.
            S2AError: Whatever `send` raises, as it is.
        """
        if self._model is None:
            reply = await send({"messages": [dict(message) for message in messages]})
            return self._spoken(reply.text, on_invalid)
        first: Reply | None = None
        if self._is_short:
            first = await send({"messages": [dict(message) for message in messages], **self._shape})
            if (found := self._fitting(first)) is not None:
                return found
        return await self._instructed(send, messages, first, reasks=reasks, on_invalid=on_invalid)

    def _fitting(self, reply: Reply) -> BaseModel | None:
        """The model's instance of a reply that fits, judged as instructor does."""
        if self._model is None or (reply.tool is None) is (self._mode is instructor.Mode.TOOLS):
            return None
        try:
            return self._model.model_validate_json(_json_text(reply.text), strict=False)
        except Exception:  # noqa: BLE001  a validator of the user's own class may raise anything; instructor tells it
            return None

    async def _instructed(
        self,
        send: Callable[[Request], Awaitable[Reply]],
        messages: list[dict[str, str]],
        first: Reply | None,
        *,
        reasks: int,
        on_invalid: Callable[[FailureKind, str], None],
    ) -> BaseModel:
        """Instructor's way, from a first reply that did not fit, or from the first request."""
        replies = [] if first is None else [first]

        async def next_reply(request: Request) -> Reply:
            return replies.pop() if replies else await send(request)

        reasons: list[Exception] = []

        def note(error: Exception, **_: object) -> None:
            reasons.append(error)
            on_invalid("invalid_reply", _reason(error))

        broken: list[Exception] = []
        hooks = Hooks()
        hooks.on(HookName.PARSE_ERROR, note)
        hooks.on(HookName.COMPLETION_ERROR, lambda error, **_: broken.append(error))
        try:
            return await self._ask(
                response_model=self._model,
                messages=messages,
                max_retries=reasks,
                strict=False,
                hooks=hooks,
                send=next_reply,
            )
        except InstructorRetryException as error:
            if broken:
                raise broken[-1] from None
            if not reasons and isinstance(error.__cause__, Exception):
                note(error.__cause__)
            last = reasons[-1] if reasons else error
            raise RecordError(_kind(last), f"the reply does not fit: {_reason(last)}") from None

    def _spoken(self, text: str, on_invalid: Callable[[FailureKind, str], None]) -> str:
        """A plain reply without the thinking in front of it; with nothing behind the thinking it is no answer."""
        found = _THINKING.sub("", text, count=1)
        if not found.strip():
            why = "the reply holds reasoning and no answer; raise max_tokens"
            on_invalid("only_reasoning", why)
            raise UnusableReply("only_reasoning", why, reply=text)
        return text if found == text else found.lstrip()

    async def _create(self, send: Callable[[Request], Awaitable[Reply]], **request: JsonValue) -> ChatCompletion:
        """What instructor takes for the SDK: the request with our schema, the reply with its text cleaned."""
        reply = await send({**request, **self._shape})
        return as_completion(reply, _json_text(reply.text))


def _shape(model: type[BaseModel], mode: instructor.Mode, *, strict: bool, max_chars: int | None) -> Request:
    """The request's part that asks for the shape, built once; {} where instructor puts the schema into the prompt."""
    schema: dict[str, JsonValue]
    schema = strict_schema(model) if strict else model.model_json_schema()
    if max_chars is not None:
        _bound(schema, max_chars)
    name = model.__name__
    if mode is instructor.Mode.JSON_SCHEMA:
        wrapped: JsonValue = {"name": name, "strict": strict, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": wrapped}}
    if mode is instructor.Mode.TOOLS:
        function: JsonValue = {"name": name, "strict": strict, "parameters": schema}
        forced: JsonValue = {"type": "function", "function": {"name": name}}
        return {"tools": [{"type": "function", "function": function}], "tool_choice": forced}
    return {}


def _bound(schema: JsonValue, max_chars: int) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "string" and not schema.keys() & {"maxLength", "enum", "const", "format"}:
            schema["maxLength"] = max_chars
        for part in schema.values():
            _bound(part, max_chars)
    elif isinstance(schema, list):
        for part in schema:
            _bound(part, max_chars)


def _json_text(text: str) -> str:
    """The JSON in a reply: without thinking and code fences, and without halves of surrogate pairs."""
    text = _THINKING.sub("", text) if "<think>" in text else text
    if not text.lstrip().startswith("{"):
        text = _fenced(text)
    if "\\ud" in text.lower():
        try:
            text = json.dumps(json.loads(text), ensure_ascii=False)
        except (ValueError, RecursionError):
            return text
    return _SURROGATES.sub("\ufffd", text)


def _fenced(text: str) -> str:
    """What stands between the first opening and the last closing fence; two searches, for one is quadratic."""
    opens = _FENCE_OPENS.search(text)
    closes = list(_FENCE_CLOSES.finditer(text, opens.end())) if opens is not None else []
    return text[opens.end() : closes[-1].start() + 1] if opens is not None and closes else text


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'reply'}: {e['msg']}" for e in error.errors()[:3])[:300]
    return str(error)[:300] if isinstance(error, ResponseParsingError) else _raised(error)


def _raised(error: Exception) -> str:
    """What a validator of the user's own class raised, and where; its text may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name} (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}{where}, raised by the answer's class"


def _kind(error: Exception) -> FailureKind:
    if isinstance(error, ValidationError) and any(e["type"] == "empty_rewrite" for e in error.errors()):
        return "empty_rewrite"
    return "invalid_reply"
