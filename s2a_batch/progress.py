"""What the person at the screen sees while a run goes: a live area on a terminal, now and then a line in a log.

Knows rich. Invariants: the live area keeps its height and fits 80 columns, so that it never jumps; a log gets some
dozens of lines a night; nothing here is a stranger's text.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
from rich.console import Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from s2a_batch.figures import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

    from s2a_batch.limits import Limiter
    from s2a_batch.live import Live

_REFRESH_S: Final = 0.25
_RATE_WINDOW_S: Final = 10.0
_FIRST_PLAIN_S: Final = 10.0
_LONGEST_PLAIN_S: Final = 600.0
_BAR_COLUMNS: Final = 16
_NAME_COLUMNS: Final = 7
_MOST_CHARS: Final = 5
_MINUTE_S: Final = 60.0
_EXACT: Final = 100_000
_UNITS: Final = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


async def watch(console: Console, live: Live) -> None:
    """Show progress until cancelled; `OSError` when the console is gone."""
    await (_watch_terminal if console.is_terminal else _watch_plain)(console, live)


async def _watch_terminal(console: Console, live: Live) -> None:
    rates = Rates()
    with RichLive(console=console, auto_refresh=False, transient=True) as screen:
        while True:
            rates.note(live)
            screen.update(area(live, rates), refresh=True)
            await anyio.sleep(_REFRESH_S)


async def _watch_plain(console: Console, live: Live) -> None:
    """A line after 10 s, then ever more seldom: a night is some dozens of lines in a cron mail."""
    pause_s = _FIRST_PLAIN_S
    while True:
        rates = Rates(window_s=pause_s)
        rates.note(live)
        await anyio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PLAIN_S)
        rates.note(live)
        parts = (_counts(live, str), _speed(rates), *_notes(live))
        console.print(Text(f"{time.strftime('%H:%M:%S')} {', '.join(parts)}"))


class Rates:
    """Requests and tokens a second over a window that moves along."""

    def __init__(self, window_s: float = _RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def note(self, live: Live) -> None:
        """Take the counts of now."""
        now = anyio.current_time()
        self._seen.append((now, live.tally.requests, live.tally.tokens))
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._window_s:
            self._seen.popleft()

    def per_second(self) -> tuple[float, float]:
        """Requests and tokens a second, 0 before there are two looks."""
        (t0, requests0, tokens0), (t1, requests1, tokens1) = self._seen[0], self._seen[-1]
        span = max(t1 - t0, 1e-9)
        return ((requests1 - requests0) / span, (tokens1 - tokens0) / span) if t1 > t0 else (0.0, 0.0)


def area(live: Live, rates: Rates) -> RenderableType:
    """The live area: bar and counts, a row a stage, times and rates, and what holds the run up."""
    tally, left = live.tally, live.tally.left()
    elapsed = anyio.current_time() - live.started
    eta = "" if (eta_s := live.eta_s()) is None else f", ETA {clock(eta_s)}"
    head = Table.grid(padding=(0, 1))
    whole = None if left is None else tally.done + left
    head.add_row(ProgressBar(total=whole or None, completed=tally.done, width=_BAR_COLUMNS), _row(_counts(live, short)))
    speed = _row(f"{clock(elapsed)}{eta}, {_speed(rates)}", "dim")
    return Group(head, *_stages(live), speed, _row(", ".join(_notes(live)), "yellow"))


def _row(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _stages(live: Live) -> list[Text]:
    """Counts by stage, right-justified; retries and rate limits only where there are any."""
    stages = {"rewrite": live.tally.rewrite, "answer": live.tally.answer}
    columns: dict[str, list[int]] = {
        "open": [stage.open for stage in stages.values()],
        "waiting": [stage.waiting for stage in stages.values()],
        "done": [stage.done for stage in stages.values()],
        "tokens": [stage.usage.total_tokens for stage in stages.values()],
    }
    rare = {
        "retries": [stage.retries for stage in stages.values()],
        "rate limited": [stage.rate_limited for stage in stages.values()],
    }
    columns |= {name: counts for name, counts in rare.items() if any(counts)}
    widths = {name: max(len(name), _MOST_CHARS) + 2 for name in columns}
    rows = [_row(" " * _NAME_COLUMNS + "".join(name.rjust(width) for name, width in widths.items()), "dim")]
    for number, name in enumerate(stages):
        cells = (short(counts[number]).rjust(widths[column]) for column, counts in columns.items())
        rows.append(_row(name.ljust(_NAME_COLUMNS) + "".join(cells)))
    return rows


def _counts(live: Live, shown: Callable[[int], str]) -> str:
    tally, left = live.tally, live.tally.left()
    done = f"{shown(tally.rewritten)} rewritten" if tally.rewritten else f"{shown(tally.answered)} answered"
    earlier = f", {shown(tally.skipped)} done before" if tally.skipped else ""
    return f"{done}, {shown(tally.failed)} failed{earlier}" + (f", ~{shown(left)} left" if left is not None else "")


def _speed(rates: Rates) -> str:
    requests, tokens = rates.per_second()
    return f"{requests:.1f} requests/s, {short(int(tokens))} tokens/s"


def _notes(live: Live) -> list[str]:
    """What holds the run up: that it stops, the endpoint, or the limit that requests wait for."""
    if live.stopping:
        return [live.stopping]
    if live.held_at is not None:
        return ["paused by a person; s2a-batch resume goes on"]
    waiting = live.tally.rewrite.waiting + live.tally.answer.waiting > 0
    found = (_pause(limiter) or (_limit(limiter) if waiting else None) for limiter in live.limiters)
    return list(dict.fromkeys(note for note in found if note))


def _pause(limiter: Limiter) -> str | None:
    wait_s = limiter.paused_until - anyio.current_time()
    if wait_s > 0:
        return f"{'endpoint down' if limiter.down else 'rate limited'}: next try in {math.ceil(wait_s)} s"
    return "endpoint down: asking whether it is back" if limiter.down else None


def _limit(limiter: Limiter) -> str | None:
    """The limit that holds now, by its name in the job and with its value, which the server may have told."""
    now = anyio.current_time()
    for name, bucket in (("requests", limiter.requests), ("tokens", limiter.tokens)):
        if bucket.limit is not None and bucket.delay_s(now, 1) > 0:
            a_minute = bucket.limit * _MINUTE_S / bucket.window_s
            return f"waiting for limits.{name}_per_minute ({short(int(a_minute)) if a_minute >= 1 else a_minute})"
    return f"waiting for limits.open_requests ({limiter.cap})" if limiter.open >= limiter.cap else None


def short(count: int) -> str:
    """A count in at most five characters: 99999, 123k, 1.2M; rounded down."""
    if count < _EXACT:
        return str(count)
    size, unit = next((size, unit) for size, unit in _UNITS if count >= size)
    whole, tenths = divmod(count * 10 // size, 10)
    return f"{whole}.{tenths}{unit}" if whole < 100 else f"{whole}{unit}"  # noqa: PLR2004
