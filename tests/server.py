"""A loopback chat-completions upstream that follows a fault plan, for tests and benches.

As a process: ``python -m tests.server PLAN.json [--port 0] [--seconds 300] [--parent]`` (``-``: the plan is the first
line of stdin) prints ``READY http://127.0.0.1:PORT/v1``. In a test: ``with Upstream(plan) as up: ... up.base_url``.
A request is a rewrite when its schema asks for ``relevant_context`` and ``user_query``, else an answer. Its markers are
the ``[[...]]`` of the last user message that has any; good replies repeat them, so each can be traced to its record.
The first rule that matches decides; no rule, or a reply without content of its own, means a good reply.
Invariant: all that `Stats` says is derived from the request rows, so a row and a count never disagree.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Stage = Literal["rewrite", "answer"]
JsonObject = dict[str, Any]
MARKER = re.compile(r"\[\[[A-Za-z0-9_.:-]+\]\]")
ALTERED = frozenset({"error", "body", "json", "content", "message", "finish_reason", "choices"})
REWRITE = {"relevant_context": "context", "user_query": "question?"}  # the fields and how a good one ends
PHRASES = {status.value: status.phrase for status in HTTPStatus}
OWN: tuple[Literal["json"], Literal["content"]] = ("json", "content")
MAX_DEPTH = 6


class When(TypedDict, total=False):
    """Which requests a rule is for; a key left out does not restrict. Request numbers start at 1 with each plan."""

    contains: str
    stage: Stage
    model: str
    from_request: int
    to_request: int
    every: int  # of the requests that fit all the above, each n-th


class Reply(TypedDict, total=False):
    """What one request gets; `{}` is a good reply. ``<markers>`` in `json` and `content` becomes the markers."""

    delay_s: float  # instead of the plan's latency_s
    hang_s: float  # nothing for so long, then the connection closes
    reset: bool  # TCP reset instead of a reply
    status: int
    error: object  # the body is {"error": this}; with status 200 too
    body: str  # the body as it is
    content_type: str
    json: object  # what stands where the structured output goes; text stays verbatim
    content: str | None  # the assistant's content, never a tool call
    message: JsonObject  # further message fields, laid over the others
    finish_reason: str | None
    choices: list[object]
    usage: JsonObject | None
    headers: dict[str, str]
    trickle: dict[Literal["every_s"], float]  # the body byte by byte
    cut: int  # so many bytes of the body, then close
    close: bool  # close after the reply without having said so
    good: bool  # whether Stats counts it as good; default: a whole 200 whose content is the server's own


class Rule(TypedDict, total=False):
    """Replies in turn: the k-th hit gets the k-th, counted for each record's markers unless `per_record` is false."""

    when: When
    replies: list[Reply]
    then: Literal["last", "good"]  # when the replies are used up; default last
    per_record: bool


class Limits(TypedDict, total=False):
    """More than this gets a 429; windows slide, and refused requests do not count against them."""

    max_in_flight: int
    per_second: int
    per_minute: int
    retry_after: str


class Script(TypedDict, total=False):
    """Exact good replies; the answer's cue is `answer_when`, else the script's own key or any text of its rewrite."""

    rewrite: object
    answer: object
    answer_when: str


class Plan(TypedDict, total=False):
    """How the upstream behaves; ``{}`` is a good one without latency."""

    rules: list[Rule]
    script: dict[str, Script]  # key: text in a user message
    latency_s: float | list[float]  # fixed, or [lo, hi] drawn with the seed
    limits: Limits
    down: list[list[float]]  # [from, to] seconds after the plan's first request: requests and due replies are reset
    rewrite_when: str  # text that marks a rewrite whose request has no schema
    keep_bodies: bool
    seed: int


