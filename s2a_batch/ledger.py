"""What several processes of one run spend together, against the same caps.

Knows shared memory. Invariants: a request is counted under a lock that all of them heed, before it goes out, so the cap
on requests is never passed; the lock is the kernel's, so a process that is killed holds nobody up.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from s2a_batch.budget import Spending
from s2a_batch.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.caps import Budget

_REQUESTS, _TOKENS, _PRICED, _COST = range(4)
_BYTES: Final = 8 * 4
_UNKNOWN, _KNOWN, _PARTLY = range(3)


class Ledger:
    """Counts that stand in memory which processes share that are forked later; as `budget.Spent`.

    Use as a context manager. A process that only inherited it closes nothing: that would give up its lock.

    Raises:
        OutputError: The temporary directory has no room.
    """

    def __init__(self) -> None:
        try:
            self._fd, path = tempfile.mkstemp()
            Path(path).unlink()
            # Written, not only made long: a page without room on the disk would be a SIGBUS later.
            os.write(self._fd, bytes(_BYTES))
        except OSError as error:
            raise OutputError(f"no temporary file can be made for what processes share: {error.strerror}") from None
        self._memory = mmap.mmap(self._fd, _BYTES)
        self._counts, self._sums = memoryview(self._memory).cast("q"), memoryview(self._memory).cast("d")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._counts.release()
        self._sums.release()
        os.close(self._fd)

    @property
    def requests(self) -> int:
        """HTTP requests."""
        return self._counts[_REQUESTS]

    @requests.setter
    def requests(self, count: int) -> None:
        self._counts[_REQUESTS] = count

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self._counts[_TOKENS]

    @tokens.setter
    def tokens(self, count: int) -> None:
        self._counts[_TOKENS] = count

    @property
    def cost_usd(self) -> float:
        """What is known of the cost."""
        return self._sums[_COST]

    @cost_usd.setter
    def cost_usd(self, cost: float) -> None:
        self._sums[_COST] = cost

    @property
    def priced(self) -> bool | None:
        """Whether the cost of all is known; None before the first."""
        return None if self._counts[_PRICED] == _UNKNOWN else self._counts[_PRICED] == _KNOWN

    @priced.setter
    def priced(self, known: bool | None) -> None:
        self._counts[_PRICED] = _UNKNOWN if known is None else _KNOWN if known else _PARTLY

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the other processes from counting; takes microseconds, and is not to be nested."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


class SharedSpending(Spending):
    """As `Spending`, over all processes that share the ledger.

    Args:
        caps: The job's.
        ledger: Made before the processes were forked.
    """

    def __init__(self, caps: Budget, ledger: Ledger) -> None:
        super().__init__(caps, ledger)
        self._ledger = ledger

    @property
    def end(self) -> tuple[float, str]:
        """When time is up, on anyio's clock, and the cap that says so; the same in all processes."""
        return self._deadline, self._deadline_cap

    @end.setter
    def end(self, end: tuple[float, str]) -> None:
        self._deadline, self._deadline_cap = end

    def heed(self) -> None:
        """Look at what the others spent."""
        self._look()

    def admit(self) -> None:
        """As for one process."""
        with self._ledger.held():
            self._look()
            super().admit()

    def _add(self, tokens: int, cost_usd: float | None) -> None:
        with self._ledger.held():
            super()._add(tokens, cost_usd)
