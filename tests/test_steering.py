"""An order may come at any moment of a run, also at its very beginning and end, and what is asked for is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from s2a_batch.assembly import Assembly, Parts
from s2a_batch.errors import JobError
from s2a_batch.flow import Fingerprints, Flow, Front
from s2a_batch.orders import Order
from s2a_batch.report import Tally
from s2a_batch.rundir import LINE_FILES
from s2a_batch.sink import Sink
from s2a_batch.steering import look, order, told, tuned
from tests.fakes import a_job

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from s2a_batch.draft import FinishedRewrite
    from s2a_batch.flow import Pending
    from s2a_batch.records import Record

ORDER = Order(open_requests=100, held=True, requests_per_minute=math.inf)


@pytest.mark.anyio
async def test_an_order_counts_before_the_beginning_and_does_no_harm_after_the_end(tmp_path: Path) -> None:
    """A person does not see whether the endpoints are open yet, nor that a second Ctrl-C has just ended it all."""
    drain, scope, tally = anyio.Event(), anyio.CancelScope(), Tally()
    job, opened = a_job(output=tmp_path), list[Parts]()
    front = Front(tally, drain, scope, lambda _: drain.set(), lambda _: None)
    assembly = Assembly(job, environ={}, drain=drain, tally=tally, say=lambda _: None)
    sink = Sink(tmp_path, LINE_FILES, fsync_s=1, synced=lambda: None)

    async def find(record: Record, made_by: str) -> FinishedRewrite | None:
        del record, made_by
        return None

    async def endless() -> AsyncGenerator[Pending]:
        await anyio.sleep_forever()
        yield  # type: ignore[misc]

    flow = Flow(assembly, sink, front, find, opened.append)
    flow.heed(ORDER)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flow.carry, endless(), Fingerprints("", ""))
        while not opened:
            await anyio.lowlevel.checkpoint()
        [limiter] = opened[0].limiters
        assert (limiter.cap, limiter.held_since is not None) == (100, True)
        flow.heed(Order(open_requests=200))
        assert opened[0].tasks == 300
        scope.cancel()
    flow.heed(Order(open_requests=400))
    assert limiter.cap == 200


def test_where_no_run_goes_on_that_is_said(tmp_path: Path) -> None:
    """A typo in the path must not look like a run that does not answer."""
    for place in (tmp_path, tmp_path / "nowhere"):
        assert look(place) is None
        with pytest.raises(JobError, match="no run goes on here"):
            order(place, {"command": "pause"})


def test_what_was_and_what_is_now_is_told() -> None:
    """Whoever tunes at night wants to know what to set back in the morning."""
    was = {"open_requests": 16, "requests_per_minute": None, "tokens_per_minute": 40_000.0}
    now = {"open_requests": "auto", "requests_per_minute": 0.5, "tokens_per_minute": 40_000.0}
    account = {"stages": ["answer"], "was": was, "now": now, "named": list(was)}
    text = "answer: open requests 16 -> auto, requests a minute none -> 0.5, tokens a minute stays 40000"
    assert tuned(account) == text
    assert told({"accounts": [account]}, Path("out")) == text
    assert "as soon as the endpoints are open" in told({"accounts": []}, Path("out"))
