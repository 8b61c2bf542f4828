"""Result lines as OpenTelemetry's spans, by the GenAI semantic conventions.

Knows opentelemetry, of which nothing global and no exporter is used: those read some forty variables of the environment
that no job names. Invariants: one trace a record, a span a stage, and one a request with the times it had; no text of a
prompt or a reply unless asked for; ids follow from the record, so that what is sent twice is the same twice.
"""

from __future__ import annotations

import hashlib
import json
import socket
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from pydantic_core import from_json

from s2a_batch import __version__
from s2a_batch.job import OPENAI_URL, is_embedded
from s2a_batch.watching.histograms import Histograms, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.job import Job
    from s2a_batch.stagejob import StageJob

_Json = dict[str, Any]
SCOPE: Final = InstrumentationScope("s2a_batch", __version__)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NANO: Final = 1_000_000_000
_PROVIDERS: Final = {
    "api.anthropic.com": "anthropic",
    "amazonaws.com": "aws.bedrock",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
}
"""By the end of the host's name; all others speak as OpenAI does, and are called so."""
_STAGES: Final = ("rewrite", "answer", "baseline")
_PARAMETERS: Final = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
}
_USAGE: Final = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}


class Traces:
    """Turns result lines into what an OTLP/HTTP collector takes.

    Args:
        job: Names the endpoints.
        name: The job's name.
        content: Also the messages.

    Attributes:
        histograms: Of all requests that were made into spans.
    """

    def __init__(self, job: Job, name: str, *, content: bool) -> None:
        self._places = {stage: place_of(table) for stage, table in job.stages().items()}
        run = str(job.output).encode("utf-8", "backslashreplace").decode()
        self._record: dict[str, Value] = {"s2a.job": name, "s2a.run": run}
        self._content = content
        self._resource = Resource(
            {"service.name": "s2a-batch", "service.version": __version__, "host.name": socket.gethostname()}
        )
        self.histograms = Histograms(name, self._resource, SCOPE)

    def spans(self, lines: list[bytes]) -> bytes:
        """The records of these lines, as the body of a request to /v1/traces; their requests are counted."""
        found = [span for line in lines for span in self._of_line(line)]
        return bytes(encode_spans(found).SerializeToString())

    # --- one record

    def _of_line(self, line: bytes) -> Iterator[ReadableSpan]:
        found: _Json = from_json(line)
        ids = _Ids(f"{found['key']} {found['started_at']}")
        root, start = ids.next(), _nanoseconds(found["started_at"])
        end = start + int(found["seconds"] * _NANO)
        for name in _STAGES:
            audit = found["stages"].get(name)
            if audit is None or audit["borrowed"] or not audit["attempts"]:
                continue
            stage = ids.next()
            raw = found["rewrite"]["raw"] if name == "rewrite" and found["rewrite"] is not None else audit["raw"]
            requests = [
                self._request(name, audit, attempt, (ids.next(), stage), raw if self._content else None)
                for attempt in audit["attempts"]
            ]
            begun, ended = min(span.start_time or 0 for span in requests), max(span.end_time or 0 for span in requests)
            fault = found["error"] if found["error"] is not None and found["error"]["stage"] == name else None
            attributes: dict[str, Value] = {"s2a.stage": name, "s2a.prompt_version": audit["prompt_version"]}
            yield self._span(name, stage, root, (begun, ended), attributes, fault)
            yield from requests
            end = max(end, ended)
        about: dict[str, Value] = {"s2a.key": found["key"], "s2a.line": found["line"], "s2a.status": found["status"]}
        if found["policy"] is not None:
            about["s2a.policy"] = found["policy"]
        if found["checks"]:
            about["s2a.checks"] = tuple(check["name"] for check in found["checks"])
        yield self._span("record", root, None, (start, end), self._record | about, found["error"])

    def _request(
        self, stage: str, audit: _Json, attempt: _Json, ids: tuple[SpanContext, SpanContext], raw: str | None
    ) -> ReadableSpan:
        place = self._places["rewrite" if stage == "rewrite" else "answer"]
        start, fault = _nanoseconds(attempt["started"]), attempt["error"]
        attributes: dict[str, Value] = {**place, "gen_ai.request.model": audit["model"]}
        if attempt["model"] is not None:
            attributes["gen_ai.response.model"] = attempt["model"]
        self.histograms.count(attributes, attempt)
        sent = audit["parameters"]
        attributes |= {attribute: sent[name] for name, attribute in _PARAMETERS.items() if sent.get(name) is not None}
        usage = attempt["usage"] or {}
        attributes |= {attribute: usage[name] for name, attribute in _USAGE.items() if usage.get(name) is not None}
        if attempt["finish_reason"] is not None:
            attributes["gen_ai.response.finish_reasons"] = (attempt["finish_reason"],)
        if attempt["status"] is not None:
            attributes["http.response.status_code"] = attempt["status"]
        if attempt["request_id"] is not None:
            attributes["s2a.request_id"] = attempt["request_id"]
        attributes |= {"s2a.stage": stage, "s2a.attempt": attempt["n"], "s2a.waited_s": attempt["waited_s"]}
        if attempt["reask"]:
            attributes["s2a.reask"] = True
        if self._content:
            attributes |= _content(audit, attempt, raw)
        times = (start, start + int(attempt["seconds"] * _NANO))
        return self._span(f"chat {audit['model']}", *ids, times, attributes, fault, SpanKind.CLIENT)

    def _span(  # noqa: PLR0913, PLR0917  a span's parts
        self,
        name: str,
        own: SpanContext,
        parent: SpanContext | None,
        times: tuple[int, int],
        attributes: dict[str, Value],
        fault: _Json | None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> ReadableSpan:
        if fault is not None:
            attributes = attributes | {"error.type": fault["kind"]}
        return ReadableSpan(
            name,
            own,
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=_OK if fault is None else _FAILED,
            start_time=times[0],
            end_time=times[1],
            instrumentation_scope=SCOPE,
        )


class _Ids:
    """The contexts of one trace's spans, all made of the record's name."""

    def __init__(self, name: str) -> None:
        digest = hashlib.blake2b(name.encode(), digest_size=24).digest()
        self._trace = int.from_bytes(digest[:16]) or 1
        self._span = int.from_bytes(digest[16:]) >> 1  # never wraps

    def next(self) -> SpanContext:
        self._span += 1
        return SpanContext(self._trace, self._span, is_remote=False, trace_flags=_SAMPLED)


_OK: Final = Status()
_FAILED: Final = Status(StatusCode.ERROR)


def _nanoseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1_000_000) * 1_000


