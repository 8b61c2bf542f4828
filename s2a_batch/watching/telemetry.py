"""Sends a run's traces and metrics to an OpenTelemetry collector, beside the run.

The run's own files are the queue: what was appended since it began is read a megabyte at a time, made into spans in a
thread, and sent. So nothing is added to a record's way, several processes make no difference, and a collector that is
slow or away for an hour costs nothing but time. Invariants: it sends what no longer changes, never waits longer than
`_LAST_S` at the end, and its faults are told once and stop nothing; no login, header or query reaches a message.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread

from s2a_batch import interrupts
from s2a_batch.credentials import headers_of, login_header
from s2a_batch.errors import AttemptError, EndpointError, JobError
from s2a_batch.masking import Mask, masked_url, secrets_in_url
from s2a_batch.rundir import DEAD_LETTERS, RESULTS, REWRITES
from s2a_batch.transport import Transport

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from s2a_batch.job import Job
    from s2a_batch.live import Finished, Live
    from s2a_batch.watching.traces import Traces

_LOOK_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_METRICS_S: Final = 10.0
_DEADLINE_S: Final = 5.0
_LAST_S: Final = 5.0
_BLOCK_BYTES: Final = 1 << 20
_LONGEST_LINE_BYTES: Final = 16 << 20
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})


class Telemetry:
    """Sends what one run writes.

    Args:
        job: Names the collector, and the endpoints that are asked.
        name: The job's name.
        environ: Where the values of headers are looked up.
        warn: Prints one line about what is lost.

    Raises:
        JobError: The packages are not installed, a header's variable is not set, or no HTTP client can be made.
    """

    def __init__(self, job: Job, name: str, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
        self._traces = _traces(job, name)
        self._job = job
        self._warn = warn
        endpoint = str(job.telemetry.endpoint)
        headers = headers_of("telemetry", job.telemetry.headers_env, environ)
        self._mask = Mask([*headers.values(), *secrets_in_url(endpoint)])
        self._shown = masked_url(endpoint)
        sent = login_header(urlsplit(endpoint).netloc) | headers | {"content-type": "application/x-protobuf"}
        self._headers = {name.lower(): value for name, value in sent.items()}
        self._addresses = [_address(endpoint, what) for what in ("traces", "metrics")]
        self._transports()
        self._live: Live | None = None
        self._tails: list[_Tail] = []
        self._batch: _Batch | None = None
        self._sent = 0
        self._trouble: str | None = None

    async def watch(self, live: Live) -> None:
        """Send what is appended until cancelled."""
        self._live = live
        await live.ready.wait()
        names = (RESULTS, DEAD_LETTERS, *((REWRITES,) if self._job.only else ()))
        self._tails = [_Tail(live.directory / name) for name in names]
        pause_s, metrics_at = _LOOK_S, anyio.current_time()
        async with AsyncExitStack() as stack:
            traces, metrics = [await stack.enter_async_context(transport) for transport in self._transports()]
            while True:
                if await self._send_batch(traces):
                    pause_s = _LOOK_S
                    if self._batch is None:
                        await anyio.sleep(_LOOK_S)
                else:
                    await anyio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if self._sent and anyio.current_time() - metrics_at >= _METRICS_S:
                    metrics_at = anyio.current_time()
                    await self._post(metrics, await anyio.to_thread.run_sync(self._traces.histograms.encoded))

    def finished(self, found: Finished) -> None:
        """Send what is left, for some seconds at most, and tell how much was not."""
        if not self._tails:  # it never came so far
            return
        with suppress(KeyboardInterrupt):  # one that came before signals are heeded
            anyio.run(self._send_rest)
        summary = found.summary
        left = summary.answered + summary.failed + summary.rewritten - self._sent
        if left > 0:
            long = sum(tail.passed for tail in self._tails)
            late = f"their lines are too long (over {_LONGEST_LINE_BYTES} bytes)" if long == left else "time was up"
            why = self._trouble or late
            self._warn(f"telemetry: the traces of {left} records were not sent to {self._shown}: {why}")
        for tail in self._tails:
            tail.close()

    async def _send_rest(self) -> None:
        """A signal ends it: who does not want to wait need not, and whoever is told of the run is told all the same."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interrupts.cancel, tasks.cancel_scope, self._note_signal)
            with anyio.move_on_after(_LAST_S):
                await self._send_all()
            tasks.cancel_scope.cancel()

    async def _send_all(self) -> None:
        async with AsyncExitStack() as stack:
            traces, metrics = [await stack.enter_async_context(transport) for transport in self._transports()]
            while await self._send_batch(traces):
                if self._batch is None:
                    if self._sent:
                        await self._post(metrics, self._traces.histograms.encoded())
                    return

    def _note_signal(self, number: signal.Signals) -> None:
        self._trouble = self._trouble or f"{number.name} ended it"

    async def _send_batch(self, transport: Transport) -> bool:
        """Send the next lines; False when the collector did not take them now. After True no batch: nothing is new."""
        if self._batch is None:
            await anyio.to_thread.run_sync(self._fill)
        if self._batch is None:
            return True
        batch = self._batch
        status = await self._post(transport, batch.body)
        if status is None:
            return False
        self._sent += batch.records if status else 0
        self._batch = None
        await anyio.to_thread.run_sync(self._fill)
        return True

    def _fill(self) -> None:
        """Make the next batch, in a thread."""
        for tail in self._tails:
            if lines := tail.take():
                self._batch = _Batch(self._traces.spans(lines), len(lines))
                return

    async def _post(self, transport: Transport, body: bytes) -> bool | None:
        """Whether the collector took it; None: it may take it later."""
        try:
            status = await transport.post_only(body)
        except (AttemptError, EndpointError) as error:
            self._note(self._mask.message(str(error)))
            return None
        if status in range(200, 300):
            return True
        self._note(f"HTTP {status}")
        return None if status in _TRANSIENT else False

    def _note(self, why: str) -> None:
        if self._trouble is None:
            self._warn(f"telemetry: {self._shown} does not take it: {why}; the run goes on")
        self._trouble = why

    def _transports(self) -> list[Transport]:
        found = [Transport(url, deadline_s=_DEADLINE_S, connections=1) for url in self._addresses]
        for transport in found:
            transport.headers = self._headers
        return found


