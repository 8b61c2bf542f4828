"""What the process that reads and the processes that ask say to each other, and how it travels.

One end of a `Channel` is the front's: it deals records (`Begin`, then `Deal` as often as a member has room, `Worked`,
`Overheard`, `Steer`, `NoMore`) and may end the work (`Drain`, `Cancel`). The other end is a member's: it takes records
up (`Taken`, which makes room for as many), tells what it counted (`Report`, the first when its endpoints are open),
what its limiters met (`Met`), what is synced (`Synced`), what stops the run (`Stopped`), a fault of this program
(`Crashed`), and last of all that everything it was dealt is written and synced or left pending (`Ended`). An end
without that is a death.

Invariants: a frame holds one or more whole messages in order; both ends are one program on one machine, so a frame is a
pickle; a channel never blocks a loop.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from s2a_batch.errors import StopRun
    from s2a_batch.orders import Order
    from s2a_batch.records import BadLine, Record
    from s2a_batch.report import Tally
    from s2a_batch.rewrites import Place
    from s2a_batch.siblings import Gauge, Notice

_HEAD_BYTES: Final = 8
_READ_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Begin:
    """There is something to do: open the endpoints.

    Attributes:
        end: When the budget's time is up, on the clock of all, and the cap that says so.
    """

    fingerprint: str
    rewrite_fingerprint: str
    end: tuple[float, str]


@dataclass(frozen=True, slots=True)
class Deal:
    """A record to carry through, and where finished rewrites of it lie."""

    record: Record | BadLine
    place: Place | None


@dataclass(frozen=True, slots=True)
class Worked:
    """Which accounts have answered another member, by their numbers."""

    accounts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overheard:
    """What another member met at the account of this number."""

    account: int
    notice: Notice


@dataclass(frozen=True, slots=True)
class Steer:
    """What a person changes, for all members together."""

    order: Order


@dataclass(frozen=True, slots=True)
class NoMore:
    """No more records come: finish what is there, and end."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Begin no request any more; finish what is open."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Break off what is open; write what is there, and end."""


@dataclass(frozen=True, slots=True)
class Taken:
    """So many records were taken up since the last message of this kind."""

    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """How a member stands.

    Attributes:
        tally: All that it counted since it began.
        gauges: Of its limiters, by account.
        answered: Accounts that have answered it, by their numbers.
    """

    tally: Tally
    gauges: tuple[Gauge, ...]
    answered: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Met:
    """What a member met at the account of this number; the others shall heed it."""

    account: int
    notice: Notice


@dataclass(frozen=True, slots=True)
class Synced:
    """How many bytes of which file are whole lines, and on the disk."""

    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run cannot go on."""

    error: StopRun


@dataclass(frozen=True, slots=True)
class Crashed:
    """A fault of this program, with its traceback."""

    traceback: str


@dataclass(frozen=True, slots=True)
class Ended:
    """All that was dealt is done, or stays pending; nothing more comes."""


ToMember: TypeAlias = Begin | Deal | Worked | Overheard | Steer | NoMore | Drain | Cancel
ToFront: TypeAlias = Taken | Report | Met | Synced | Stopped | Crashed | Ended
Message: TypeAlias = ToMember | ToFront


class Channel:
    """One end of a stream of messages.

    Args:
        end: A connected stream socket; it is the channel's from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(0)
        self._outbox: list[Message] = []
        self._filled = anyio.Event()
        self._sending = anyio.Lock()
        self._buffer = bytearray()

    def close(self) -> None:
        """Give the socket back; the other end reads its end."""
        self._end.close()

    def put(self, *messages: Message) -> None:
        """Have messages sent by `run`, in this order; never waits, so the caller bounds how many there are."""
        self._outbox.extend(messages)
        self._filled.set()

    async def run(self) -> None:
        """Send what is put until cancelled, or until the other end is gone: what it does not read is lost with it."""
        while True:
            await self._filled.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send what was put up to now."""
        async with self._sending:
            self._filled = anyio.Event()
            messages, self._outbox = self._outbox, []
            if messages:
                content = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
                await self._send(len(content).to_bytes(_HEAD_BYTES) + content)

    async def receive(self) -> Sequence[Message] | None:
        """The messages of the next frame; None when the other end is gone."""
        while (frame := self._frame()) is None:
            try:
                data = self._end.recv(_READ_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._end)
                continue
            except OSError:
                return None
            if not data:
                return None
            self._buffer += data
        found: list[Message] = pickle.loads(frame)  # noqa: S301  of our own process
        return found

    def _frame(self) -> bytes | None:
        end = _HEAD_BYTES + int.from_bytes(self._buffer[:_HEAD_BYTES])
        if len(self._buffer) < max(end, _HEAD_BYTES + 1):
            return None
        frame = bytes(self._buffer[_HEAD_BYTES:end])
        del self._buffer[:end]
        return frame

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._end.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._end)
            except OSError:  # the other end is gone, which `receive` tells
                return
