"""Speaks to a run that goes on, through the socket in its directory, and says what came of it.

One JSON line asks, one answers. Invariants: every wait has a bound; a run without a socket, or one that is about to
begin or to end, is told from no run at all by its lock.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import JobError, StoppedEarly
from s2a_batch.figures import clock, dollars
from s2a_batch.lock import is_locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

SOCKET: Final = ".control"
MOST_BYTES: Final = 1 << 16
"""Of a request, and of a reply."""
WITHIN_S: Final = 5.0
_LOOK_S: Final = 2.0
_START_S: Final = 1.0  # a run has its socket at once
_AGAIN_S: Final = 0.05
_MOST_PATH_BYTES: Final = 100
"""A socket's address has room for 108."""
LATER: Final = "tuned: holds as soon as the endpoints are open"
_NAMES: Final = {
    "open_requests": "open requests",
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "learnt_requests_per_minute": "learnt requests a minute",
}


@contextmanager
def address(directory: Path) -> Iterator[str]:
    """Where the socket of a run's directory is, as a path that is short enough."""
    path = str(directory / SOCKET)
    if len(os.fsencode(path)) <= _MOST_PATH_BYTES:
        yield path
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def look(directory: Path) -> dict[str, Any] | None:
    """The live numbers of the run that goes on here; None when none does, or it does not tell them at once."""
    if not is_locked(directory):
        return None
    found = _exchange(directory, {"command": "status"}, _LOOK_S)
    return found if found is not None and "error" not in found else None


def order(directory: Path, request: dict[str, object], within_s: float = WITHIN_S) -> dict[str, Any]:
    """Have the run that goes on here do something; returns its reply.

    Raises:
        JobError: No run goes on here, or it refuses.
        StoppedEarly: It does not answer in time.
    """
    begun = time.monotonic()
    end = begun + within_s
    while is_locked(directory):
        reply = _exchange(directory, request, max(_AGAIN_S, end - time.monotonic()))
        if reply is not None:
            if "error" in reply:
                raise JobError(f"{directory}: {reply['error']}")
            return reply
        if not (directory / SOCKET).is_socket() and time.monotonic() >= begun + _START_S:
            raise StoppedEarly(f"{directory}: a run goes on here and has no {SOCKET} socket")
        if time.monotonic() >= end:
            raise StoppedEarly(f"{directory}: a run goes on here and does not answer within {within_s:g} s")
        time.sleep(_AGAIN_S)
    raise JobError(f"{directory}: no run goes on here")


def _exchange(directory: Path, request: dict[str, object], within_s: float) -> dict[str, Any] | None:
    """One request and its reply; None when nobody answers."""
    end, parts = time.monotonic() + within_s, bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            # The kernel's own time limit: with Python's, a full queue refuses at once in place of having us wait in it.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(within_s))
            with address(directory) as path:
                peer.connect(path)
            peer.sendall(json.dumps(request).encode() + b"\n")
            while b"\n" not in parts and len(parts) < MOST_BYTES and (left := end - time.monotonic()) > 0:
                peer.settimeout(left)
                if not (data := peer.recv(MOST_BYTES)):
                    break
                parts += data
            found = json.loads(parts)
        except (OSError, ValueError):
            return None
    return found if isinstance(found, dict) else None


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


# --- what is said


def told(reply: dict[str, Any], directory: Path) -> str:
    """What a run that was steered says."""
    if "accounts" in reply:
        return "\n".join(tuned(account) for account in reply["accounts"]) or LATER
    if not reply["changed"]:
        return f"{directory}: " + ("was paused already" if reply["paused"] else "was not paused")
    if not reply["paused"]:
        return f"{directory}: goes on after {clock(reply['seconds'])}"
    return (
        f"{directory}: paused; {reply['open']} open requests finish, nothing new is sent until s2a-batch resume "
        "(budget.max_runtime_s and budget.until go on counting)"
    )


def tuned(account: dict[str, Any]) -> str:
    """What became of one account's limits."""
    was, now = account["was"], account["now"]
    rows = [
        f"{name} {_limit(was[key])} -> {_limit(now[key])}"
        if was[key] != now[key]
        else f"{name} stays {_limit(now[key])}"
        for key, name in _NAMES.items()
        if key in account["named"]
    ]
    return f"{', '.join(account['stages'])}: {', '.join(rows)}"


def _limit(value: float | str | None) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:.10g}"


def standing(found: dict[str, Any], directory: Path) -> str:
    """The live numbers for a person."""
    done = f"{found['rewritten']} rewritten" if found["rewritten"] else f"{found['answered']} answered"
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items())
    rows = [
        f"{directory}: running; {done}, {found['failed']} failed"
        + (f" ({kinds})" if kinds else "")
        + (f", {found['done_before']} done before" if found["done_before"] else "")
        + (f", ~{found['left']} left" if found["left"] is not None else "")
    ]
    for name, stage in found["stages"].items():
        rare = [f"{stage[key]} {key.replace('_', ' ')}" for key in ("retries", "rate_limited") if stage[key]]
        counts = [f"{stage['open']} open", f"{stage['waiting']} waiting", f"{stage['done']} done", *rare]
        rows.append(f"{name}: {', '.join(counts)}; {stage['input_tokens']} tokens in, {stage['output_tokens']} out")
    pace = f"{found['requests_per_second']:.1f} requests/s, {found['tokens_per_second']:.0f} tokens/s"
    eta = "" if found["eta_s"] is None else f"; ETA {clock(found['eta_s'])}"
    gone = f"{clock(found['seconds'])} gone since {found['started_at']} (pid {found['pid']})"
    rows.append(f"{pace}; cost so far {dollars(found['cost_usd'])}; {gone}{eta}")
    for account in found["accounts"]:
        caps = ", ".join(f"{name} {_limit(account[key])}" for key, name in _NAMES.items() if account[key] is not None)
        rows.append(f"limits of {', '.join(account['stages'])}: {caps}; {account['open']} open")
    for held in found["held_up"]:
        until = f", next try {held['until']}" if held["until"] else ""
        rows.append(f"held up: {held['what']} since {held['since']}{until}")
    return "\n".join(rows)
