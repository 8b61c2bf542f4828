"""Lets a person at another terminal of this machine look at a run and steer it, through a socket in its directory.

One JSON line asks, one answers: `status`, `tune`, `pause`, `resume`; `steering` is the other end. Invariants: it is
made under the run's lock and nobody else's; what a peer does has a bound in bytes, time and number, so none holds up
the run; only the run's user and root are answered; where no socket can be the run goes on without.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import anyio.to_thread

from s2a_batch import steering
from s2a_batch.bounds import AUTO_MOST_OPEN, MOST_OPEN
from s2a_batch.orders import Order
from s2a_batch.share import LEAST_TOKENS_PER_MINUTE
from s2a_batch.transport import most_connections
from s2a_batch.watching import vitals
from s2a_batch.watching.vitals import Vitals

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from pydantic import JsonValue

    from s2a_batch.display import Screen
    from s2a_batch.eventlog import EventLog
    from s2a_batch.live import Live
    from s2a_batch.records import StageName

_MOST_PEERS: Final = 16
_PEER_S: Final = 2.0
_MOST_AT_ONCE: Final = 8
_BETWEEN_S: Final = 0.02  # a flood of peers gets so much of the loop and no more
_QUEUE: Final = 128
_NO_PLACE_S: Final = 0.5
_LOOK_S: Final = 1.0
_MOST_A_MINUTE: Final = 1e12
_LIMITS: Final = ("open_requests", "requests_per_minute", "tokens_per_minute")


async def control(live: Live, voice: Screen | EventLog) -> None:
    """Serve until cancelled; what keeps the socket from being there is said once."""
    try:
        listener = await anyio.to_thread.run_sync(_listen, live.directory)
    except OSError as error:
        why = error.strerror or error
        voice.say(f"no control socket in {live.directory} ({why}): tune, pause and live numbers are not to be had")
        return
    try:
        await _Control(live, voice).serve(listener)
    finally:
        listener.close()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_remove, live.directory)


def _listen(directory: Path) -> socket.socket:
    """The socket, in place of one that a killed run left; for us alone before anyone can connect."""
    _remove(directory)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with steering.address(directory) as path:
            listener.bind(path)
            Path(path).chmod(0o600)
        listener.listen(_QUEUE)
        listener.setblocking(False)  # noqa: FBT003  the library's
    except BaseException:
        listener.close()
        raise
    return listener


def _remove(directory: Path) -> None:
    with suppress(FileNotFoundError):
        (directory / steering.SOCKET).unlink()


class _Control:
    """One run's end of the socket."""

    def __init__(self, live: Live, voice: Screen | EventLog) -> None:
        self._live = live
        self._voice = voice
        self._vitals = Vitals(live)
        self._peers = 0

    async def serve(self, listener: socket.socket) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_looking)
            while True:
                await anyio.wait_readable(listener)
                try:
                    for _ in range(_MOST_AT_ONCE):
                        self._let_in(listener.accept()[0], tasks)
                except BlockingIOError:
                    pass
                except OSError:  # no file can be opened now
                    await anyio.sleep(_NO_PLACE_S)
                await anyio.sleep(_BETWEEN_S)

    def _let_in(self, peer: socket.socket, tasks: TaskGroup) -> None:
        if self._peers < _MOST_PEERS:
            self._peers += 1
            tasks.start_soon(self._serve_one, peer)
        else:
            peer.close()

    async def _keep_looking(self) -> None:
        while True:
            self._vitals.look()
            await anyio.sleep(_LOOK_S)

    async def _serve_one(self, peer: socket.socket) -> None:
        with peer, suppress(OSError), anyio.move_on_after(_PEER_S):
            peer.setblocking(False)  # noqa: FBT003  the library's
            reply = self._reply(await _line_of(peer)) if _is_one_of_us(peer) else {"error": "not your run"}
            await _send(peer, json.dumps(reply).encode() + b"\n")
        self._peers -= 1

    def _reply(self, line: bytes) -> dict[str, JsonValue]:
        try:
            request = json.loads(line)
            command = request.get("command") if isinstance(request, dict) else None
            if command == "tune":
                return self._tune(request)
        except (ValueError, RecursionError) as error:
            return {"error": str(error) if isinstance(error, _RefusedError) else "no request that this version knows"}
        if command in ("pause", "resume"):
            return self._hold(held=command == "pause")
        return self._vitals.as_dict() if command == "status" else {"error": "no command that this version knows"}

    def _hold(self, *, held: bool) -> dict[str, JsonValue]:
        live, since = self._live, self._live.held_at
        changed = held == (since is None)
        seconds = 0.0 if since is None else anyio.current_time() - since
        if changed:
            live.steer(Order(held=held))
        found: dict[str, JsonValue] = {"paused": held, "changed": changed, "seconds": round(seconds, 3)}
        found["open"] = live.tally.rewrite.open + live.tally.answer.open
        if changed:
            self._voice.say_change(steering.told(found, live.directory))
        return found

    def _tune(self, request: dict[str, JsonValue]) -> dict[str, JsonValue]:
        order = _order(request, self._live)
        limiters = self._live.limiters
        meant = [limiter for limiter in limiters if order.stage in (None, *limiter.stages)]
        if limiters and not meant:
            raise _RefusedError(f"this run has no stage {order.stage}")
        was = [vitals.account(limiter) for limiter in meant]
        self._live.steer(order)
        named = [name for name in _LIMITS if request.get(name) is not None]
        accounts: list[JsonValue] = [
            {"stages": list(limiter.stages), "named": list(named), "was": before, "now": vitals.account(limiter)}
            for limiter, before in zip(meant, was, strict=True)
        ]
        for account in accounts:
            self._voice.say(f"tuned: {steering.tuned(cast('dict[str, JsonValue]', account))}")
        if not accounts:
            self._voice.say(steering.LATER)
        return {"accounts": accounts}


