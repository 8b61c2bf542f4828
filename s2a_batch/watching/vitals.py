"""The live numbers of a run as one JSON object: what is done, at which pace, under which limits, what holds it up.

Invariant: looks only; every number is the run's own count.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch.progress import Rates

if TYPE_CHECKING:
    from pydantic import JsonValue

    from s2a_batch.limits import Limiter
    from s2a_batch.live import Live
    from s2a_batch.report import StageTally, Tally

SCHEMA: Final = 1


class Vitals:
    """Watches one run; `look` now and then, so that it knows the pace and since when a thing holds."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rates = Rates()
        self._since: dict[str, float] = {}

    def look(self) -> None:
        """Note how it stands now."""
        now = anyio.current_time()
        self._rates.note(self._live)
        self._since = {what: self._since.get(what, now) for what in _held_up(self._live, now)}

    def as_dict(self) -> dict[str, JsonValue]:
        """All numbers of now."""
        self.look()
        live, tally = self._live, self._live.tally
        requests, tokens = self._rates.per_second()
        eta_s = live.eta_s()
        return {
            "schema": SCHEMA,
            "pid": os.getpid(),
            "started_at": _moment(live.started),
            "seconds": round(anyio.current_time() - live.started, 3),
            "answered": tally.answered,
            "rewritten": tally.rewritten,
            "failed": tally.failed,
            "kinds": dict(sorted(tally.kinds.items())),
            "done_before": tally.skipped,
            "left": tally.left(),
            "eta_s": None if eta_s is None else round(eta_s, 1),
            "requests_per_second": round(requests, 3),
            "tokens_per_second": round(tokens, 3),
            "cost_usd": _cost_usd(tally),
            "stages": {name: _stage(part) for name, part in (("rewrite", tally.rewrite), ("answer", tally.answer))},
            "accounts": [account(limiter) for limiter in live.limiters],
            "processes": live.processes,
            "paused": live.held_at is not None,
            "stopping": live.stopping,
            "held_up": self._told(),
        }

    def _told(self) -> list[JsonValue]:
        live, now = self._live, anyio.current_time()
        begins = self._since if live.held_at is None else self._since | {_PAUSED: live.held_at}
        return [
            {"what": what, "since": _moment(begins[what]), "until": None if until is None else _moment(until)}
            for what, until in _held_up(live, now).items()
        ]


_PAUSED: Final = "paused by a person"


def account(limiter: Limiter) -> dict[str, JsonValue]:
    """What one account and model may have, and has."""
    return {
        "stages": list(limiter.stages),
        "open": limiter.open,
        "open_requests": "auto" if limiter.adaptive else limiter.cap,
        "requests_per_minute": limiter.requests.per_minute,
        "tokens_per_minute": limiter.tokens.per_minute,
        "learnt_requests_per_minute": limiter.learnt.bucket.per_minute,
    }


def _held_up(live: Live, now: float) -> dict[str, float | None]:
    """What holds the run up now, and until when where that is known."""
    if live.stopping:
        return {live.stopping: None}
    if live.held_at is not None:
        return {_PAUSED: None}
    found: dict[str, float | None] = {}
    waiting = live.tally.rewrite.waiting + live.tally.answer.waiting > 0
    for limiter in live.limiters:
        until = limiter.paused_until if limiter.paused_until > now else None
        if limiter.down:
            found["endpoint down"] = until
        elif until is not None:
            found["rate limited by the server"] = until
        elif waiting and (name := _limit(limiter, now)):
            found[name] = None
    return found


def _limit(limiter: Limiter, now: float) -> str | None:
    """The limit that requests wait for now."""
    for name, bucket in (("requests", limiter.requests), ("tokens", limiter.tokens)):
        if bucket.limit is not None and bucket.delay_s(now, 1) > 0:
            return f"limits.{name}_per_minute"
    if limiter.learnt.bucket.delay_s(now, 1) > 0:
        return "the rate that the server's refusals taught"
    return "limits.open_requests" if limiter.open >= limiter.cap else None


def _stage(part: StageTally) -> dict[str, JsonValue]:
    return {
        "open": part.open,
        "waiting": part.waiting,
        "done": part.done,
        "requests": part.requests,
        "retries": part.retries,
        "rate_limited": part.rate_limited,
        "input_tokens": part.usage.input_tokens or 0,
        "output_tokens": part.usage.output_tokens or 0,
        "cost_usd": part.cost_usd,
    }


def _cost_usd(tally: Tally) -> float | None:
    """Of both stages; None when one sent requests whose cost is not known."""
    costs = [stage.cost_usd for stage in (tally.rewrite, tally.answer) if stage.requests]
    known = [cost for cost in costs if cost is not None]
    return round(sum(known), 9) if len(known) == len(costs) else None


def _moment(at: float) -> str:
    """A time of anyio's clock on the wall's."""
    wall = datetime.now(UTC) + timedelta(seconds=at - anyio.current_time())
    return wall.isoformat(timespec="seconds")
