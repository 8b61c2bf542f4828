"""The environments of the upstream and of the peers: one venv each, pinned, made with pip and kept."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

UPSTREAM = "upstream"
PINS: dict[str, tuple[str, ...]] = {
    UPSTREAM: ("uvloop==0.23.0",),
    "direct": ("aiohttp==3.14.5", "orjson==3.13.0", "pydantic==2.14.4"),
    "async-batch-llm": ("async-batch-llm==0.28.0", "openai==3.57.0", "pydantic==2.14.4"),
    "cookbook": ("aiohttp==3.14.5", "pydantic==2.14.4"),
    "curator": ("bespokelabs-curator==0.1.31", "litellm==1.83.7"),
    "langchain": ("langchain-openai==1.7.4", "langchain-core==1.8.3", "openai==3.57.0"),
    "litellm": ("litellm==1.110.2",),
    "naive": ("openai==3.3.0", "instructor==1.17.0", "pydantic==2.14.4"),
}
"""What is installed beside what these need; a name that stands here and is no upstream is a peer."""
MOST_S = 900


class NotInstalled(Exception):
    """An environment cannot be made; the text is one line that says why."""


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of an environment in the folder, which is made if it is not there.

    Raises:
        NotInstalled: pip failed.
    """
    pins = PINS[name]
    place = folder / f"{name}-{hashlib.sha256(' '.join(pins).encode()).hexdigest()[:8]}"
    python = place / "bin" / "python"
    if (place / "complete").exists():
        return python
    shutil.rmtree(place, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(place)])
    _run([str(python), "-m", "pip", "install", "-q", *pins])
    (place / "complete").touch()
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST_S)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"no end after {MOST_S} s of {' '.join(command[1:4])}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise NotInstalled((said or ["no output"])[-1][:200])