class _RefusedError(ValueError):
    """What was asked for cannot be."""


def _order(request: dict[str, JsonValue], live: Live) -> Order:
    """The order that a request stands for; each of several processes must be left with enough to work."""
    stage, most_open = request.get("stage"), request.get("open_requests")
    if stage not in (None, "rewrite", "answer"):
        raise _RefusedError("stage is 'rewrite' or 'answer'")
    least = live.processes
    if most_open is not None and most_open != "auto" and not _is_count(most_open, least):
        raise _RefusedError(
            f"open_requests: expected a whole number from {least} to {MOST_OPEN}, or 'auto'{_why(live)}"
        )
    found = Order(
        stage=cast("StageName | None", stage),
        open_requests=AUTO_MOST_OPEN if most_open == "auto" else cast("int | None", most_open),
        adaptive=most_open == "auto",
        requests_per_minute=_rate(request, "requests_per_minute", least, live),
        tokens_per_minute=_rate(request, "tokens_per_minute", LEAST_TOKENS_PER_MINUTE * least, live),
    )
    if found == Order(stage=found.stage):
        raise _RefusedError("nothing to change; name a limit")
    most = most_connections() * live.processes
    if found.open_requests is not None and found.open_requests * max(1, len(live.limiters)) > most:
        raise _RefusedError(
            f"open_requests: this run may have {most:.0f} connections; raise ulimit -n and start it anew"
        )
    return found


def _is_count(value: JsonValue, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_OPEN


def _rate(request: dict[str, JsonValue], name: str, least: int, live: Live) -> float | None:
    value = request.get(name)
    if value is None or value == "none":
        return None if value is None else math.inf
    many = live.processes > 1
    sound = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST_A_MINUTE
    if not sound or (many and cast("float", value) < least):
        raise _RefusedError(
            f"{name}: expected a number {f'from {least}' if many else 'above 0'}, or 'none'{_why(live)}"
        )
    return float(cast("float", value))


def _why(live: Live) -> str:
    return f"; {live.processes} processes share it" if live.processes > 1 else ""


def _is_one_of_us(peer: socket.socket) -> bool:
    """Whether the peer is of this user, or root; where the system does not tell, the socket's mode must do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", found)[1] in (0, os.geteuid())


async def _line_of(peer: socket.socket) -> bytes:
    """What comes up to a line's end, as far as any request is long."""
    found = bytearray()
    while b"\n" not in found and len(found) <= steering.MOST_BYTES:
        try:
            data = peer.recv(steering.MOST_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(peer)
            continue
        if not data:
            break
        found += data
    return bytes(found.partition(b"\n")[0]) if len(found) <= steering.MOST_BYTES else b""


async def _send(peer: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[peer.send(rest) :]
        except BlockingIOError:
            await anyio.wait_writable(peer)
