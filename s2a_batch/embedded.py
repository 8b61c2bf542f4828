"""The local model server behind the default job: llama.cpp in a child process.

Knows xllamacpp, and that in the child alone. It gives a Chat Completions endpoint on the loopback interface, so that a
job runs with no account, no key and no other program.

Invariant: the child lives exactly as long as its parent wants it. It is told everything through its standard input, and
it exits when that pipe closes, which the kernel does for a parent that was killed as well. It ignores SIGINT and
SIGTERM, so that a run which drains keeps its server until the last reply.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn, Protocol, TypedDict

import anyio
from anyio.to_thread import run_sync

from s2a_batch.cores import usable_cores
from s2a_batch.errors import JobError
from s2a_batch.job import is_embedded
from s2a_batch.model_file import last_lines, own_model
from s2a_batch.stagejob import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import Process

    from s2a_batch.job import Job

# Tokens/s of rewrites with 1, 2, 4 slots: 33, 38, 31 (1 thread). Two also keep the examples of both stages in the
# cache, 0.5 k to 0.8 k tokens that need 2 s to read.
DEFAULT_SLOTS: Final = 2
# Instructions, examples and a short text take 850 tokens, the longest bounded reply 640.
DEFAULT_CONTEXT_TOKENS: Final = 2048

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 5.0
_TAIL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Served:
    """A running server.

    Attributes:
        base_url: What an OpenAI client takes as `base_url`, `/v1` included.
        api_key: Made for this run, known to this process and its child only.
        model: The name to ask for: the file's, without `.gguf`.
    """

    base_url: str
    api_key: str = field(repr=False)
    model: str


class _Order(TypedDict):
    """What the child reads as its first line of standard input."""

    model_path: str
    slots: int
    context_tokens: int
    api_key: str


def check(job: Job) -> None:
    """Look whether the stages that the embedded server serves can be served; fetches and starts nothing.

    Raises:
        JobError: `xllamacpp` is missing, or a model file of the job is missing or no GGUF file.
    """
    models = {str(stage.model) for stage in job.stages().values() if is_embedded(stage)}
    if models and importlib.util.find_spec("xllamacpp") is None:
        raise JobError('the embedded model needs xllamacpp; hint: pip install "s2a-batch[embedded]"')
    for model in models - {EMBEDDED}:
        own_model(model)


@asynccontextmanager
async def serve(
    model_path: Path,
    *,
    slots: int,
    context_tokens: int,
    say: Callable[[str], None],
) -> AsyncIterator[Served]:
    """A model server that runs as long as the context lasts.

    Args:
        model_path: A GGUF file.
        slots: How many requests it works on at once; more wait in its queue.
        context_tokens: Prompt plus reply of one request, at most.
        say: Prints a line for the person at the screen when the server died before its time.

    Raises:
        JobError: The server was not ready within 60 s.

    Cancelled anywhere, the child has ended when this returns, 10 s later at most.
    """
    order = _Order(
        model_path=str(await anyio.Path(model_path).absolute()),
        slots=slots,
        context_tokens=context_tokens,
        api_key=secrets.token_urlsafe(32),
    )
    log = await run_sync(tempfile.TemporaryFile)
    base_url = ""
    try:
        process = await _spawn(log)
        try:
            base_url = await _handshake(process, order, log)
            yield Served(base_url=base_url, api_key=order["api_key"], model=model_path.stem)
        finally:
            with anyio.CancelScope(shield=True):
                status = await _end(process)
                if status and base_url:
                    say(f"the model server ended with status {status} before its time\n{await _tail(log)}".rstrip())
    finally:
        log.close()


async def _spawn(log: IO[bytes]) -> Process:
    """Start the child in a session of its own, its messages going to `log`.

    It starts where this package is, so that no file of the user's directory can stand in for a module it imports.
    """
    return await anyio.open_process(
        [sys.executable, "-m", "s2a_batch.embedded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


async def _handshake(process: Process, order: _Order, log: IO[bytes]) -> str:
    """Tell the child what to serve; returns the base URL that it serves under."""
    reply = b""
    if process.stdin is None or process.stdout is None:
        raise JobError("the model server has no pipes; hint: report this as a bug")
    try:
        with anyio.fail_after(_START_TIMEOUT_S):
            await process.stdin.send(json.dumps(order).encode() + b"\n")
            while not reply.endswith(b"\n"):
                reply += await process.stdout.receive()
    except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        why = f"was not ready within {_START_TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else "did not start"
        raise JobError(
            f"{order['model_path']}: the model server {why}; hint: try fewer slots or another model\n{await _tail(log)}"
        ) from error
    return f"{reply.decode().strip()}/v1"


async def _end(process: Process) -> int | None:
    """Close the child's standard input, wait, kill it if it does not go; returns its exit status.

    A child that ends because it was asked to ends with 0; every other status tells of a crash or a kill.
    """
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(_STOP_TIMEOUT_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
    with anyio.move_on_after(_STOP_TIMEOUT_S):
        await process.aclose()
    return process.returncode


async def _tail(log: IO[bytes]) -> str:
    """The last lines of the child's messages."""

    def read() -> bytes:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - _TAIL_BYTES))
        return log.read()

    return last_lines(await run_sync(read))


def main() -> None:
    """Serve until standard input ends: what the child process runs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    answer_fd = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints is a message, not our answer
    order: _Order = json.loads(sys.stdin.buffer.readline())
    # From now on, so that a parent that dies while the model loads is noticed too.
    watch = threading.Thread(target=_exit_with_parent, daemon=True)
    watch.start()
    server = _start_llama(order)
    os.write(answer_fd, server.listening_address.encode() + b"\n")
    watch.join()  # it never returns; `server` lives as long as this frame


def _exit_with_parent() -> NoReturn:
    """Wait for the end of standard input, then leave without any clean-up.

    Reads the descriptor itself: a thread inside `sys.stdin` would crash the interpreter when it shuts down because the
    model did not load.
    """
    while os.read(0, 4096):
        pass
    os._exit(0)


class _Server(Protocol):
    """What is used of `xllamacpp.Server`, which ships no types."""

    @property
    def listening_address(self) -> str:
        """Scheme, host and port, as in `http://127.0.0.1:41853`."""


def _start_llama(order: _Order) -> _Server:
    """Load the model and serve it on a free port of the loopback interface."""
    import xllamacpp  # type: ignore[import-untyped] # noqa: PLC0415  100 MB of native code, wanted in the child alone

    params = xllamacpp.CommonParams()
    params.model.path = order["model_path"]
    params.model_alias = {Path(order["model_path"]).stem}  # else replies name the whole path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["api_key"]]
    params.n_parallel = order["slots"]
    params.n_ctx = order["slots"] * order["context_tokens"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _thread_count()
    params.cache_ram_mib = 0  # its cache of old prompts would grow to 8 GB
    params.endpoint_slots = params.ui = False
    params.verbosity = 1  # errors only
    try:
        server: _Server = xllamacpp.Server(params)
    except RuntimeError as error:  # its message is poor, the lines before it are not
        raise SystemExit(str(error)) from None
    return server


def _thread_count() -> int:
    """Half of the CPUs that this process may use.

    llama.cpp's threads wait for each other by spinning. On 2 CPUs with a busy neighbour 2 threads gave 2 tokens/s and
    1 thread 38; on idle CPUs 2 gave 70.
    """
    cpus = usable_cores()
    return max(1, cpus // 2)


if __name__ == "__main__":
    main()
