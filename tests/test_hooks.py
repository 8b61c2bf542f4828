"""Somebody is told how a run ended, in time and in full; and a hook that fails changes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import threading
import time
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import pytest

from s2a_batch import hooks
from s2a_batch.errors import meaning
from s2a_batch.rundir import RunDirectory
from tests.fakes import a_job
from tests.processes import RUN, Done, manifest, run, running, strict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server import Plan, Upstream

RECORDS = 4
SECRET = "T0123/B0456/q9Wk3sVbX7"  # noqa: S105  of nobody
Said: TypeAlias = "dict[str, Any]"
REFUSED: Plan = {"rules": [{"when": {"contains": "[[r-2]]"}, "replies": [{"status": 400, "error": {"message": "no"}}]}]}
WRONG_KEY: Plan = {"rules": [{"replies": [{"status": 401, "error": {"message": "wrong"}}]}]}


def a_script(folder: Path, text: str) -> str:
    """A program of the shell."""
    path = folder / f"hook{len(list(folder.glob('hook*')))}.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def words(up: Upstream, *hooks: str) -> tuple[str, ...]:
    settings = [word for hook in hooks for word in ("--set", f"hooks.{hook}")]
    return (*RUN, "--base-url", up.base_url, *settings)


def command(which: str, *argv: str) -> str:
    return f"{which}.command={json.dumps(argv)}"


class Hookserver:
    """What webhooks were posted, and how they are answered in turn; a number is a status."""

    def __init__(self, *answers: int) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        told, left = self.got, list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                told.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(left.pop(0) if left else 200)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815  the library's name

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Hookserver]:
        """Serve for the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@pytest.mark.parametrize(
    ("plan", "status", "which"),
    [({}, 0, "on_success"), (REFUSED, 1, "on_failure"), (WRONG_KEY, 3, "on_failure")],
)
def test_a_command_reads_how_the_run_ended(
    folder: Path, upstream: Callable[[Plan], Upstream], plan: Plan, status: int, which: str
) -> None:
    """Whoever is woken by it must know from the message alone what happened, and where to look."""
    script = a_script(folder, 'cat > "$1.json"; ls out/.control 2>/dev/null >> "$1.sockets"; exit 0')
    done = run(
        folder,
        *words(
            upstream(plan), command("on_success", script, "on_success"), command("on_failure", script, "on_failure")
        ),
    )
    assert done.status == status
    assert [path.stem for path in folder.glob("on_*.json")] == [which]
    told: Said = strict((folder / f"{which}.json").read_bytes())
    assert (folder / f"{which}.sockets").read_text() == "", "the run is over"
    assert (told["schema"], told["job"], told["exit_status"]) == (1, "in", status)
    assert told["meaning"] == meaning(status)
    assert told["summary"] == manifest(folder)["summary"]
    assert told["stopped"] == told["summary"]["stopped"]
    assert (told["stopped"] is None) == (status < 3)
    assert told["text"].startswith(f"in: {meaning(status)} (exit {status})")
    assert told["files"]["results"] == str(folder / "out" / "results.jsonl")
    assert told["host"] == socket.gethostname()
    assert "hook" not in done.err


