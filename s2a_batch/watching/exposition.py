"""Where Prometheus finds a run's metrics: behind a port while it goes, and in a file for the node exporter.

Knows prometheus_client. Invariants: who asks is answered from what was last looked at and never touches the run; a port
that is taken or a file that cannot be written is said once and stops nothing; the file is there as a whole or not at
all, and open to all readers, as nothing in it is secret.
"""

from __future__ import annotations

import io
import os
import socket
import time
from contextlib import suppress
from dataclasses import replace
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, Final, TextIO, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from s2a_batch.linefiles import NEW
from s2a_batch.report import Tally, together
from s2a_batch.watching.metrics import PREFIX, Last, State, families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from s2a_batch.live import Finished, Live
    from s2a_batch.operations import Metrics

_Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]
_LOOK_S: Final = 1.0
_WRITE_S: Final = 15.0
_PEER_S: Final = 5.0
_MOST_PEERS: Final = 16
_MOST_BYTES: Final = 1 << 20


class Exposition(Collector):
    """Shows the metrics of one run, or of the runs of one comparison, which count together.

    Args:
        settings: Where.
        job: The job's name.
        warn: Prints one line about what is lost.
    """

    def __init__(self, settings: Metrics, job: str, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._job = job
        self._warn = warn
        self._registry = CollectorRegistry()
        self._last = Last() if settings.textfile is None else _last_in(settings.textfile, job)
        self._started = time.time()
        self._tallies: list[Tally] = []
        self._seconds = 0.0
        self._shown: list[Metric] = []
        self._is_told = False
        self._show(State(running=True))
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What was last looked at; called from the server's threads."""
        return self._shown

    async def watch(self, live: Live) -> None:
        """Look at the run until cancelled."""
        if not self.has_begun:
            self._started = time.time()
        self._tallies.append(live.tally)
        self._show(State.of(live))
        server = self._serve()
        written = float("-inf")
        try:
            while True:
                self._show(State.of(live))
                if anyio.current_time() - written >= _WRITE_S:
                    written = anyio.current_time()
                    await anyio.to_thread.run_sync(self._write)
                await anyio.sleep(_LOOK_S)
        finally:
            if server is not None:
                server.stop()

    @property
    def has_begun(self) -> bool:
        """Whether there was a run to look at."""
        return bool(self._tallies)

    def finished(self, found: Finished) -> None:
        """A run is over, maybe not the last one."""
        self._seconds += found.summary.seconds

    def ended(self, exit_status: int) -> None:
        """How all of it ended goes to the file; the last success stays there when it was none."""
        now = time.time()
        self._last = Last(now if exit_status == 0 else self._last.success, now, exit_status)
        self._show(State())
        self._write()

    def _show(self, state: State) -> None:
        state = replace(state, seconds=self._seconds + state.seconds)
        self._shown = families(self._job, together(self._tallies), state, self._started, self._last)

    def _serve(self) -> _Server | None:
        if self._settings.port is None:
            return None
        try:
            return _Server(self._settings.address, self._settings.port, self._registry)
        except (OSError, UnicodeError) as error:
            place = f"{self._settings.address} port {self._settings.port}"
            why = error.strerror if isinstance(error, OSError) else "no host name"
            self._warn(f"metrics cannot be served on {place}: {why}; the run goes on")
            return None

    def _write(self) -> None:
        """Replace the file; tell once that it cannot be done, and try again the next time."""
        path = self._settings.textfile
        if path is None:
            return
        temporary = path.with_name(path.name + NEW)
        try:
            temporary.unlink(missing_ok=True)  # a link of somebody else's would lead elsewhere
            with temporary.open("xb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(generate_latest(self._registry))
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not self._is_told:
                self._is_told = True
                self._warn(f"{path}: metrics cannot be written: {error.strerror}; the run goes on")


class _Server(ThreadingMixIn, WSGIServer):
    """Answers from threads of its own, few at a time: each takes an open file, which the run needs."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)
        self.set_app(make_wsgi_app(registry))
        self._free = BoundedSemaphore(_MOST_PEERS)
        self._thread = Thread(target=self.serve_forever, args=(0.05,), daemon=True, name="metrics")
        self._thread.start()

    def server_bind(self) -> None:
        """Without a look-up of this machine's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: _Request, client_address: object) -> None:
        """In a thread, or not at all when all are busy."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        """One peer's."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, *_: object) -> None:
        """Who went away while it was answered is no matter."""

    def stop(self) -> None:
        """Give the port back."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(WSGIRequestHandler):
    timeout = _PEER_S

    def get_stderr(self) -> TextIO:
        """Nowhere: stderr is the run's."""
        return io.StringIO()

    def log_message(self, *_: object) -> None:
        """Nothing, likewise."""


def _last_in(path: Path, job: str) -> Last:
    """How executions of this job ended, by the file that the last one left; a damaged one says nothing."""
    found: dict[str, float] = {}
    with suppress(OSError, ValueError):
        if path.is_file():  # a pipe would have us wait
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES).decode()
            for family in text_string_to_metric_families(text):
                found |= {s.name: s.value for s in family.samples if s.labels == {"job": job}}
    status = found.get(PREFIX + "last_exit_status")
    return Last(
        found.get(PREFIX + "last_success_timestamp_seconds"),
        found.get(PREFIX + "last_end_timestamp_seconds"),
        None if status is None else int(status),
    )
