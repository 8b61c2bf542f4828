"""What several processes spend is one sum, and a cap on requests holds to the request, whoever is killed when."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from s2a_batch.budget import Spending
from s2a_batch.caps import Budget
from s2a_batch.errors import BudgetError, OutputError
from s2a_batch.ledger import Ledger, SharedSpending
from tests.fakes import in_virtual_time
from tests.test_sink import full_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger() as found:
        yield found


def forked(work: Callable[[], int]) -> int:
    """Do something in a process of its own; returns its id."""
    pid = os.fork()
    if pid == 0:
        status = 250
        try:
            status = work()
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    """Wait for its end."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def waits_for_a_lock(pid: int) -> bool:
    """Look until a process waits for a file's lock, or has ended; whether it waits."""
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if any(
            row.split()[1] == "->" and str(pid) in row.split() for row in Path("/proc/locks").read_text().splitlines()
        ):
            return True
    return False


def admitted(spending: SharedSpending, tries: int) -> int:
    """How many of so many requests may go out."""

    async def ask() -> int:
        count = 0
        for _ in range(tries):
            try:
                spending.admit()
            except BudgetError:
                break
            count += 1
            spending.note(3, 0.25)
        return count

    return in_virtual_time(ask)


@pytest.mark.parametrize("cap", [1, 100, 401])
def test_processes_that_ask_at_once_never_pass_the_cap_nor_leave_any_of_it(ledger: Ledger, cap: int) -> None:
    """One lost update among a million is one request more than was paid for."""
    spending = SharedSpending(Budget(max_requests=cap), ledger)
    pids = [forked(lambda: admitted(spending, 200)) for _ in range(4)]
    counts = [status_of(pid) for pid in pids]
    assert sum(counts) == ledger.requests == cap
    assert (ledger.tokens, ledger.cost_usd, ledger.priced) == (3 * cap, 0.25 * cap, True)


def test_a_process_that_is_killed_while_it_counts_holds_nobody_up(ledger: Ledger) -> None:
    """A lock that outlives its holder would freeze the whole run for the night."""
    spending = SharedSpending(Budget(max_requests=5), ledger)
    reader, writer = os.pipe()

    def hang() -> int:
        with ledger.held():
            os.write(writer, b"x")
            signal.pause()
        return 0

    pid = forked(hang)
    os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    assert status_of(forked(lambda: admitted(spending, 9))) == 5


@pytest.mark.parametrize("count", ["admit", "note"])
def test_nobody_counts_while_another_does(ledger: Ledger, count: str) -> None:
    """Two that read the same sum and write it back lose one of two requests, or its tokens."""
    spending = SharedSpending(Budget(), ledger)

    def work() -> int:
        if count == "admit":
            return admitted(spending, 1)
        spending.note(3, 0.25)
        return 1

    with ledger.held():
        before = (ledger.requests, ledger.tokens)
        pid = forked(work)
        assert waits_for_a_lock(pid)
        ledger.requests, ledger.tokens = before[0] + 10, before[1] + 10
    assert status_of(pid) == 1
    assert (ledger.requests, ledger.tokens) == ((11, 13) if count == "admit" else (10, 13))


def test_what_another_spent_is_in_the_message_and_stops_this_one(ledger: Ledger) -> None:
    """Whoever reads the message decides how much to add: it must tell the sum, as with one process."""
    caps = Budget(max_tokens=6)
    shared, alone = SharedSpending(caps, ledger), Spending(caps)
    assert status_of(forked(lambda: admitted(shared, 2))) == 2

    async def ask() -> str:
        with pytest.raises(BudgetError) as caught:
            shared.admit()
        return str(caught.value)

    async def ask_alone() -> str:
        for _ in range(2):
            alone.admit()
            alone.note(3, 0.25)
        with pytest.raises(BudgetError) as caught:
            alone.admit()
        return str(caught.value)

    assert in_virtual_time(ask) == in_virtual_time(ask_alone)


@pytest.mark.parametrize("known", [None, True, False])
def test_whether_the_cost_is_known_is_kept(ledger: Ledger, known: bool | None) -> None:
    """An unknown cost must never be shown as none."""
    ledger.priced = known
    assert ledger.priced is known


def test_a_full_temporary_directory_is_told_as_such() -> None:
    """The message decides whether a person makes room in the right place."""
    with full_disk(0), pytest.raises(OutputError, match=r"no temporary file can be made .* too large"):
        Ledger()
