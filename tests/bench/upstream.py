"""A lean chat-completions upstream on loopback for benches: it must cost little beside the client that is measured.

``python -m tests.bench.upstream [options]`` prints one JSON line with its base_url, serves until its time is up or its
parent is gone, and tells what it saw at ``GET /stats``. Standard library alone, with uvloop when that is there.
Invariant: pipelined requests are answered in their order only without latency or with a fixed one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from tests.bench.replies import ANSWER_TOKENS, REWRITE_TOKENS, cut, kind_of, plain, refusal, template, tool_of
from tests.bench.windows import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.replies import Kind

LARGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Behaviour:
    """How the upstream behaves.

    Attributes:
        latency: From a request to its reply: "0.2", "uniform:LOW:HIGH" or "lognormal:MEDIAN:SIGMA"; seconds.
        requests_per_minute: None: no limit. Likewise `tokens_per_minute`.
        enforced_s: Of the two windows, 1 and 60 seconds, the one whose excess is refused; both are counted.
        share_500: Share of the requests that get a 500; likewise of replies that are no JSON, and of reset connections.
        headers: Send x-ratelimit-* headers with each reply.
    """

    latency: str = "0"
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    enforced_s: int = 1
    share_500: float = 0.0
    share_bad_json: float = 0.0
    share_reset: float = 0.0
    headers: bool = False
    seed: int = 0

    def waits(self) -> Callable[[], float]:
        """Draws one latency after the other."""
        kind, *given = self.latency.split(":")
        numbers = [float(number) for number in given]
        rng = random.Random(self.seed)  # noqa: S311  latencies, no secrets
        if kind == "uniform":
            return lambda: rng.uniform(numbers[0], numbers[1])
        if kind == "lognormal":
            return lambda: rng.lognormvariate(math.log(numbers[0]), numbers[1])
        fixed = float(kind)
        return lambda: fixed


@dataclass
class Seen:
    """What the upstream saw; moments are of the system-wide monotonic clock, None before the first."""

    requests: int = 0
    served: int = 0
    rewrites: int = 0
    refused: int = 0
    failed: int = 0
    gone: int = 0
    connections: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    waited_s: float = 0.0
    first_at: float | None = None
    last_at: float | None = None
    windows: dict[str, dict[str, float]] = field(default_factory=dict)
    cpu_s: float = 0.0


class Upstream:
    """Answers requests; one for all connections."""

    def __init__(self, how: Behaviour, loop: asyncio.AbstractEventLoop) -> None:
        self.how, self.seen = how, Seen()
        self._loop, self._wait = loop, how.waits()
        self._limits = None
        if how.requests_per_minute or how.tokens_per_minute:
            self._limits = Limits(how.requests_per_minute, how.tokens_per_minute, how.enforced_s)
        self._started_cpu_s = time.process_time()
        self._faulty = how.share_500 + how.share_bad_json + how.share_reset > 0
        self._random = random.Random(how.seed + 1)  # noqa: S311  faults, no secrets
        self._templates: dict[tuple[Kind, bytes, int], bytes] = {}

    def stats(self) -> dict[str, object]:
        """What was seen so far, with the process's own CPU seconds since its start."""
        if self._limits is not None:
            found = self._limits.windows.items()
            self.seen.windows = {
                name: {"violations": w.violations, "peak": w.peak, "most": w.most} for name, w in found
            }
        self.seen.cpu_s = time.process_time() - self._started_cpu_s
        return dict(vars(self.seen))

    def chat(self, transport: asyncio.Transport, body: bytes) -> None:
        """Answer one chat request, now or later."""
        seen, now = self.seen, time.monotonic()
        seen.requests += 1
        if seen.first_at is None:
            seen.first_at = now
        kind = kind_of(body)
        if self._limits is not None:
            wait = self._limits.refusal_s(now, sum(REWRITE_TOKENS if kind == "rewrite" else ANSWER_TOKENS))
            if wait:
                seen.refused += 1
                transport.write(refusal(wait, self._extra()))
                return
        if self._faulty and self._fault(transport):
            return
        seen.rewrites += kind == "rewrite"
        seen.in_flight += 1
        seen.max_in_flight = max(seen.max_in_flight, seen.in_flight)
        reply = self._reply(body, kind)
        latency = self._wait()
        if latency > 0:
            seen.waited_s += latency
            self._loop.call_later(latency, self._send, transport, reply)
        else:
            self._send(transport, reply)

    def _send(self, transport: asyncio.Transport, reply: bytes) -> None:
        seen = self.seen
        seen.in_flight -= 1
        if transport.is_closing():
            seen.gone += 1
            return
        seen.served += 1
        seen.last_at = time.monotonic()
        transport.write(reply)

    def _reply(self, body: bytes, kind: Kind) -> bytes:
        rewrite = kind == "rewrite"
        number = cut(body, body.rfind(b"Box ") + 4, b" ") if rewrite else b""
        tool = tool_of(body) if b'"tools"' in body else b""
        key = kind, tool, len(number)
        made = self._templates.get(key)
        if made is None:
            made = self._templates[key] = template(*key)
        n = self.seen.requests
        extra = self._extra()
        return made % ((n, extra, n, number, number) if rewrite else (n, extra, n))

    def _extra(self) -> bytes:
        return self._limits.headers() if self.how.headers and self._limits is not None else b""

    def _fault(self, transport: asyncio.Transport) -> bool:
        drawn, how = self._random.random(), self.how
        if drawn < how.share_500:
            transport.write(plain(500, b'{"error":{"message":"broken","type":"server_error"}}'))
        elif drawn < how.share_500 + how.share_bad_json:
            transport.write(plain(200, b'{"id":"chatcmpl-0","choices":[{"mess'))
        elif drawn < how.share_500 + how.share_bad_json + how.share_reset:
            transport.abort()
        else:
            return False
        self.seen.failed += 1
        return True