def test_a_hook_that_fails_says_so_in_short_and_changes_no_status(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The answers are paid for and there; a chat server that is down at night must not make the run a failure."""
    key = "hidden-value-4711"
    script = a_script(folder, 'yes "bell \a $OPENAI_API_KEY" | head -c 100000; echo the end >&2; exit 7')
    argv = words(upstream({}), command("on_success", script))
    done = run(folder, *argv, "-q", environ={"OPENAI_API_KEY": key})
    assert done.status == 0
    assert done.err.startswith(f"error: hooks.on_success failed: {script}: exit status 7; it said:\n")
    assert done.err.endswith("the end\n")
    assert len(done.err) < 4_000
    assert "\a" not in done.err
    assert key not in done.err


def test_of_a_command_the_directory_keeps_no_argument(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """People put into a `curl` what a webhook takes: a header with a token, a login, an address that is a secret."""
    words_of_curl = ("-H", "Authorization: Bearer tok-4711", f"http://user:pass-word@127.0.0.1/{SECRET}?token=q-4711")
    script = a_script(folder, 'printf "%s" "$3" > got')
    done = run(folder, *words(upstream({}), command("on_success", script, *words_of_curl)))
    assert done.status == 0
    assert (folder / "got").read_text() == words_of_curl[2], "the command has them"
    kept = b"".join(path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()).decode()
    assert not [part for part in (*SECRET.split("/"), "pass-word", "tok-4711", "q-4711") if part in kept + done.err]
    assert manifest(folder)["job"]["hooks"]["on_success"]["command"] == [script]


def state(pid: int) -> tuple[str, int]:
    """A process's state and group; Z for one that is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[2])
    return "Z", 0


def group(leader: int) -> list[int]:
    """Who runs in a process group."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if state(pid)[1] == leader and state(pid)[0] != "Z"]


def ends(pid: int, within_s: float = 5) -> bool:
    """Whether a process ends in time."""
    end = time.monotonic() + within_s
    while state(pid)[0] != "Z":
        os.sched_yield()
        if time.monotonic() > end:
            return False
    return True


@pytest.mark.parametrize("how", ["sleeps", "floods", "ignores", "leaves a child", "reads nothing"])
def test_a_hook_has_a_bound_in_time_with_all_that_it_began(
    folder: Path, upstream: Callable[[Plan], Upstream], how: str
) -> None:
    """A hook that hangs would hold up the next night's run; one whose children go on fills the process table."""
    texts = {
        "sleeps": "echo $$ > pid; sleep 600 & sleep 600",
        "floods": "echo $$ > pid; yes",
        "ignores": "trap '' TERM INT HUP; echo $$ > pid; while :; do sleep 600; done",
        "leaves a child": "echo $$ > pid; sleep 600 & exit 0",
        "reads nothing": "echo $$ > pid; exec 0<&-; exec sleep 600",
    }
    began = time.monotonic()
    argv = words(upstream({}), command("on_success", a_script(folder, texts[how])), "timeout_s=1.5")
    done = run(folder, *argv)
    assert done.status == 0
    assert time.monotonic() - began < 12
    pid = int((folder / "pid").read_text())
    assert ends(pid)
    assert ("hooks.on_success failed: it took longer than 1.5 s" in done.err) == (how != "leaves a child")
    left = group(pid)
    for child in left:
        os.kill(child, signal.SIGKILL)
    assert bool(left) == (how == "leaves a child")


def test_a_signal_ends_the_run_and_a_second_one_the_hook(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """SIGTERM of a service manager: the hook still tells, and whoever cannot wait for it sends one more."""
    up = upstream({"latency_s": 0.3})
    script = a_script(folder, "cat > told.json; echo $$ > pid; exec sleep 600")
    with running(folder, *words(up, command("on_failure", script))) as program:
        up.wait_until(lambda stats: stats.requests >= 1)
        program.send(signal.SIGTERM)
        end = time.monotonic() + 10
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            assert time.monotonic() < end
        with RunDirectory(folder / "out"):
            pass  # its lock is free
        program.send(signal.SIGTERM)
        done = program.wait(10)
    assert done.status == 143
    assert json.loads((folder / "told.json").read_text())["stopped"] == "SIGTERM"
    assert "hooks.on_failure failed: it was ended by SIGTERM" in done.err
    assert ends(int((folder / "pid").read_text()))


@pytest.mark.parametrize(("status", "fault"), [(2, "settings"), (4, "lock"), (2, "input")])
def test_a_run_that_cannot_begin_is_told_too(
    folder: Path, upstream: Callable[[Plan], Upstream], status: int, fault: str
) -> None:
    """A night that did not even begin is the one that somebody must hear of."""
    up = upstream({})
    argv = words(up, command("on_failure", a_script(folder, "cat > told.json")))
    assert run(folder, *argv).status == 0
    assert not (folder / "told.json").exists()
    if fault == "input":
        (folder / "in.jsonl").unlink()
    more = ("--answer", "int") if fault == "settings" else ()
    if fault == "lock":
        held = RunDirectory(folder / "out")
        with held:
            done = run(folder, *argv)
    else:
        done = run(folder, *argv, *more)
    assert done.status == status
    told = json.loads((folder / "told.json").read_text())
    assert (told["exit_status"], told["summary"], told["meaning"]) == (status, None, meaning(status))
    assert told["stopped"] in done.err
    assert up.stats().requests == 2 * RECORDS


@pytest.mark.parametrize(
    ("hooks", "environ", "why"),
    [
        (
            ('on_failure.command=["no-such-program-here"]',),
            {},
            "hooks.on_failure: 'no-such-program-here': no such command",
        ),
        (('on_success.command=["./in.jsonl"]',), {}, "none that can be executed"),
        (('on_success.command=["sh\\u0000"]',), {}, "no such command"),
        (("on_success.url_env=HOOK",), {}, "hooks.on_success: the environment has no HOOK"),
        (("on_success.url_env=HOOK",), {"HOOK": f"file:///{SECRET}"}, "the value of HOOK is no http(s) address"),
        (("on_success.url_env=HOOK",), {"HOOK": f"http://[{SECRET}"}, "the value of HOOK is no http(s) address"),
        (('on_success={url = "http://127.0.0.1:9", headers_env = {X-Key = "KEY"}}',), {}, "no KEY"),
        (
            ('on_success={url = "http://127.0.0.1:9", headers_env = {X-Key = "KEY"}}',),
            {"KEY": "a\nb"},
            "holds a character that no HTTP header can",
        ),
    ],
)
def test_a_hook_that_could_tell_nobody_is_found_before_anything_is_sent(
    folder: Path, upstream: Callable[[Plan], Upstream], hooks: tuple[str, ...], environ: dict[str, str], why: str
) -> None:
    """Found at three in the morning, after the run, it is found by nobody."""
    up = upstream({})
    for more in ((), ("--dry-run",)):
        done = run(folder, *words(up, *hooks), *more, environ=environ)
        assert done.status == 2
        assert why in done.err
        assert SECRET not in done.err
    assert up.stats().requests == 0
    assert not (folder / "out").exists()


def test_a_webhook_gets_it_with_its_headers_and_no_one_else_its_address(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A chat's webhook is a secret: whoever reads the address in a log may write to the room."""
    with Hookserver().running() as server:
        place = server.url.replace("//", "//user:pass-word@")
        done = run(
            folder,
            *words(
                upstream({}),
                f'on_success={{url = "{place}/{SECRET}?token=q-{SECRET}", headers_env = {{X-Key = "KEY"}}}}',
            ),
            environ={"KEY": "header-value"},
        )
    assert done.status == 0
    [(path, headers, body)] = server.got
    assert path == f"/{SECRET}?token=q-{SECRET}"
    assert headers["x-key"] == "header-value"
    assert headers["authorization"] == "Basic dXNlcjpwYXNzLXdvcmQ="
    assert headers["content-type"] == "application/json"
    assert strict(body)["exit_status"] == 0
    kept = (folder / "out" / "run.json").read_text()
    for text in (kept, done.err):
        assert not [part for part in (*SECRET.split("/"), "pass-word", "header-value") if part in text]
    assert json.loads(kept)["job"]["hooks"]["on_success"]["url"] == server.url


@pytest.mark.parametrize(
    ("answers", "asked", "failed"),
    [
        ((500, 503, 200), 3, None),
        ((404,), 1, "answers 404"),
        ((302, 200), 1, "answers 302"),
        ((500, 500, 500), 3, "answers 500"),
    ],
)
def test_a_webhook_is_asked_again_only_where_that_may_help(
    folder: Path, upstream: Callable[[Plan], Upstream], answers: tuple[int, ...], asked: int, failed: str | None
) -> None:
    """A restart of the chat server is waited out; a redirect would carry the secret to a place nobody named."""
    with Hookserver(*answers).running() as server:
        done = run(folder, *words(upstream({}), "on_success.url_env=HOOK"), environ={"HOOK": f"{server.url}/{SECRET}"})
    assert done.status == 0
    assert [path for path, _, _ in server.got] == [f"/{SECRET}"] * asked
    assert ("failed" in done.err.partition("files in")[2]) == (failed is not None)
    if failed is not None:
        assert f"hooks.on_success failed: {server.url} {failed}" in done.err
    assert SECRET not in done.err


@pytest.mark.parametrize("how", ["trickles", "trickles its body", "hangs", "nobody"])
def test_a_webhook_has_a_bound_in_time(folder: Path, upstream: Callable[[Plan], Upstream], how: str) -> None:
    """A server that sends a byte a second is alive to every time-out but a total one."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET}"
    stop = threading.Event()

    def trickle() -> None:
        with suppress(OSError), closing(listener.accept()[0]) as peer:
            head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
            if how == "trickles its body":
                peer.sendall(head)
            for byte in b"x" * 1000 if how == "trickles its body" else head + b"x" * 1000:
                if how != "hangs":
                    peer.send(bytes([byte]))
                if stop.wait(0.05):
                    return

    thread = threading.Thread(target=trickle)
    if how == "nobody":
        listener.close()
    else:
        thread.start()
    began = time.monotonic()
    done = run(folder, *words(upstream({}), "on_success.url_env=HOOK", "timeout_s=2"), environ={"HOOK": url})
    stop.set()
    listener.close()
    if how != "nobody":
        thread.join()
    assert done.status == 0
    assert time.monotonic() - began < 10
    assert ("hooks.on_success failed: " in done.err) == (how != "trickles its body"), "its status tells all"
    assert SECRET not in done.err


def test_a_comparison_tells_once(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Its arms are runs of their own; three messages for one night are two too many."""
    up = upstream({})
    script = a_script(folder, "cat >> told.jsonl; echo >> told.jsonl")
    (folder / "job.toml").write_text(
        f'input = "in.jsonl"\noutput = "out"\nmodel = "m"\nbase_url = "{up.base_url}"\n'
        f'[compare]\narms = ["baseline", "s2a"]\n[hooks]\non_success = {{command = ["./{os.path.basename(script)}"]}}\n'  # noqa: PTH119
    )
    (folder / "sub").mkdir()
    done: Done = run(folder, "compare", folder / "job.toml", "-q")
    assert done.status == 0
    [line] = (folder / "told.jsonl").read_bytes().splitlines()
    told = strict(line)
    assert (told["job"], told["exit_status"]) == ("job", 0)
    assert stat.S_ISREG(os.stat(told["files"]["figures"]).st_mode)  # noqa: PTH116


class _Broken(dict[str, str]):
    """Variables that cannot be read: what nobody foresaw."""

    def get(self, *_: object) -> NoReturn:
        raise RuntimeError("SECRET")


def test_a_fault_that_nobody_foresaw_in_a_hook_changes_nothing(tmp_path: Path) -> None:
    """The answers are paid for and written; a bug in what tells of them must not look like a failed night."""
    job = a_job(output=tmp_path, hooks={"on_success": {"url_env": "WHERE"}})
    said: list[str] = []
    with hooks.telling("night", job, {}, said.append, _Broken()) as story:
        story.ended(0)
    assert said == ["hooks.on_success failed: RuntimeError, a fault of this program"]
