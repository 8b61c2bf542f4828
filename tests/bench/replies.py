"""The bench's one family of prompts, and the bytes of the replies to them.

What a request asks for is found by searching its bytes (the field's name of the rewrite's schema, a list of tools),
never by parsing; a reply is a template with places for numbers.
"""

from __future__ import annotations

import json
from typing import Literal, TypeAlias

REWRITE_TOKENS, ANSWER_TOKENS = (420, 50), (140, 8)
"""Usage in each reply: input and output tokens, as they would be of these prompts."""
ANSWER = 25
_PROBED: dict[str, object] = {"name": "Jason", "age": 25}
_NOISE = (
    "The lid was painted green by a carpenter who is 62 years old and keeps 3 cats. I have a strong feeling that the "
    "answer is 30, and my brother thinks so too. The shop next door has 14 windows and sold 210 postcards last summer. "
    "Nobody in the village remembers when the road was built."
)
_CONTEXT = "Box {n} holds 5 rows of 4 apples, and 5 more apples lie on top of them."
_QUESTION = "How many apples are in box {n}?"

Kind: TypeAlias = Literal["rewrite", "answer", "probe"]
"""A probe is what curator sends first, to see whether the server knows schemas."""


def kind_of(body: bytes) -> Kind:
    """What a request asks for."""
    if b"user_query" in body:
        return "rewrite"
    return "probe" if b'"age"' in body else "answer"


def prompt(n: int) -> str:
    """The prompt of one row; its number stands in what a rewrite keeps."""
    return f"{_CONTEXT.format(n=n)} {_NOISE} {_QUESTION.format(n=n)}"


def cut(body: bytes, start: int, until: bytes) -> bytes:
    """What stands from there to the next such byte; 0 when that is no row's number or name."""
    found = body[start : body.find(until, start)]
    return found if 0 < len(found) <= 64 else b"0"


def tool_of(body: bytes) -> bytes:
    start = body.find(b'"name"', body.find(b'"tools"')) + len(b'"name"')
    return cut(body, body.find(b'"', start) + 1, b'"')


def template(kind: Kind, tool: bytes, digits: int) -> bytes:
    """A whole reply with places for number, further headers, number, and of a rewrite twice the row's number."""
    rewrite = kind == "rewrite"
    told: dict[str, object] = {"answer": ANSWER} if kind == "answer" else _PROBED
    if rewrite:
        told = {"relevant_context": _CONTEXT.format(n="<n>"), "user_query": _QUESTION.format(n="<n>")}
    message: dict[str, object] = {"role": "assistant", "content": json.dumps(told), "refusal": None}
    if tool:
        call = {"name": tool.decode(), "arguments": json.dumps(told)}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
    asked, written = REWRITE_TOKENS if rewrite else ANSWER_TOKENS
    usage = {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
    head = {"id": "chatcmpl-<id>", "object": "chat.completion", "created": 1_750_000_000, "model": "bench"}
    body = json.dumps(head | {"choices": [choice], "usage": usage}, separators=(",", ":")).encode()
    length = len(body) + 12 - len(b"<id>") + 2 * rewrite * (digits - len(b"<n>"))
    lines = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req-%012d\r\n"
    body = body.replace(b"<id>", b"%012d").replace(b"<n>", b"%b")
    return lines + b"content-length: " + str(length).encode() + b"\r\n%b\r\n" + body


def plain(status: int, body: bytes, extra: bytes = b"") -> bytes:
    lines = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n".encode()
    return lines + extra + b"\r\n" + body


def refusal(wait_s: int, extra: bytes) -> bytes:
    error = b'{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}'
    return plain(429, error, f"retry-after: {wait_s}\r\n".encode() + extra)
