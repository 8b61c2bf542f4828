"""Child processes of a bench: the upstream on its core, and a client on another, with all that it used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.bench.upstream import Seen
from tests.processes import ENVIRON, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.upstream import Behaviour


@dataclass(frozen=True)
class Spent:
    """What a process used.

    Attributes:
        started_at: On the system-wide monotonic clock.
        cpu_s: Its own and that of the children it waited for; `peak_rss_kib` is of the largest of them.
        status: Negative for a signal that ended it.
        queued_s: How long its main thread was ready to run and others had the core: on a machine of one's own, nothing.
    """

    started_at: float
    seconds: float
    cpu_s: float
    peak_rss_kib: int
    status: int
    out: str
    err: str
    queued_s: float = 0.0


def spend(
    command: Sequence[str | Path], folder: Path, *, within_s: float, environ: dict[str, str] | None = None
) -> Spent:
    """Run a command in a folder to its end; it and its children are killed after `within_s`."""
    outputs = folder / "stdout", folder / "stderr"
    with outputs[0].open("wb") as out, outputs[1].open("wb") as err:
        began = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=ENVIRON | {"PYTHONPATH": str(ROOT), "HOME": str(folder)} | (environ or {}),
            start_new_session=True,
        )
        watchdog = threading.Timer(within_s, _end, (process.pid,))
        watchdog.start()
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its id stays taken until it is reaped below
            queued_s = _queued_s(process.pid)
        finally:
            watchdog.cancel()
            watchdog.join()
            _end(process.pid)
            _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    out_text, err_text = (path.read_text("utf-8", "replace") for path in outputs)
    if time.monotonic() - began >= within_s:
        err_text += f"\nkilled after {within_s:g} s"
    seconds, cpu_s = time.monotonic() - began, used.ru_utime + used.ru_stime
    return Spent(began, seconds, cpu_s, used.ru_maxrss, process.returncode, out_text, err_text, queued_s)


def _queued_s(pid: int) -> float:
    """0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _end(pid: int) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Serving:
    """A running upstream."""

    base_url: str

    def seen(self) -> Seen:
        """What it saw so far."""
        address = urlsplit(self.base_url)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=10)
        connection.request("GET", "/stats")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return Seen(**found)


@contextmanager
def serving(
    how: Behaviour, *, core: int | None = None, python: Path | str = sys.executable, seconds: float = 3600
) -> Iterator[Serving]:
    """An upstream process that does not outlive the block."""
    command = [str(python), "-m", "tests.bench.upstream", "--behaviour", json.dumps(asdict(how))]
    command += ["--seconds", str(seconds), *(["--core", str(core)] if core is not None else [])]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield Serving(json.loads(process.stdout.readline())["base_url"])
        finally:
            process.kill()


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """This process, and with it the children that it starts, on one core; None leaves all as it is."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
