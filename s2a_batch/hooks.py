"""Tells somebody how a run ended: a command, which reads it as JSON from stdin, or a webhook, which gets it by POST.

Invariants: it runs after the run, whose
files are closed and whose lock is free; it has a bound in time, however it hangs or trickles; what becomes of it
changes no exit status; no message shows more of an address than its host.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import anyio

from s2a_batch import interrupts
from s2a_batch.credentials import check_hook, hook_address, login_header
from s2a_batch.errors import BUG_STATUS, JobError, StopRun, TransientError, meaning
from s2a_batch.masking import Mask, masked_place, secrets_in, secrets_in_url
from s2a_batch.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anyio.abc import ByteReceiveStream, ByteSendStream

    from s2a_batch.account import Summary
    from s2a_batch.job import Job
    from s2a_batch.operations import Hook

SCHEMA: Final = 1
_PAUSES_S: Final = (0.0, 1.0, 3.0)
_SUCCESS: Final = range(200, 300)
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429
_SHOWN_BYTES: Final = 2_000
_LAST_S: Final = 0.2


@dataclass(slots=True)
class Story:
    """How a run ended, as far as it is known.

    Attributes:
        name: The job's.
        files: What of the run lies where, by its role.
        stopped: Why it did not come to its end.
    """

    name: str
    job: Job
    files: Mapping[str, str]
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    exit_status: int = BUG_STATUS
    summary: Summary | None = None
    stopped: str | None = None

    def ended(self, exit_status: int, summary: Summary | None = None) -> None:
        """It came to an end of its own."""
        self.exit_status = exit_status
        self.summary = None if exit_status == JobError.exit_status else summary  # nothing was done
        self.stopped = None if summary is None else summary.stopped

    def to_json(self) -> str:
        """All that a hook is told."""
        now, summary, told = datetime.now(UTC), self.summary, meaning(self.exit_status)
        found = {
            "schema": SCHEMA,
            "text": f"{self.name}: {told} (exit {self.exit_status}){_counts(summary)}",
            "job": self.name,
            "input": self.job.model_dump(mode="json", include={"input"})["input"],
            "output": str(self.job.output),
            "exit_status": self.exit_status,
            "meaning": told,
            "stopped": self.stopped,
            "summary": None if summary is None else summary.model_dump(mode="json"),
            "cost_usd": None if summary is None else summary.cost_usd,
            "started_at": self.began.isoformat(timespec="seconds"),
            "ended_at": now.isoformat(timespec="seconds"),
            "seconds": round((now - self.began).total_seconds(), 3),
            "host": socket.gethostname(),
            "files": {role: os.path.abspath(self.job.output / name) for role, name in self.files.items()},  # noqa: PTH100  of no file's target
        }
        return json.dumps(found)


def _counts(summary: Summary | None) -> str:
    if summary is None:
        return ""
    done = f"{summary.rewritten} rewritten" if summary.rewritten else f"{summary.answered} answered"
    return f": {done}, {summary.failed} failed, {summary.skipped} done before"


@contextmanager
def telling(
    name: str, job: Job, files: Mapping[str, str], warn: Callable[[str], None], environ: Mapping[str, str] = os.environ
) -> Iterator[Story]:
    """Around a run: whoever the job names is told how it ended, also when it could not begin.

    Args:
        name: The job's.
        job: What is run.
        files: What it leaves, by its role.
        warn: Prints what went wrong with a hook.
        environ: What a command gets, and where addresses and header values are looked up.
    """
    story = Story(name, job, files)
    try:
        yield story
    except StopRun as error:
        story.exit_status, story.stopped = error.exit_status, str(error)
        raise
    except KeyboardInterrupt:
        story.exit_status = 128 + signal.SIGINT
        raise
    finally:
        which = "on_failure" if story.exit_status else "on_success"
        hook: Hook | None = getattr(job.hooks, which)
        if hook is not None and (fault := _told(hook, story, environ)):
            warn(f"hooks.{which} failed: {fault}")


def _told(hook: Hook, story: Story, environ: Mapping[str, str]) -> str | None:
    """Tell it; why that failed, without secrets; None when it did not."""
    try:
        check_hook(hook, environ)
        fault = anyio.run(_tell, hook, story.to_json(), story.job.hooks.timeout_s, environ)
        return None if fault is None else _masked(hook, fault, environ)
    except JobError as error:  # the run could not begin for it
        return _masked(hook, str(error), environ)
    except Exception as error:  # noqa: BLE001  the run is over, and its exit status is known
        return f"{type(error).__name__}, a fault of this program"


async def _tell(hook: Hook, text: str, within_s: float, environ: Mapping[str, str]) -> str | None:
    """Why it was not told; None when it was. A signal ends it."""
    found: list[str | None] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            interrupts.cancel, tasks.cancel_scope, lambda number: found.append(f"it was ended by {number.name}")
        )
        with anyio.move_on_after(within_s):
            found.append(await (_run if hook.command else _post)(hook, text, within_s, environ))
        tasks.cancel_scope.cancel()
    return found[0] if found else f"it took longer than {within_s:g} s"


# --- a command


async def _run(hook: Hook, text: str, _: float, environ: Mapping[str, str]) -> str | None:
    try:
        process = await anyio.open_process(
            hook.command, stderr=subprocess.STDOUT, start_new_session=True, env=dict(environ)
        )
    except OSError as error:
        return f"{hook.command[0]}: {error.strerror}"
    said = bytearray()
    try:
        async with anyio.create_task_group() as tasks:
            if process.stdin is not None and process.stdout is not None:
                tasks.start_soon(_hand_over, process.stdin, text.encode())
                tasks.start_soon(_read, process.stdout, said)
            status = await process.wait()
            await anyio.sleep(_LAST_S if status else 0)  # what it left running may keep its output open for ever
            tasks.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True), anyio.move_on_after(_LAST_S):
            await process.aclose()
    if not status:
        return None
    how = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
    output = said.decode(errors="replace").strip()
    return f"{hook.command[0]}: {how}" + (f"; it said:\n{output}" if output else "")


async def _hand_over(stdin: ByteSendStream, text: bytes) -> None:
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):  # it need not read
        await stdin.send(text)
        await stdin.aclose()


async def _read(stdout: ByteReceiveStream, said: bytearray) -> None:
    with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            said += await stdout.receive()
            del said[:-_SHOWN_BYTES]


# --- a webhook


async def _post(hook: Hook, text: str, within_s: float, environ: Mapping[str, str]) -> str | None:
    """Post it, and again when nobody could be reached or the server has a fault of its own."""
    url = hook_address(hook, environ)
    parts, place = urlsplit(url), masked_place(url)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    failure = ""
    try:
        transport = Transport(address, deadline_s=within_s, connections=1)
        named = {name.lower(): environ[variable].strip() for name, variable in hook.headers_env.items()}
        login = {name.lower(): value for name, value in login_header(parts.netloc).items()}
        transport.headers = {**login, **named, "content-type": "application/json"}
        async with transport:
            for pause_s in _PAUSES_S:
                await anyio.sleep(pause_s)
                try:
                    status = await transport.post_only(text.encode())
                except TransientError as error:
                    failure = f"{place}: {error}"
                    continue
                if status in _SUCCESS:
                    return None
                failure = f"{place} answers {status}"
                if status < _SERVER_ERROR and status != _TOO_MANY:
                    break
    except StopRun as error:
        failure = f"{place}: {error}"
    return failure


def _masked(hook: Hook, text: str, environ: Mapping[str, str]) -> str:
    """Without the values that the hook is given as secrets."""
    url = hook.url or environ.get(str(hook.url_env), "")
    path = urlsplit(url).path
    named = [environ.get(variable) for variable in hook.headers_env.values()]
    return Mask([*named, *secrets_in(environ), *secrets_in_url(url), path, *path.split("/")]).text(text)
