"""Fixtures that several test modules share: the clock a test runs on, and the loopback upstream.

`pytest.mark.anyio` alone runs a test on asyncio, against real sockets. With `pytest.mark.virtual_time` beside it the
test runs on trio's mock clock, which jumps over every wait: hours pass in milliseconds, and times are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio.testing
from hypothesis import HealthCheck, settings

from s2a_batch.cores import usable_cores
from tests.processes import write_input
from tests.server import Plan, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    """Name our marker; a machine that is busy makes no property false."""
    settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("suite")
    config.addinivalue_line("markers", "virtual_time: run on trio's mock clock, which jumps over every wait")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for the processes that they start."""
    return usable_cores() + 1


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, trio.testing.MockClock]]:
    """Asyncio, or trio in virtual time for tests with that mark."""
    if request.node.get_closest_marker("virtual_time"):
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A working directory with an input `in.jsonl` of as many records as the test's module says by RECORDS."""
    work = tmp_path / "work"
    work.mkdir()
    write_input(work / "in.jsonl", range(request.module.RECORDS))
    return work


@pytest.fixture(scope="session")
def upstream_process() -> Iterator[Upstream]:
    """One upstream for the whole session; starting it costs more than most tests."""
    with Upstream(seconds=3600) as up:
        yield up


@pytest.fixture
def upstream(upstream_process: Upstream) -> Callable[[Plan], Upstream]:
    """Begins a plan: no rows, and request numbers from 1."""

    def begin(plan: Plan) -> Upstream:
        upstream_process.replan(plan)
        upstream_process.reset_stats()
        return upstream_process

    return begin
