"""A page over a run's directory, served to this machine's browser alone: `s2a-batch view`.

Invariants: it listens on the loopback address only; the index is filled by a child process, which is started before
the server's packages are loaded and ends with this process, so that a million lines do not hold the first page up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Final

from s2a_batch import rundir
from s2a_batch.errors import JobError
from s2a_batch.web import viewindex, viewrecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s2a_batch.web.viewrecord import Names

_HOST: Final = "127.0.0.1"
_FIRST_LINES: Final = 200
_PACKAGES: Final = ("starlette", "uvicorn")


def serve(directory: Path, port: int, *, browser: bool, say: Callable[[str], None]) -> None:
    """Serve a run's page until the process is interrupted.

    Args:
        directory: The run's.
        port: Where to listen on the loopback address; 0 for a free one.
        browser: Open it in the default browser.
        say: Takes the URL, once the page can be opened.

    Raises:
        JobError: It is no run's directory, the port is taken, or the packages of the extra `view` are missing.
    """
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise JobError(f"the page needs {' and '.join(missing)}; hint: pip install 's2a-batch[view]'")
    names = _input_names(directory)
    token, once = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(port))
        index = _begun_index(directory, names, stack)
        child = stack.enter_context(_following(directory, index, names))
        from s2a_batch.web import viewsite  # noqa: PLC0415  takes a second, in which the index begins

        at = f"http://{_HOST}:{listener.getsockname()[1]}/?token="
        say(at + token)
        if browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin"):
            webbrowser.open(at + once)
        site = viewsite.Site(directory, index, names, lambda: child.poll() is None)
        viewsite.answer(site, listener, token, once if browser else "")


def _input_names(directory: Path) -> Names:
    """Under which names the input objects of a run hold their parts."""
    manifest = rundir.read_manifest(directory)
    if manifest is None:
        raise JobError(f"{directory}: no run here (it has no {rundir.MANIFEST}); give the directory that -o named")
    return viewrecord.table(viewrecord.table(manifest.get("job")).get("fields"))


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise JobError(f"port {port} of {_HOST} cannot be had: {error}; hint: --port 0 takes a free one") from None
    return listener


def _begun_index(directory: Path, names: Names, stack: contextlib.ExitStack) -> Path:
    """An index of the first records: in the run's directory, or for one that cannot be written in a temporary one."""
    path = directory / viewindex.NAME
    try:
        _begin_index(path, directory, names)
    except (OSError, sqlite3.Error):
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / viewindex.NAME
        _begin_index(path, directory, names)
    return path


def _begin_index(path: Path, directory: Path, names: Names) -> None:
    with contextlib.closing(viewindex.open_index(path)) as db:
        viewindex.Indexer(db, directory, names).step(_FIRST_LINES)


@contextlib.contextmanager
def _following(directory: Path, index: Path, names: Names) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that keeps the index up with the files."""
    arguments = [str(directory), str(index), json.dumps(names), str(os.getpid())]
    # Found where this one was found, and never in the directory that the person stands in.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen(  # noqa: S603  ourselves
        [sys.executable, "-P", "-m", "s2a_batch.web.viewindex", *arguments],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()