def check_plan(plan: Plan) -> Plan:
    """Return the plan; raise ValueError for a key nobody reads, which would be a fault that silently never happens."""
    rules = plan.get("rules", [])
    parts: list[tuple[type, Iterable[Mapping[str, object]]]] = [(Plan, [plan]), (Rule, rules)]
    parts += [(When, [rule.get("when", {}) for rule in rules]), (Limits, [plan.get("limits", {})])]
    parts += [(Reply, [reply for rule in rules for reply in rule.get("replies", [])])]
    parts += [(Script, plan.get("script", {}).values())]
    for kind, found in parts:
        for part in found:
            if unknown := sorted(set(part) - set(kind.__annotations__)):
                message = f"{kind.__name__} has no {', '.join(unknown)}; it has {', '.join(kind.__annotations__)}"
                raise ValueError(message)
    return plan


@dataclass(slots=True)
class Ask:
    """One chat request, understood: what it wants, whose record it is, and the text rules look at."""

    body: JsonObject
    stage: Stage = "answer"
    markers: tuple[str, ...] = ()
    text: str = ""
    user_text: str = ""
    kind: Literal["text", "json", "tool"] = "text"
    tool: str = ""
    schema: JsonObject = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The record's markers as one text."""
        return " ".join(self.markers)

    @classmethod
    def read(cls, raw: bytes, rewrite_when: str | None) -> Ask:
        """Understand a request's body; raise ValueError if it is no chat request."""
        body = json.loads(raw)
        messages = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError("expected a JSON object with a list of messages")
        ask = cls(body)
        texts = [text_of(message) for message in messages]
        users = [text for text, message in zip(texts, messages, strict=True) if message.get("role") == "user"]
        ask.text, ask.user_text = "\n".join(texts), "\n".join(users)
        ask.markers = next((tuple(dict.fromkeys(found)) for text in users[::-1] if (found := MARKER.findall(text))), ())
        ask.read_shape()
        wanted = ask.schema.get("properties", {})
        if wanted.keys() >= REWRITE.keys() or (rewrite_when and rewrite_when in ask.text):
            ask.stage = "rewrite"
        return ask

    def read_shape(self) -> None:
        """Find out how the reply must look: a tool call, JSON (with or without a schema), or text."""
        tools, choice = self.body.get("tools"), self.body.get("tool_choice")
        if tools and choice != "none":
            forced = choice["function"]["name"] if isinstance(choice, dict) else None
            function = next((t["function"] for t in tools if t["function"]["name"] == forced), tools[0]["function"])
            self.kind, self.tool, self.schema = "tool", function["name"], function.get("parameters") or {}
        elif (shape := self.body.get("response_format") or {}).get("type") in {"json_schema", "json_object"}:
            told = (shape.get("json_schema") or {}).get("schema")
            self.kind, self.schema = "json", told or schema_in(self.text)
        self.schema = resolve(self.schema, self.schema)


def text_of(message: JsonObject) -> str:
    """All text of a message: its content, text parts, tool call arguments."""
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content or []]
    return "\n".join([*parts, *(str(call["function"]["arguments"]) for call in message.get("tool_calls") or [])])


def schema_in(text: str) -> JsonObject:
    """Find the first JSON schema of an object written out in a text, as prompts for plain JSON mode do; else empty."""
    for brace in re.finditer(r"\{", text):
        with suppress(ValueError):
            found: JsonObject = json.JSONDecoder().raw_decode(text, brace.start())[0]
            if isinstance(found.get("properties"), dict):
                return found
    return {}


def resolve(schema: JsonObject, root: JsonObject) -> JsonObject:
    """Follow a local ``$ref``; definitions stay reachable from what comes back."""
    while "$ref" in schema:
        target = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        schema = {"$defs": root.get("$defs", {}), **target}
    return schema


