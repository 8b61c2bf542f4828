"""What is read ahead for the tasks that carry records: in order, all of it, and little at a time."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch.flow import _Supply
from s2a_batch.forms import Asked
from s2a_batch.records import Record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


def record(n: int, size_bytes: int = 10) -> Record:
    return Record(f"{n:032x}", n, b"null", b"x" * size_bytes, Asked("why?"))


class Reader:
    """Yields records and counts them."""

    def __init__(self, count: int, size_bytes: int = 10, every_s: float = 0.0) -> None:
        self.count, self.size_bytes, self.every_s, self.read = count, size_bytes, every_s, 0

    async def records(self) -> AsyncGenerator[Record]:
        """The records, each after a wait."""
        for n in range(self.count):
            await anyio.sleep(self.every_s)
            self.read += 1
            yield record(n, self.size_bytes)


@pytest.mark.parametrize("every_s", [0.0, 3.0])
async def test_each_record_is_taken_once_and_in_order(every_s: float) -> None:
    """A record that two take is paid twice, one that nobody takes is lost, whether reading or asking is faster."""
    supply, taken = _Supply(), list[int]()

    async def take() -> None:
        while (found := await supply.take()) is not None:
            taken.append(found.line)
            await anyio.sleep(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supply.fill, Reader(200, every_s=every_s).records())
        for _ in range(5):
            tasks.start_soon(take)
    assert taken == list(range(200))
    assert await supply.take() is None


@pytest.mark.parametrize(("size_bytes", "most"), [(10, 32), (100_000, 11), (5_000_000, 1)])
async def test_little_is_read_ahead(size_bytes: int, most: int) -> None:
    """Memory must not hold a file, nor thirty books: the next ones are read when half of the few is taken."""
    supply, reader = _Supply(), Reader(1000, size_bytes)
    async with aclosing(reader.records()) as records, anyio.create_task_group() as tasks:
        tasks.start_soon(supply.fill, records)
        await anyio.sleep(1)
        assert reader.read == most
        for _ in range(3 * most):
            assert await supply.take() is not None
            await anyio.sleep(1)
        assert 3 * most < reader.read <= 4 * most
        tasks.cancel_scope.cancel()


async def test_who_waits_and_is_cancelled_takes_nothing() -> None:
    """A second signal while the input is slow must not swallow the record that comes next."""
    supply = _Supply()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supply.fill, Reader(1, every_s=5).records())
        with anyio.move_on_after(1) as scope:
            await supply.take()
        assert scope.cancelled_caught
        found = await supply.take()
        assert found is not None
        assert found.line == 0