class Connection(asyncio.Protocol):
    """Cuts a connection's bytes into requests."""

    __slots__ = ("_rest", "_transport", "_upstream")

    def __init__(self, upstream: Upstream) -> None:
        self._upstream, self._rest = upstream, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to write."""
        self._transport = cast("asyncio.Transport", transport)
        self._upstream.seen.connections += 1

    def data_received(self, data: bytes) -> None:
        """Answer each complete request and keep the rest."""
        data = self._rest + data if self._rest else data
        while (end := data.find(b"\r\n\r\n") + 4) > 3:
            head = data[:end].lower()
            at = head.find(b"content-length:")
            stop = end if at < 0 else end + int(head[at + 15 : head.index(b"\r", at)])
            if len(data) < stop:
                break
            if head.find(b"/chat/completions", 0, 100) > 0:
                self._upstream.chat(self._transport, data[end:stop])
            else:
                self._transport.write(plain(200, json.dumps(self._upstream.stats()).encode()))
            data = data[stop:]
        self._rest = data
        if len(data) > LARGEST_BYTES:
            self._transport.abort()


async def serve(how: Behaviour, *, seconds: float, parent: int) -> None:
    """Serve until the time is up or the parent is gone."""
    loop = asyncio.get_running_loop()
    upstream = Upstream(how, loop)
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"base_url": f"http://127.0.0.1:{port}/v1", "loop": type(loop).__module__}), flush=True)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and os.getppid() == parent:  # noqa: ASYNC110  nobody tells of a parent's end
        await asyncio.sleep(0.5)


def main() -> None:
    """Serve as the command line says: one JSON object of `Behaviour`, and how long and where."""
    parser = argparse.ArgumentParser(description="A lean chat-completions upstream on loopback.")
    parser.add_argument("--behaviour", default="{}", metavar="JSON", help="fields of Behaviour")
    parser.add_argument("--seconds", type=float, default=3600.0, help="its life")
    parser.add_argument("--core", type=int, help="the only core it runs on")
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    running = asyncio.run
    try:
        import uvloop  # noqa: PLC0415  may be missing

        running = uvloop.run
    except ImportError:
        print("no uvloop: requests cost more", file=sys.stderr)
    running(serve(Behaviour(**json.loads(args.behaviour)), seconds=args.seconds, parent=os.getppid()))


if __name__ == "__main__":
    main()