def place_of(stage: StageJob) -> dict[str, Value]:
    """Where a stage's requests go: host and port alone, as its address may hold a login."""
    found: dict[str, Value] = {"gen_ai.operation.name": "chat"}
    if is_embedded(stage):
        return found | {"gen_ai.provider.name": "llama_cpp"}
    parts = urlsplit(stage.base_url or OPENAI_URL)
    host = parts.hostname or ""
    provider = next((name for end, name in _PROVIDERS.items() if f".{host}".endswith(f".{end}")), "openai")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return found | {"gen_ai.provider.name": provider, "server.address": host, "server.port": port}


def _content(audit: _Json, attempt: _Json, raw: str | None) -> dict[str, Value]:
    """What was sent, where the file has it (of a re-ask it has not), and what came back."""
    found: dict[str, Value] = {}
    if audit["messages"] is not None and not attempt["reask"]:
        sent = [_message(message["role"], message["content"]) for message in audit["messages"]]
        found["gen_ai.input.messages"] = json.dumps(sent, ensure_ascii=False)
    reply = raw if attempt["error"] is None else attempt["reply"]
    if reply is not None:
        message = _message("assistant", reply) | {"finish_reason": attempt["finish_reason"] or "error"}
        found["gen_ai.output.messages"] = json.dumps([message], ensure_ascii=False)
    return found


def _message(role: str, text: str) -> _Json:
    return {"role": role, "parts": [{"type": "text", "content": text}]}
