"""Messages between processes arrive whole and in order, whatever their size; an end that is gone is told."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from s2a_batch import wire
from s2a_batch.errors import AccountError
from s2a_batch.records import BadLine
from s2a_batch.report import Tally
from s2a_batch.rewrites import Place
from s2a_batch.wire import Channel
from tests.fakes import a_record

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    with pair[0], pair[1]:
        yield pair


async def test_messages_of_any_size_arrive_whole_and_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    """A record may be as long as a book: more than a socket's buffer takes at once, in both directions at a time."""
    texts = ["x" * size for size in (0, 1, 200_000, 3, 5_000_000, 7)]
    channels = [Channel(end) for end in ends]
    heard: list[list[str]] = [[], []]

    async def hear(index: int) -> None:
        while len(heard[index]) < len(texts):
            for message in await channels[index].receive() or ():
                assert isinstance(message, wire.Crashed)
                heard[index].append(message.traceback)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as sending:
            for channel in channels:
                sending.start_soon(channel.run)
            async with anyio.create_task_group() as hearing:
                for index in range(2):
                    hearing.start_soon(hear, index)
                for text in texts:
                    for channel in channels:
                        channel.put(wire.Crashed(text))
                    await anyio.lowlevel.checkpoint()
            sending.cancel_scope.cancel()
    assert heard == [texts, texts]


async def test_what_is_sent_comes_out_equal(ends: tuple[socket.socket, socket.socket]) -> None:
    """A record that changed on its way would be another question; an error another reason."""
    bad = BadLine("k", 2, b"null", None, "\\xff", "not_utf8", "not UTF-8")
    sent = [wire.Deal(a_record("Is 9007199254740993 \u2028 so?"), Place(0, None)), wire.Deal(bad, None)]
    tally = Tally()
    tally.kinds["bug"] += 1
    here, there = (Channel(end) for end in ends)
    here.put(*sent, wire.Report(tally, (), (0,)), wire.Stopped(AccountError("no key")))
    await here.flush()
    *deals, report, stopped = await there.receive() or ()
    assert deals == sent
    assert report == wire.Report(tally, (), (0,))
    assert isinstance(stopped, wire.Stopped)
    assert (type(stopped.error), str(stopped.error)) == (AccountError, "no key")


@pytest.mark.parametrize("unread", [False, True])
async def test_an_end_that_is_gone_is_told_and_stops_nobody(
    ends: tuple[socket.socket, socket.socket], unread: bool
) -> None:
    """A member may be killed in the middle of a frame: what came whole counts, the rest does not, and nothing hangs."""
    here, there = Channel(ends[0]), Channel(ends[1])
    here.put(wire.NoMore())
    await here.flush()
    ends[0].send(b"\0\0\0\0\0\0\1\0half")
    if unread:  # a close with something unread is a reset
        there.put(wire.NoMore())
        await there.flush()
    here.close()
    assert await there.receive() == [wire.NoMore()]
    assert await there.receive() is None
    there.put(wire.Crashed("x" * 1_000_000))
    with anyio.fail_after(5):
        await there.flush()
        await there.flush()