@dataclass(frozen=True, slots=True)
class _Batch:
    body: bytes
    records: int


class _Tail:
    """Lines that are appended to a file from now on; one that is too long to be looked at is passed over.

    Attributes:
        passed: How many were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._open()
        self._offset = 0 if self._fd is None else os.fstat(self._fd).st_size
        self._is_cut = False
        self.passed = 0

    def take(self) -> list[bytes]:
        """About a megabyte of whole lines; none: nothing is new."""
        self._open()
        if self._fd is None:
            return []
        want = _BLOCK_BYTES
        while True:
            block = os.pread(self._fd, want, self._offset)
            end = block.rfind(b"\n") + 1
            if end or len(block) < want:
                break
            if want >= _LONGEST_LINE_BYTES:
                self._is_cut, end = True, len(block)
                self._offset += end
                continue
            want *= 4
        self._offset += end
        lines = block[:end].split(b"\n")[:-1]
        if self._is_cut and lines:
            self._is_cut = False
            self.passed += 1
            del lines[0]
        return lines

    def close(self) -> None:
        """Read no more."""
        if self._fd is not None:
            os.close(self._fd)

    def _open(self) -> None:
        if self._fd is None:
            with suppress(OSError):
                self._fd = os.open(self._path, os.O_RDONLY)


def _traces(job: Job, name: str) -> Traces:
    try:
        from s2a_batch.watching import traces  # noqa: PLC0415  an extra, and half a second
    except ModuleNotFoundError as error:
        raise JobError(f"telemetry needs {error.name}; hint: pip install 's2a-batch[telemetry]'") from None
    return traces.Traces(job, name, content=job.telemetry.content)


def _address(endpoint: str, what: str) -> str:
    parts = urlsplit(endpoint)
    if parts.path.rstrip("/").endswith(("/v1/traces", "/v1/metrics")):
        raise JobError("telemetry.endpoint: leave out /v1/..; it is added for traces and for metrics")
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    return urlunsplit(place._replace(path=f"{parts.path.rstrip('/')}/v1/{what}"))
