"""The program as a child process, forked from one that has its imports done: a start costs milliseconds, not seconds.

Signals, locks, exit statuses and files are the real ones. What belongs to the start of the interpreter (its encoding,
a closed stdin) needs `subprocess` instead.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.context import ForkServerProcess

JsonObject = dict[str, Any]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        __name__,
        "pytest",
        "s2a_batch.cli",
        "s2a_batch.display",
        "s2a_batch.worker",
        "openai.resources",
        "anyio._backends._asyncio",
    ]
)
ROOT = Path(__file__).resolve().parents[1]
"""The repository, where child processes find the package."""
OPEN = 4
RUN = ("run", "in.jsonl", "-o", "out", "--model", "m", "--open-requests", str(OPEN))
"""The usual command; what it lacks is the address."""
PRICES = ("--set", "price.usd_per_million_input=1000", "--set", "price.usd_per_million_output=2000")
"""Options that give both stages a price."""
ENVIRON = {"PATH": os.environ.get("PATH", "")}


@dataclass(frozen=True)
class Done:
    """How a program ended; `status` is negative for a signal that killed it."""

    status: int
    out: str
    err: str
    peak_kib: int


@dataclass(frozen=True)
class Program:
    """A started program; its output goes to files, so that it never waits for a reader."""

    process: ForkServerProcess
    files: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid
        return self.process.pid

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would, if it has not ended, and wait until it is gone."""
        with suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        self.wait()

    def wait(self, within_s: float = 60) -> Done:
        """Wait for its end; raise TimeoutError, and kill it, when that takes longer."""
        self.process.join(within_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"it still ran after {within_s} s; {self.err()}")
        peak = self.files.with_suffix(".peak")
        kib = int(peak.read_text()) if peak.exists() else 0
        return Done(self.process.exitcode, self.files.with_suffix(".out").read_text("utf-8"), self.err(), kib)

    def err(self) -> str:
        """What it wrote to stderr up to now."""
        return self.files.with_suffix(".err").read_text("utf-8")


def start(
    folder: Path,
    *argv: str | Path,
    environ: dict[str, str] | None = None,
    most_file_bytes: int | None = None,
    err: str | None = None,
    stdin: Path | None = None,
) -> Program:
    """Start `s2a-batch ARGV` in a folder.

    Args:
        folder: Its working directory; what it prints goes to files beside it.
        argv: Its arguments.
        environ: Variables apart from PATH.
        most_file_bytes: No file may grow larger; a write beyond fails as on a full disk.
        err: The file where stderr goes instead; "" is a pipe that nobody reads.
        stdin: What it reads from; a named pipe is opened when its writer comes.
    """
    assert folder != ROOT, "what it prints goes to files beside its folder"
    number = sum(1 for _ in folder.parent.glob(f"{folder.name}-*.err"))
    files = folder.parent / f"{folder.name}-{number}"
    for suffix in (".out", ".err"):
        files.with_suffix(suffix).touch()
    words = [str(word) for word in argv]
    process = _CONTEXT.Process(
        target=_program,
        args=(folder, words, ENVIRON | (environ or {}), files),
        kwargs={"most": most_file_bytes, "err": err, "stdin": stdin},
        daemon=True,
    )
    process.start()
    return Program(process, files)


def run(
    folder: Path,
    *argv: str | Path,
    environ: dict[str, str] | None = None,
    within_s: float = 60,
    stdin: Path | None = None,
) -> Done:
    """Run `s2a-batch ARGV` in a folder to its end."""
    return start(folder, *argv, environ=environ, stdin=stdin).wait(within_s)


@contextmanager
def running(
    folder: Path, *argv: str | Path, environ: dict[str, str] | None = None, stdin: Path | None = None
) -> Iterator[Program]:
    """A started program that does not outlive the block."""
    program = start(folder, *argv, environ=environ, stdin=stdin)
    try:
        yield program
    finally:
        if program.process.exitcode is None:
            program.kill()


def _program(
    folder: Path,
    argv: list[str],
    environ: dict[str, str],
    files: Path,
    *,
    most: int | None,
    err: str | None,
    stdin: Path | None,
) -> NoReturn:
    os.chdir(folder)
    if stdin is not None:
        os.dup2(os.open(stdin, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environ)
    for fd, name in ((1, files.with_suffix(".out")), (2, err or files.with_suffix(".err"))):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), fd)
    if err == "":
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(reader)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  for good
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["s2a-batch", *argv]
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    from s2a_batch.cli import main  # noqa: PLC0415  the parent needs it not

    try:
        main()
    finally:
        if most is None:
            files.with_suffix(".peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    sys.exit(0)


def write_input(path: Path, numbers: Iterable[int], text: str = "Is [[r-{n}]] right? I think it is.") -> None:
    """An input of one record a number; its id is the number."""
    path.write_text("".join(json.dumps({"id": n, "prompt": text.replace("{n}", str(n))}) + "\n" for n in numbers))


def read_lines(path: Path) -> list[JsonObject]:
    """The objects of a strict JSON Lines file, which ends with a newline; none when there is no file."""
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    assert not rest, "the last line is unfinished"
    return [strict(line) for line in lines]


def strict(line: bytes) -> JsonObject:
    """One line as an object; raise ValueError for what only Python calls JSON."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    found = json.loads(line.decode("utf-8"), parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def caps(text: str) -> tuple[str, str]:
    """Options that set one cap of the budget."""
    return ("--set", f"budget.{text}")


def manifest(folder: Path) -> JsonObject:
    """What `run.json` of a folder's usual run says."""
    found: JsonObject = json.loads((folder / "out" / "run.json").read_text())
    return found