def fill(schema: JsonObject, root: JsonObject, words: Callable[[str], str], name: str = "", depth: int = 0) -> object:
    """Make a value that fits the schema: first enum value, 1, 1.5, true, no array items but those it must have."""
    schema = resolve(schema, root)
    options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if options:
        return fill(options[-1 if depth > MAX_DEPTH else 0], root, words, name, depth + 1)
    for key, value in (("const", schema.get("const")), ("enum", (schema.get("enum") or [None])[0])):
        if key in schema:
            return value
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {key: fill(part, root, words, key, depth + 1) for key, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [fill(schema.get("items", {}), root, words, name, depth + 1)] * schema.get("minItems", 0)
    if kind in {"integer", "number"}:
        value = 1 if kind == "integer" else 1.5
        return min(max(value, schema.get("minimum", value)), schema.get("maximum", value))
    return {"boolean": True, "null": None}.get(kind, words(name))


def good_payload(ask: Ask, script: Mapping[str, Script]) -> object:
    """What a well-behaved model says: the script's words, else a rewrite or answer that carries the markers."""
    for cue, lines in script.items():
        cues = [cue]
        if ask.stage == "answer":
            told = lines.get("rewrite")
            told_texts = [text for text in told.values() if isinstance(text, str)] if isinstance(told, dict) else []
            cues = [lines["answer_when"]] if "answer_when" in lines else [cue, *told_texts]
        if ask.stage in lines and any(text in ask.user_text for text in cues):
            return lines[ask.stage]
    rewrite = ask.stage == "rewrite"
    if ask.kind == "text":
        return f"{ask.said} via-rewrite text".strip() if rewrite else f"ANSWER {ask.said}".strip()
    schema = ask.schema or {"properties": {name: {} for name in (REWRITE if rewrite else ("answer",))}}
    if rewrite:
        return fill(schema, schema, lambda name: f"{ask.said} via-rewrite {REWRITE.get(name, name)}".strip())
    return fill(schema, schema, lambda _: f"ANSWER {ask.said}".strip())


def completion(ask: Ask, reply: Reply, script: Mapping[str, Script], number: int) -> JsonObject:
    """The chat.completion object of a reply, with usage reckoned at four characters a token."""
    own = next((reply[name] for name in OWN if name in reply), ...)
    payload = good_payload(ask, script) if own is ... else own
    text = payload if isinstance(payload, str) else "" if payload is None else json.dumps(payload, ensure_ascii=False)
    text = text.replace("<markers>", ask.said)
    message: JsonObject = {"role": "assistant", "content": None if payload is None else text}
    finish = "stop"
    if ask.kind == "tool" and "content" not in reply:
        call = {"id": f"call_{number}", "type": "function", "function": {"name": ask.tool, "arguments": text}}
        message |= {"content": None, "tool_calls": [call]}
        finish = "stop" if isinstance(ask.body.get("tool_choice"), dict) else "tool_calls"
    message |= reply.get("message", {})
    choice = {"index": 0, "finish_reason": reply.get("finish_reason", finish), "logprobs": None, "message": message}
    asked, told = len(ask.text) // 4, len(text) // 4 + 1
    usage = {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told}
    details = {"prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}}
    head = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": int(time.time())}
    head |= {"model": ask.body.get("model"), "choices": reply.get("choices", [choice])}
    return head | {"usage": reply["usage"] if "usage" in reply else usage | details}


def render(ask: Ask, reply: Reply, script: Mapping[str, Script], number: int) -> tuple[int, bytes]:
    """The status and the body of a reply."""
    status = reply.get("status", 200)
    if "body" in reply:
        return status, reply["body"].encode("utf-8", "surrogatepass")
    if "error" in reply or status >= HTTPStatus.BAD_REQUEST:
        return status, json.dumps({"error": reply.get("error", problem(f"status {status}"))}).encode()
    return status, json.dumps(completion(ask, reply, script, number)).encode()


def problem(message: str, kind: str = "error", code: str | None = None) -> JsonObject:
    """An error object as OpenAI writes it."""
    return {"message": message, "type": kind, "param": None, "code": code}


def head(status: int, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Status line and headers for a body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode()


class Window:
    """How many moments lie in the last `span_s` seconds, and the most there ever were."""

    def __init__(self, span_s: float) -> None:
        self.span_s, self.peak = span_s, 0
        self.times: deque[float] = deque()

    def count(self, now: float) -> int:
        """Forget what is too old and return how many are left."""
        while self.times and self.times[0] <= now - self.span_s:
            self.times.popleft()
        return len(self.times)

    def add(self, now: float) -> None:
        """Count one more."""
        self.times.append(now)
        self.peak = max(self.peak, self.count(now))


class Play:
    """A plan being played: its clock, its request number, and how often each rule was hit."""

    def __init__(self, plan: Plan) -> None:
        self.plan = check_plan(plan)
        self.count, self.began = 0, 0.0
        self.fits: Counter[int] = Counter()
        self.hits: Counter[tuple[int, tuple[str, ...]]] = Counter()
        self.random = random.Random(plan.get("seed", 0))  # noqa: S311 - latencies, no secrets
        limits = plan.get("limits", {})
        self.open_limit = limits.get("max_in_flight", sys.maxsize)
        self.windows = [(Window(1), limits.get("per_second")), (Window(60), limits.get("per_minute"))]

    def is_down(self, now: float) -> bool:
        """Whether the plan's outage covers this moment."""
        return any(start <= now - self.began < end for start, end in self.plan.get("down", ()))

    def latency_s(self) -> float:
        """The next reply's ordinary wait."""
        latency = self.plan.get("latency_s", 0.0)
        return self.random.uniform(*latency) if isinstance(latency, list) else latency

    def choose(self, ask: Ask, now: float, in_flight: int) -> Reply:
        """Decide what this request gets: outage, then limits, then the first rule that matches."""
        self.count += 1
        self.began = self.began or now
        if self.is_down(now):
            return {"reset": True, "delay_s": 0.0}
        if in_flight > self.open_limit or any(limit is not None and w.count(now) >= limit for w, limit in self.windows):
            wait = self.plan.get("limits", {}).get("retry_after")
            error = problem("Too many requests", "requests", "rate_limit_exceeded")
            return {"status": 429, "error": error, "delay_s": 0.0, "headers": {"retry-after": wait} if wait else {}}
        for window, limit in self.windows:
            if limit is not None:
                window.add(now)
        for index, rule in enumerate(self.plan.get("rules", ())):
            if self.matches(index, rule.get("when", {}), ask):
                return self.take(index, rule, ask)
        return {}

    def matches(self, index: int, when: When, ask: Ask) -> bool:
        """Whether a rule is for this request."""
        if "contains" in when and when["contains"] not in ask.text:
            return False
        model = ask.body.get("model")
        if when.get("stage", ask.stage) != ask.stage or when.get("model", model) != model:
            return False
        if not when.get("from_request", 1) <= self.count <= when.get("to_request", sys.maxsize):
            return False
        self.fits[index] += 1
        return self.fits[index] % when.get("every", 1) == 0

    def take(self, index: int, rule: Rule, ask: Ask) -> Reply:
        """The rule's next reply."""
        key = (index, ask.markers if rule.get("per_record", True) else ())
        hit, replies = self.hits[key], rule.get("replies", [])
        self.hits[key] += 1
        if hit < len(replies):
            return replies[hit]
        return {} if rule.get("then") == "good" or not replies else replies[-1]


@dataclass(slots=True)
class Row:
    """One chat request as it was received and what became of it; `t` is seconds since the first one."""

    n: int
    t: float
    stage: Stage
    markers: tuple[str, ...]
    model: str | None = None
    messages: int = 0
    chars: int = 0
    parameters: list[str] = field(default_factory=list)  # names of all members but model and messages
    key: str | None = None  # see key_digest
    status: int | str | None = None  # None: still open; else the status sent, or reset, hang, cut, gone (client left)
    good: bool = False
    body: JsonObject | None = None


@dataclass(frozen=True)
class Stats:
    """What the upstream saw since it started or was last reset. Peaks are of sliding windows over arrivals."""

    requests: int
    answered: int  # good 200 replies handed to the system in full
    in_flight: int
    max_in_flight: int
    connections: int  # those that carried a chat request
    max_per_second: int
    max_per_minute_window: int
    first_at: float | None  # Unix time
    last_at: float | None
    without_key: int
    keys: list[str]  # see key_digest
    models: list[str]
    by_stage: dict[str, int]
    by_status: dict[str, int]  # "200", "429", ..., "reset", "hang", "cut", "gone", "open"
    per_record: dict[str, dict[str, int]]  # good replies: {"[[a-1]]": {"rewrite": 1, "answer": 1}}


def key_digest(key: str) -> str:
    """How `Stats.keys` shows an API key: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


class Book:
    """The rows since the last reset, and the few peaks that rows do not tell."""

    def __init__(self, numbers: Iterator[int], in_flight: int = 0) -> None:
        self.rows: list[Row] = []
        self.numbers = numbers
        self.in_flight = self.max_in_flight = in_flight
        self.connections: set[int] = set()
        self.second, self.minute = Window(1), Window(60)
        self.began, self.first_at, self.last_at = 0.0, 0.0, 0.0

    def enter(self, ask: Ask, authorization: bytes, now: float, connection: int) -> Row:
        """Write a request down as open."""
        if not self.rows:
            self.began, self.first_at = now, time.time()
        secret = authorization.decode("latin-1").removeprefix("Bearer ")
        row = Row(next(self.numbers), round(now - self.began, 6), ask.stage, ask.markers)
        row.model, row.messages, row.chars = ask.body.get("model"), len(ask.body.get("messages", ())), len(ask.text)
        row.parameters = sorted(ask.body.keys() - {"model", "messages"})
        row.key = key_digest(secret) if secret else None
        self.last_at = time.time()
        self.rows.append(row)
        self.connections.add(connection)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.second.add(now)
        self.minute.add(now)
        return row

    def stats(self) -> Stats:
        """Sum the rows up."""
        records: dict[str, dict[str, int]] = {}
        for row in self.rows:
            for marker in row.markers:
                records.setdefault(marker, {"rewrite": 0, "answer": 0})[row.stage] += row.good
        return Stats(
            requests=len(self.rows),
            answered=sum(row.good for row in self.rows),
            in_flight=self.in_flight,
            max_in_flight=self.max_in_flight,
            connections=len(self.connections),
            max_per_second=self.second.peak,
            max_per_minute_window=self.minute.peak,
            first_at=self.first_at or None,
            last_at=self.last_at or None,
            without_key=sum(row.key is None for row in self.rows),
            keys=sorted({row.key for row in self.rows if row.key}),
            models=sorted({str(row.model) for row in self.rows}),
            by_stage=dict(Counter(row.stage for row in self.rows)),
            by_status=dict(Counter(str(row.status or "open") for row in self.rows)),
            per_record=records,
        )


class Site:
    """What all connections share."""

    def __init__(self, plan: Plan) -> None:
        self.play, self.book, self.connections = Play(plan), Book(count(1)), 0

    def control(self, line: str, raw: bytes) -> tuple[int, object]:
        """Answer everything that is not a chat request."""
        match line:
            case "GET /v1/models":
                return 200, {"object": "list", "data": [{"id": "test-model", "object": "model", "owned_by": "tests"}]}
            case "GET /__stats":
                return 200, vars(self.book.stats())
            case "GET /__requests":
                return 200, [{name: getattr(row, name) for name in Row.__slots__} for row in self.book.rows]
            case "POST /__reset":
                self.book = Book(self.book.numbers, self.book.in_flight)
            case "POST /__plan":
                try:
                    self.play = Play(json.loads(raw))
                except ValueError as error:
                    return 400, str(error)
            case _:
                return 404, {"error": problem(f"no route {line}", "invalid_request_error")}
        return 200, "done"


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection, one request at a time; bytes that come early wait in the buffer."""

    transport: asyncio.Transport

    def __init__(self, site: Site) -> None:
        site.connections += 1
        self.site, self.number, self.loop = site, site.connections, asyncio.get_running_loop()
        self.buffer, self.line, self.headers = bytearray(), "", dict[bytes, bytes]()
        self.row: Row | None = None
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """End the open request, whatever the reason: its client is gone."""
        del exc
        if self.timer:
            self.timer.cancel()
        self.finish("gone")

    def data_received(self, data: bytes) -> None:
        """Serve what is complete."""
        self.buffer += data
        self.pump()

    def pump(self) -> None:
        """Serve what the buffer holds until a request is incomplete or has to wait."""
        while self.row is None and (self.line or b"\r\n\r\n" in self.buffer) and not self.transport.is_closing():
            if not self.line:
                self.read_head()
            length = int(self.headers.get(b"content-length", 0))
            if len(self.buffer) < length:
                return
            raw, line, self.line = bytes(self.buffer[:length]), self.line, ""
            del self.buffer[:length]
            if line.startswith("POST ") and line.endswith("/chat/completions"):
                self.chat(raw)
            else:
                status, answer = self.site.control(line, raw)
                self.transport.write(head(status, body := json.dumps(answer).encode(), {}) + body)
                self.close_if(asked=False)

    def read_head(self) -> None:
        """Take request line and headers off the buffer; a body without a length is not read."""
        whole, _, rest = self.buffer.partition(b"\r\n\r\n")
        first, *lines = bytes(whole).split(b"\r\n")
        self.buffer, self.line = rest, first.decode("latin-1").rpartition(" ")[0]
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if b"expect" in self.headers:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def chat(self, raw: bytes) -> None:
        """Write the request down, choose its reply and send it now or later."""
        site, now = self.site, time.monotonic()
        plan = site.play.plan
        try:
            ask, reply = Ask.read(raw, plan.get("rewrite_when")), None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            ask, reply = Ask({}), Reply(status=400, error=problem(f"bad request: {error!r}", "invalid_request_error"))
        self.row = site.book.enter(ask, self.headers.get(b"authorization", b""), now, self.number)
        self.row.body = ask.body if plan.get("keep_bodies") else None
        reply = reply or site.play.choose(ask, now, site.book.in_flight)
        wait_s = reply.get("delay_s", site.play.latency_s()) + reply.get("hang_s", 0.0)
        if wait_s > 0:
            self.later(wait_s, lambda: self.reply(ask, reply))
        else:
            self.reply(ask, reply)

    def later(self, wait_s: float, act: Callable[[], None]) -> None:
        """Do something after a wait, then look at what came meanwhile."""

        def wake() -> None:
            act()
            self.pump()

        self.timer = self.loop.call_later(wait_s, wake)

    def reply(self, ask: Ask, reply: Reply) -> None:
        """Send the reply, or do what the plan wants instead."""
        assert self.row
        play = self.site.play
        if reply.get("reset") or play.is_down(time.monotonic()):
            linger_zero = struct.pack("ii", 1, 0)  # closing then sends RST
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
            self.transport.abort()
            self.finish("reset")
        elif "hang_s" in reply:
            self.transport.close()
            self.finish("hang")
        else:
            status, body = render(ask, reply, play.plan.get("script", {}), self.row.n)
            kind = {"content-type": reply.get("content_type", "application/json"), "x-request-id": f"req-{self.row.n}"}
            first = head(status, body, kind | reply.get("headers", {}))
            kept = body[: reply.get("cut")]
            self.send(first, kept, reply, status if len(kept) == len(body) else "cut")

    def send(self, first: bytes, body: bytes, reply: Reply, status: int | str) -> None:
        """Send the body, whole or byte by byte, and end the request."""
        if body and "trickle" in reply:
            self.transport.write(first + body[:1])
            self.later(reply["trickle"]["every_s"], lambda: self.send(b"", body[1:], reply, status))
            return
        self.transport.write(first + body)
        self.finish(status, good=reply.get("good", status == HTTPStatus.OK and not ALTERED & reply.keys()))
        self.close_if(asked=reply.get("close", False) or status == "cut")

    def close_if(self, *, asked: bool) -> None:
        """Close once all is sent, if the plan or the client asked for it."""
        if asked or self.headers.get(b"connection", b"").lower() == b"close":
            self.transport.close()

    def finish(self, status: int | str, *, good: bool = False) -> None:
        """Write down how the open request ended, if there is one."""
        if self.row:
            self.row.status, self.row.good, self.row = status, good, None
            self.site.book.in_flight -= 1


async def serve(plan: Plan, port: int, seconds: float, *, parent: bool) -> None:
    """Serve until the time is up, a signal comes, or (with `parent`) stdin closes."""
    site, loop, done = Site(plan), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    if parent:
        loop.add_reader(sys.stdin.fileno(), done.set)
    server = await loop.create_server(lambda: Connection(site), "127.0.0.1", port, backlog=4096)
    sys.stdout.write(f"READY http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1\n")
    sys.stdout.flush()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), seconds)


class Upstream:
    """The server as a child process, for a with statement; it dies with the block, the parent, or after `seconds`."""

    def __init__(self, plan: Plan | None = None, *, port: int = 0, seconds: float = 300) -> None:
        self.plan = check_plan(plan or {})
        self.command = [sys.executable, "-m", __name__, "-", "--parent", f"--port={port}", f"--seconds={seconds}"]
        self.base_url = ""

    def __enter__(self) -> Self:
        """Start the process and wait until it listens."""
        root = Path(__file__).resolve().parents[1]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, cwd=root, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(self.plan).encode() + b"\n")
        self.process.stdin.flush()
        ready = self.process.stdout.readline().decode().split()
        if not ready:
            message = f"the upstream did not start: exit status {self.process.wait()}"
            raise RuntimeError(message)
        self.base_url = ready[1]
        return self

    def __exit__(self, *exc: object) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401
        """Send a control request; raise ValueError with the upstream's words if it is refused."""
        with closing(http.client.HTTPConnection(self.base_url.split("/")[2], timeout=60)) as connection:
            connection.request(method, path, json.dumps(body))
            response = connection.getresponse()
            answer = json.load(response)
        if response.status != HTTPStatus.OK:
            raise ValueError(answer)
        return answer

    def stats(self) -> Stats:
        """What it saw up to now."""
        return Stats(**self.ask("GET", "/__stats"))

    def requests(self) -> list[JsonObject]:
        """All rows since the start or the last reset; see `Row` for the names."""
        rows: list[JsonObject] = self.ask("GET", "/__requests")
        return rows

    def replan(self, plan: Plan) -> None:
        """Swap the plan; its request number, clock and hits begin anew, the statistics go on."""
        self.ask("POST", "/__plan", check_plan(plan))

    def reset_stats(self) -> None:
        """Forget all rows and peaks; the plan goes on."""
        self.ask("POST", "/__reset")

    def wait_until(self, true: Callable[[Stats], bool], within_s: float = 10) -> Stats:
        """Look every 10 ms until the statistics fit and return them; raise TimeoutError if they never do."""
        end = time.monotonic() + within_s
        while not true(stats := self.stats()):
            if time.monotonic() > end:
                raise TimeoutError(stats)
            time.sleep(0.01)
        return stats


def main() -> None:
    """Run the server as the command line says."""
    parser = argparse.ArgumentParser(description="A loopback chat-completions upstream that follows a fault plan.")
    parser.add_argument("plan", help="a JSON file, or - for the first line of stdin")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--seconds", type=float, default=300, help="how long to serve at most")
    parser.add_argument("--parent", action="store_true", help="end when stdin closes")
    args = parser.parse_args()
    plan = json.loads(sys.stdin.readline() if args.plan == "-" else Path(args.plan).read_text("utf-8"))
    asyncio.run(serve(check_plan(plan), args.port, args.seconds, parent=args.parent))


if __name__ == "__main__":
    main()
