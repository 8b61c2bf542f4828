"""What a person sees: live on a terminal, plain in a log, and never steered by somebody else's text."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.display import Screen
from s2a_batch.errors import EndpointError
from s2a_batch.records import Usage
from s2a_batch.report import Tally
from s2a_batch.worker import Finished, Live
from tests.processes import Program, read_lines, run, start, write_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server import Plan, Upstream

RECORDS = 10
RUN = ("run", "in.jsonl", "-o", "out", "--model", "m", "--open-requests", "4")
COLOUR = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    write_input(work / "in.jsonl", range(RECORDS))
    return work


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A terminal's other end, and its name."""
    ours, theirs = pty.openpty()
    yield ours, os.ttyname(theirs)
    for fd in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(fd)


def seen(program: Program, terminal: int) -> str:
    """All that a program writes to a terminal until its end."""
    text = b""
    while program.process.exitcode is None or select.select([terminal], [], [], 0.05)[0]:
        if select.select([terminal], [], [], 0.05)[0]:
            text += os.read(terminal, 65536)
    return text.decode()


@pytest.mark.parametrize("bare", [False, True], ids=["colour", "NO_COLOR"])
def test_a_terminal_shows_the_run_live_and_the_summary_stays(
    folder: Path, upstream: Callable[[Plan], Upstream], terminal: tuple[int, str], bare: bool
) -> None:
    """Whoever watches wants to see at a glance that it moves, and afterwards what came of it."""
    up = upstream({"latency_s": 0.15})
    environ = {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if bare else {})
    program = start(folder, *RUN, "--base-url", up.base_url, environ=environ, err=terminal[1])
    text = seen(program, terminal[0])
    assert program.wait().status == 0
    assert re.search(r"[1-4] open", text)
    assert re.search(r"[1-9] answered, 0 failed", text)
    assert "requests/s" in text
    assert "ETA" in text
    assert bool(COLOUR.search(text)) != bare
    *_, last = text.replace("\r", "").partition(f"done: {RECORDS} answered, 0 failed of {RECORDS} lines read")
    assert "files in out" in last
    assert "\x1b" not in last.replace("\x1b[?25h", "")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor is back"


def test_a_signal_gives_the_terminal_back_as_it_was(
    folder: Path, upstream: Callable[[Plan], Upstream], terminal: tuple[int, str]
) -> None:
    """A shell without a cursor after Ctrl-C is what people remember of a tool."""
    up = upstream({"latency_s": 0.3})
    program = start(folder, *RUN, "--base-url", up.base_url, environ={"TERM": "xterm"}, err=terminal[1])
    up.wait_until(lambda stats: stats.requests > 0)
    program.send(signal.SIGINT)
    text = seen(program, terminal[0])
    assert program.wait().status == 130
    assert "a second signal ends them at once" in text
    assert "stopping" in text
    assert "exit 130" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


def test_a_terminal_that_goes_away_costs_no_answer(
    folder: Path, upstream: Callable[[Plan], Upstream], terminal: tuple[int, str]
) -> None:
    """Connections to a server drop at night; the run that was started over one must not notice."""
    up = upstream({"latency_s": 0.2})
    program = start(folder, *RUN, "--base-url", up.base_url, environ={"TERM": "xterm"}, err=terminal[1])
    up.wait_until(lambda stats: stats.requests > 0)
    os.close(terminal[0])
    assert program.wait().status == 0
    assert len(read_lines(folder / "out" / "results.jsonl")) == RECORDS


@pytest.mark.parametrize(
    "environ", [{}, {"FORCE_COLOR": "1", "TERM": "xterm"}, {"TTY_COMPATIBLE": "1"}, {"TTY_INTERACTIVE": "1"}]
)
def test_a_log_holds_no_escape_codes(
    folder: Path, upstream: Callable[[Plan], Upstream], environ: dict[str, str]
) -> None:
    """A log is read with an editor or in a mail; build servers set variables that make libraries colour it anyway."""
    done = run(folder, *RUN, "--base-url", upstream({}).base_url, environ=environ)
    assert done.status == 0
    shown = run(folder, "show", "out", "3", environ=environ)
    told = run(folder, "status", "out", environ=environ)
    for text in (done.err, shown.out, told.out):
        assert text
        assert not {"\x1b", "\r"} & set(text)
    assert len(done.err.splitlines()) == 4


def test_closed_streams_are_no_reason_to_fail(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Some daemons start their children without any stream."""
    argv = [sys.executable, "-m", "s2a_batch", *RUN, "--base-url", upstream({}).base_url]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *argv],
        cwd=folder,
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert done.returncode == 0
    assert len(read_lines(folder / "out" / "results.jsonl")) == RECORDS


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_night_in_a_log_is_some_dozens_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Cron mails the log: it must show that the run moved, and still be short enough to be read."""
    live = Live(Tally(lines=50, answered=40, failed=2), anyio.current_time())
    with anyio.move_on_after(30):
        await Screen().watch(live)
    first = capsys.readouterr().err.splitlines()
    assert 1 <= len(first) <= 3
    assert "40 answered, 2 failed" in first[0]
    with anyio.move_on_after(12 * 3600):
        await Screen().watch(live)
    lines = capsys.readouterr().err.splitlines()
    assert 30 <= len(lines) <= 100
    with anyio.move_on_after(3600):
        await Screen(quiet=True).watch(live)
    assert capsys.readouterr().err == ""


@given(st.text(st.characters(codec=None), max_size=200))
def test_no_text_reaches_the_terminal_as_a_command(text: str) -> None:
    """File names, server messages and model replies are strangers' text; they may be read, not obeyed."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        screen = Screen()
        screen.say(text)
        screen.error(text)
    assert not [c for c in err.getvalue() if c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160)]
    assert err.getvalue().count("[/") == 2 * text.count("[/"), "no mark-up either"


def finished(tally: Tally, status: int, **more: object) -> Finished:
    told = {"stopped": None, "superseded": 0, "read_all": True, **more}
    summary = tally.summary(seconds=1.0, **told)  # type: ignore[arg-type]
    return Finished(summary, status, EndpointError("it is gone") if status == 3 else None)


def test_the_summary_tells_what_a_decision_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answered, failed and why, pending, paid: whoever reads it decides whether to run again."""
    tally = Tally(lines=20, skipped=5, failed_before=1, answered=10, failed=2)
    tally.kinds.update({"refusal": 1, "bad_json": 1})
    tally.rewrite.requests, tally.rewrite.retries = 14, 3
    tally.rewrite.usage, tally.rewrite.unknown_usage = Usage(input_tokens=700, output_tokens=70), 1
    Screen().finished(finished(tally, 1, superseded=4), tmp_path)
    text = capsys.readouterr().err
    assert "done: 10 answered, 2 failed (1 bad_json, 1 refusal), 5 done before, 1 of them failed, 3 pending" in text
    assert "4 superseded" in text
    assert "rewrite: 14 requests, 3 of them retries; at least 700 tokens in, 70 out" in text
    assert "answer:" not in text, "nothing was sent there"
    Screen(quiet=True).finished(finished(tally, 3, stopped="it is gone", read_all=False), tmp_path)
    text = capsys.readouterr().err
    assert text.startswith("error: it is gone\nstopped: ")
    assert "the rest of the input pending" in text
    assert text.endswith("; exit 3\n")
    Screen(quiet=True).finished(finished(tally, 0), tmp_path)
    assert capsys.readouterr() == ("", "")
