"""The live numbers say what holds a run up, and since when; what is not known is null."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from rich.console import Console

from s2a_batch.live import Live
from s2a_batch.orders import Order
from s2a_batch.progress import Rates, area
from s2a_batch.report import Tally
from s2a_batch.watching.vitals import Vitals
from tests.fakes import a_limiter

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def held(vitals: Vitals) -> list[tuple[str, int, int | None]]:
    """What holds it up: since how many seconds, and for how many more."""
    now, found = datetime.now(UTC), vitals.as_dict()["held_up"]

    def seconds(moment: object) -> int:
        return round((datetime.fromisoformat(str(moment)) - now) / timedelta(seconds=1))

    assert isinstance(found, list)
    rows = [row for row in found if isinstance(row, dict)]
    return [
        (str(row["what"]), -seconds(row["since"]), None if row["until"] is None else seconds(row["until"]))
        for row in rows
    ]


def is_about(found: list[tuple[str, int, int | None]], what: str, since_s: int) -> bool:
    """Whether it is this alone, since so many seconds, which the files and the screen round."""
    [(told, seconds, until)] = found
    return (told, until) == (what, None) and abs(seconds - since_s) <= 1


async def test_what_holds_it_up_is_told_with_its_times() -> None:
    """Paused by a colleague, an outage, a limit: each is mended by somebody else."""
    limiter, tally = a_limiter(1, requests_per_minute=1), Tally()
    lane = limiter.lane(None, "answer")
    live = Live(tally, anyio.current_time(), (limiter,))
    vitals = Vitals(live)
    assert held(vitals) == []
    slot = await limiter.slot(lane, 1)
    tally.answer.waiting = 1
    vitals.look()
    await anyio.sleep(20)
    assert is_about(held(vitals), "limits.requests_per_minute", 20)
    slot.rate_limited(30.0)
    assert held(vitals)[0][0] == "rate limited by the server"
    assert held(vitals)[0][2] in (29, 30, 31)
    await anyio.sleep(60)
    limiter.go_down(since=anyio.current_time())
    assert held(vitals)[0][0] == "endpoint down"
    await anyio.sleep(120)
    assert is_about(held(vitals), "endpoint down", 120)
    limiter.down = False
    limiter.requests.tune(math.inf, anyio.current_time())
    slot.release()
    limiter.learnt.bucket.limit = 1.0
    slot = await limiter.slot(lane, 1)
    assert is_about(held(vitals), "the rate that the server's refusals taught", 0)
    live.held_at = anyio.current_time() - 50
    assert is_about(held(vitals), "paused by a person", 50)
    live.stopping = "stopping"
    assert [what for what, _, _ in held(vitals)] == ["stopping"]
    slot.release()


async def test_what_is_not_known_is_null() -> None:
    """A cost of 0 that is not known would be believed; an ETA of a run that stands is a lie."""
    tally = Tally(answered=10, lines=20, total_bytes=100, read_bytes=100)
    live = Live(tally, anyio.current_time() - 60)
    tally.answer.requests = 3
    found = Vitals(live).as_dict()
    assert (found["cost_usd"], found["eta_s"], found["left"]) == (None, 60, 10)
    tally.answer.cost_usd = 0.25
    live.held_s = 30
    assert (Vitals(live).as_dict()["cost_usd"], Vitals(live).as_dict()["eta_s"]) == (0.25, 30)
    live.held_at = anyio.current_time()
    assert Vitals(live).as_dict()["eta_s"] is None


async def test_a_pause_shows_on_the_screen_of_the_run() -> None:
    """Whoever looks at a run that stands must see that a person wants it so."""
    limiter = a_limiter(1)
    limiter.heed(Order(held=True))
    live = Live(Tally(), anyio.current_time(), (limiter,), held_at=anyio.current_time())
    rates = Rates()
    rates.note(live)
    console = Console(width=80)
    with console.capture() as shown:
        console.print(area(live, rates))
    assert "paused by a person" in shown.get()
