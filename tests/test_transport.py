"""The HTTP connections below the SDK: what is sent by the short way, and when a reply may go on."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.client import Endpoint
from s2a_batch.errors import TransientError
from s2a_batch.transport import Transport, _Turnstile

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2a_batch.client import Request
    from tests.server import Plan, Upstream

REQUEST: Request = {
    "model": "m1",
    "messages": [{"role": "system", "content": "\u2028 {{ x }} \\"}, {"role": "user", "content": "[[r-1]] so?"}],
    "temperature": 0.0,
    "max_completion_tokens": 9,
    "response_format": {"type": "json_schema", "json_schema": {"name": "A", "strict": True, "schema": {}}},
    "extra_body": {"top_k": 1, "chat_template_kwargs": {"enable_thinking": False}},
}


@pytest.mark.anyio
async def test_the_short_way_sends_what_the_sdk_sends(upstream: Callable[[Plan], Upstream]) -> None:
    """Whether a record is asked for the first or the second time must make no difference to the server."""
    up = upstream({"keep_bodies": True})
    async with Endpoint(base_url=up.base_url, api_key="k", headers={}, deadline_s=5, connections=1) as client:
        replies = [await client.send(REQUEST, short=short) for short in (True, False)]
    short, sdk = (row["body"] for row in up.requests())
    assert short == sdk
    assert short["top_k"] == 1
    assert "extra_body" not in short
    assert replies[0].text == replies[1].text
    assert up.stats().keys == [up.stats().keys[0]], "one key"


@pytest.mark.anyio
async def test_a_server_that_closes_after_each_reply_costs_next_to_no_attempt(
    upstream: Callable[[Plan], Upstream],
) -> None:
    """Some say nothing of it in their headers; taken for kept, every second connection was closed when it was used.

    One that closes in the very moment of the next request is a fault that passes, and an attempt like any other.
    """
    up = upstream({"rules": [{"replies": [{"close": True}]}]})
    answered, faults = [], []
    async with Endpoint(base_url=up.base_url, api_key="k", headers={}, deadline_s=5, connections=4) as client:

        async def ask() -> None:
            for _ in range(15):
                try:
                    answered.append(await client.send(REQUEST, short=True))
                except TransientError as error:
                    faults.append(error.kind)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask)
    assert len(answered) == up.stats().answered >= 54
    assert faults == ["connection"] * (60 - len(answered))


@pytest.mark.anyio
@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_body_comes_whole_whatever_its_size(upstream: Callable[[Plan], Upstream], size: int) -> None:
    """A short one is there at once, a long one in parts: no byte may be lost between the two ways to read."""
    up = upstream({"rules": [{"replies": [{"content": "x" * size}]}]})
    url = up.base_url + "/chat/completions"
    transport = Transport(url, deadline_s=20, connections=1)
    transport.headers = {"content-type": "application/json"}
    async with transport:
        found = await transport.post(
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}]}).encode()
        )
    body: Any = json.loads(found.body)
    assert (found.status, body["choices"][0]["message"]["content"]) == (200, "x" * size)


def turns(cancelled: set[int], count: int) -> list[int]:
    """In which turn of the loop each of so many replies goes through that come in one; -1: it was cancelled."""
    found = [-1] * count

    async def main() -> None:
        turnstile, turn = _Turnstile(), 0

        async def go(n: int) -> None:
            await turnstile.go_through()
            found[n] = turn

        tasks = [asyncio.ensure_future(go(n)) for n in range(count)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turn += 1
            if turn == 1:
                for n in cancelled:
                    tasks[n].cancel()
            assert turn < 3 * count + 10, "somebody is never let through"
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())
    return found


@given(st.sets(st.integers(0, 99)), st.integers(1, 100))
def test_replies_that_come_together_go_on_a_few_at_a_time(cancelled: set[int], count: int) -> None:
    """Else all go on step by step side by side for ever, and a quarter of the time all wait for each other."""
    found = turns({n for n in cancelled if n < count}, count)
    through = [turn for turn in found if turn >= 0]
    assert through == sorted(through), "first come, first served"
    assert max(through.count(turn) for turn in through) <= 4 if through else True
    assert all(found[n] >= 0 for n in range(count) if n not in cancelled), "who was cancelled holds up nobody"
