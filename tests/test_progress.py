"""What is seen while a run goes: an area that keeps its height and width, and what it says holds the run up."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from s2a_batch.display import Screen
from s2a_batch.limits import Limiter
from s2a_batch.live import Live
from s2a_batch.progress import Rates, area, short
from s2a_batch.records import Usage
from s2a_batch.report import StageTally, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
HEIGHT = 6


def shown(live: Live, columns: int = 80) -> list[str]:
    """The lines of the live area."""
    rates = Rates()
    rates.note(live)
    console = Console(file=io.StringIO(), width=columns, soft_wrap=True, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(area(live, rates))
    return captured.get().splitlines()


def a_tally(scale: int) -> Tally:
    """All counts at once, as large as this."""
    tally = Tally(lines=4 * scale, skipped=scale, answered=scale, failed=scale)
    tally.read_bytes, tally.total_bytes = 100, 150
    for stage in (tally.rewrite, tally.answer):
        stage.open, stage.waiting, stage.done = 128, 64, scale
        stage.retries = stage.rate_limited = stage.requests = scale
        stage.usage = Usage(input_tokens=500 * scale, output_tokens=300 * scale)
    return tally


def a_limiter(cap: int = 4, requests: float | None = None, tokens: float | None = None) -> Limiter:
    return Limiter(
        open_requests=cap,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        drain=anyio.Event(),
        rng=random.Random(7),  # noqa: S311  jitter
    )


@pytest.mark.parametrize("scale", [0, 1, 99_999, 100_000, 1_234_567, 98_765_432])
@pytest.mark.parametrize("columns", [80, 60])
async def test_the_area_never_wraps_nor_jumps(scale: int, columns: int) -> None:
    """A line that wraps makes the terminal scroll at each refresh, and the screen fills with rubbish."""
    live = Live(a_tally(scale), anyio.current_time() - 400_000, (a_limiter(),))
    live.limiters[0].paused_until = anyio.current_time() + 12
    lines = shown(live, columns)
    assert len(lines) == HEIGHT
    assert max(map(len, lines)) <= columns
    assert len(shown(Live(Tally(), anyio.current_time()))) == HEIGHT
    if columns == 80:
        assert "\u2026" not in "".join(lines), "nothing is cut off"


async def test_counts_stand_under_their_names() -> None:
    """Numbers of both stages are compared at a glance when they end in the same column."""
    lines = shown(Live(a_tally(1_234_567), anyio.current_time()))
    assert lines[0].endswith(" 1.2M answered, 1.2M failed, 1.2M done before, ~3.7M left")
    names, rewrite, answer = lines[1:4]
    assert rewrite.split() == ["rewrite", "128", "64", "1.2M", "987M", "1.2M", "1.2M"]
    assert answer.split() == ["answer", *rewrite.split()[1:]]
    for name in ("open", "waiting", "done", "tokens", "retries", "rate limited"):
        end = names.index(name) + len(name)
        assert rewrite[end - 1] != " "
        assert rewrite[end : end + 1] in ("", " ")


async def test_retries_and_rate_limits_show_once_there_are_any() -> None:
    """Columns of zeros teach people to overlook them."""
    tally = Tally(rewrite=StageTally(open=1))
    assert "retries" not in shown(Live(tally, 0.0))[1]
    tally.answer.retries = 1
    assert "retries" in shown(Live(tally, 0.0))[1]
    assert "rate limited" not in shown(Live(tally, 0.0))[1]
    tally.rewrite.rate_limited = 1
    assert "rate limited" in shown(Live(tally, 0.0))[1]


@given(st.integers(0, 10**12 - 1))
def test_a_short_number_is_short_and_never_too_much(count: int) -> None:
    """It stands for the number to a tenth or better, and fits its column."""
    text = short(count)
    assert len(text) <= 5
    factor = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1], 1)
    value = float(text.rstrip("kMG")) * factor
    assert value <= count * (1 + 1e-9)
    assert count - value <= count * 0.1
    assert count >= 100_000 or text == str(count)


async def test_no_end_is_foretold_while_it_stops() -> None:
    """A run that drains ends within seconds; an hour's ETA beside "stopping" makes people press Ctrl-C twice."""
    live = Live(a_tally(100), anyio.current_time() - 60)
    assert "ETA" in shown(live)[4]
    assert shown(live)[5].strip() == ""
    live.stopping = "stopping"
    assert "ETA" not in shown(live)[4]
    assert shown(live)[5].strip() == "stopping"


def paused(limiter: Limiter) -> None:
    limiter.pause(11.5, since=anyio.current_time())


def down(limiter: Limiter) -> None:
    limiter.go_down(since=anyio.current_time())


@pytest.mark.parametrize(
    ("limits", "event", "note"),
    [
        ({}, paused, "rate limited: next try in 12 s"),
        ({}, down, "endpoint down: next try in 2 s"),
        ({"requests": 30.0}, None, "waiting for limits.requests_per_minute (30)"),
        ({"tokens": 1_200_000.0}, None, "waiting for limits.tokens_per_minute (1.2M)"),
        ({"cap": 1}, None, "waiting for limits.open_requests (1)"),
        ({"requests": 0.5}, None, "waiting for limits.requests_per_minute (0.5)"),
        ({}, None, ""),
    ],
)
async def test_what_holds_the_run_up_has_a_name(
    limits: dict[str, float], event: Callable[[Limiter], None] | None, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The word alone lets people raise the wrong limit, or blame the program for what the server asks."""
    limiter = a_limiter(cap=int(limits.pop("cap", 4)), **limits)
    lane = limiter.lane(None)
    live = Live(Tally(), anyio.current_time(), (limiter, limiter))
    with await limiter.slot(lane, 300_000):
        if event is not None:
            event(limiter)
        elif note:
            assert shown(live)[5].strip() == "", "nobody waits"
            live.tally.answer.waiting = 3
        assert shown(live)[5].strip() == note
        if note.startswith("waiting for limits.o"):
            with anyio.move_on_after(12):
                await Screen().watch(live)
            assert capsys.readouterr().err.splitlines()[0].endswith(f"tokens/s, {note}")


async def test_a_probe_of_an_endpoint_that_is_down_is_told() -> None:
    """Between two tries the next one is under way; the outage is not over by then."""
    limiter = a_limiter()
    down(limiter)
    await anyio.sleep(3)
    assert shown(Live(Tally(), 0.0, (limiter,)))[5].strip() == "endpoint down: asking whether it is back"
    with await limiter.slot(limiter.lane(None), 1) as slot:
        slot.succeeded(1, {}, anyio.current_time())
    assert shown(Live(Tally(), 0.0, (limiter,)))[5].strip() == ""


async def test_a_night_in_a_log_is_some_dozens_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Cron mails the log: it must show that the run moved, and still be short enough to be read."""
    live = Live(Tally(lines=50, answered=1_234_567, failed=2), anyio.current_time())
    with anyio.move_on_after(30):
        await Screen().watch(live)
    first = capsys.readouterr().err.splitlines()
    assert 1 <= len(first) <= 3
    assert "1234567 answered, 2 failed" in first[0], "a log is compared, number by number"
    with anyio.move_on_after(12 * 3600):
        await Screen().watch(live)
    lines = capsys.readouterr().err.splitlines()
    assert 30 <= len(lines) <= 100
    with anyio.move_on_after(3600):
        await Screen(quiet=True).watch(live)
    assert capsys.readouterr().err == ""
