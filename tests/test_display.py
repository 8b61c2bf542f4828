"""What a person reads: live on a terminal, plain in a log, at the end; never steered by somebody else's text."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.display import Screen
from s2a_batch.errors import EndpointError
from s2a_batch.inspect import Standing
from s2a_batch.live import Finished
from s2a_batch.records import Usage
from s2a_batch.report import Tally
from tests.processes import RUN, Program, read_lines, run, start
from tests.rundata import encoded, failed, result, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import JsonValue

    from tests.processes import JsonObject
    from tests.server import Plan, Reply, Upstream

RECORDS = 10
COLOUR = re.compile(r"\x1b\[[\d;]*m")


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
    assert re.search(r"rewrite +[1-4] ", COLOUR.sub("", text))
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
    end = {"stopped": None, "superseded": 0, "read_all": True, **more}
    summary = tally.summary(seconds=1.0, **end)  # type: ignore[arg-type]
    return Finished(summary, status, EndpointError("it is gone") if status == 3 else None)


def told(capsys: pytest.CaptureFixture[str], found: Finished, output: Path, *, quiet: bool = False) -> list[str]:
    """The lines of the closing summary."""
    Screen(quiet=quiet).finished(found, output)
    return capsys.readouterr().err.splitlines()


def test_the_summary_tells_what_a_decision_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answered, failed and why, pending, paid: whoever reads it decides whether to run again."""
    tally = Tally(lines=20, skipped=5, failed_before=1, answered=10, failed=2)
    tally.kinds.update({"refusal": 1, "bad_json": 1})
    tally.rewrite.requests, tally.rewrite.retries = 14, 3
    tally.rewrite.usage, tally.rewrite.unknown_usage = Usage(input_tokens=700, output_tokens=70), 1
    lines = told(capsys, finished(tally, 1, superseded=4), tmp_path)
    counts = "done: 10 answered, 2 failed (1 bad_json, 1 refusal), 5 done before, 1 of them failed, 3 pending"
    assert lines[0].startswith(counts)
    assert "4 superseded" in lines[0]
    assert "of 20 lines read" in lines[0]
    assert lines[1] == "rewrite: 14 requests, 3 of them retries; at least 700 tokens in, 70 out; cost unknown"
    assert not [line for line in lines if line.startswith("answer:")], "nothing was sent there"
    assert told(capsys, finished(tally, 0), tmp_path, quiet=True) == []


@pytest.mark.parametrize(
    ("stopped", "head", "next_step"),
    [
        ("SIGINT", "stopped by SIGINT: ", "run the same command again to go on"),
        ("SIGTERM", "stopped by SIGTERM: ", "run the same command again to go on"),
        ("it is gone", "stopped: ", "when the reason is mended, run the same command again to go on"),
        (None, "limit reached: ", "run the same command again to go on"),
    ],
)
def test_a_run_that_stopped_says_by_what_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stopped: str | None, head: str, next_step: str
) -> None:
    """Somebody who did not start it reads this in a mail; how many lines were read by then tells them nothing."""
    tally = Tally(lines=70, answered=63, failed=1)
    tally.kinds["bad_request"] = 1
    status = 3 if stopped == "it is gone" else 130
    lines = told(capsys, finished(tally, status, stopped=stopped, read_all=False), tmp_path, quiet=True)
    if status == 3:
        assert lines.pop(0) == "error: it is gone"
    assert lines[0].startswith(f"{head}63 answered, 1 failed (1 bad_request); the rest is pending")
    assert lines[1] == next_step
    assert "read" not in lines[0]
    assert lines[-1] == f"files in {tmp_path}; exit {status}"


@pytest.mark.parametrize("name", ["out", "an out"])
def test_failures_come_with_the_way_to_look_at_one_and_to_ask_again(
    folder: Path, upstream: Callable[[Plan], Upstream], name: str
) -> None:
    """A count of failures is a riddle; the commands must run as they are printed."""
    refuse: Reply = {"status": 400, "error": {"message": "no"}}
    plan: Plan = {"rules": [{"when": {"contains": "[[r-6]]"}, "replies": [refuse]}]}
    call = ("run", "in.jsonl", "-o", name, "--model", "m", "--base-url", upstream(plan).base_url)
    for done in (run(folder, *call), run(folder, *call), run(folder, *call, "-q")):
        assert done.status == 1
        row = next(line for line in done.err.splitlines() if line.startswith("failed records: "))
        assert row.startswith(f"failed records: {name}/dead_letters.jsonl; ")
        assert row.endswith("; again: --retry-failed")
        look = row.partition("look: s2a-batch ")[2].partition(";")[0]
        assert "failed line 7, id 6" in run(folder, *shlex.split(look)).out
    assert run(folder, *call, "--retry-failed").status == 1
    assert row in run(folder, "status", name).out


def test_a_disk_that_is_gone_is_no_reason_to_crash_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary of a run whose disk failed is the one that is needed most."""
    tally = Tally(lines=7, answered=3, failed=1)
    for damage in (b"", b"half a li", b"[]\n", b"\xff\n", b'{"line": null}\n'):
        (tmp_path / "dead_letters.jsonl").write_bytes(damage)
        assert told(capsys, finished(tally, 3, stopped="it is gone"), tmp_path)[0] == "error: it is gone"
    assert told(capsys, finished(tally, 3, stopped="it is gone"), tmp_path / "no")[0] == "error: it is gone"


@pytest.mark.parametrize(
    ("policies", "also", "row"),
    [
        (
            {"original": 3, "skipped": 1},
            (12, 2),
            "policies: 3 original, 1 skipped; 12 also answered as given, 2 with another answer",
        ),
        ({"fail": 1}, (0, 0), "policies: 1 fail"),
        ({}, (5, 0), "5 also answered as given, 0 with another answer"),
    ],
)
def test_the_summary_tells_what_was_not_answered_from_a_sound_rewrite(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    policies: dict[str, int],
    also: tuple[int, int],
    row: str,
) -> None:
    """A night of answers from the originals looks like a success; `status` must tell it as the end of the run does."""
    tally = Tally(lines=20, answered=20, baselines=also[0], flips=also[1])
    tally.policies.update(policies)
    found = finished(tally, 0)
    assert told(capsys, found, tmp_path)[1] == row
    manifest: dict[str, JsonValue] = {"summary": found.summary.model_dump(mode="json"), "written_at": "now"}
    Screen().standing(
        Standing(running=False, answered=20, failed=0, waiting=0, manifest=manifest, totals=None), tmp_path
    )
    assert capsys.readouterr().out.splitlines()[2:] == [row, "ended at now"]


def shown(capsys: pytest.CaptureFixture[str], line: JsonObject) -> list[str]:
    """What `show` prints of a line, after its head."""
    Screen().record(encoded(line), "prompt")
    return capsys.readouterr().out.splitlines()[1:]


def test_a_record_shows_its_policy_and_its_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    """From which text the answer was made, and what it would be without the rewrite, is what an audit asks."""
    stages = {name: stage("s", "u") for name in ("rewrite", "answer", "baseline")}
    lines = shown(capsys, result(3, policy="original", baseline={"answer": 99}, stages=stages, checks=[]))
    one = "  1. 2026-11-25T02:00:00.500+00:00, 0.40 s, waited 0.10 s; HTTP 200 req-1; 30 tokens in, 6 out; stop"
    assert lines == [
        "policy: answered from the original (the rewrite failed a check)",
        *("original", "Ann has 3 cats. [-I think it is 99.-] How many cats does Ann have?"),
        *("rewrite", "Ann has 3 cats.", "query", "How many cats does Ann have?"),
        *("answer", '{"answer": 3}', "baseline, the answer to the original", '{"answer": 99}'),
        *("rewrite attempts", one, "answer attempts", one, "baseline attempts", one),
    ]


def test_a_skipped_rewrite_is_told_and_not_shown_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty block reads as a rewrite that lost everything."""
    rewrite = {"relevant_context": "", "user_query": "Why?", "raw": ""}
    line = result(1, prompt="Why?", rewrite=rewrite, policy="skipped", checks=[], stages={})
    assert shown(capsys, line) == [
        "policy: no rewrite was asked for (the prompt is one plain question)",
        *("original", "Why?", "answer", '{"answer": 1}'),
    ]


def test_a_failed_record_shows_the_answer_to_its_original(capsys: pytest.CaptureFixture[str]) -> None:
    """It was paid for, and it is all there is; a line of an older version has no such field."""
    line = failed(1, "check_failed", policy="fail", baseline={"answer": 99}, checks=[], stages={})
    lines = shown(capsys, line)
    assert lines[0] == "policy: not answered (the rewrite failed a check)"
    assert lines[-4:] == [
        *("error", "check_failed: no complete reply", "baseline, the answer to the original", '{"answer": 99}')
    ]


def test_a_text_of_megabytes_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal that scrolls for minutes shows nothing; whole texts are compared for seconds."""
    prompt, most = "".join(f"word{n} " for n in range(300_000)), 200_000
    rewrite = {"relevant_context": prompt[:600_000], "user_query": "Why?", "raw": ""}
    lines = shown(capsys, result(1, prompt=prompt, rewrite=rewrite, answer={"answer": "x" * most}, stages={}))
    assert len(prompt) == 3_188_890
    rest = "(cut: {} of {} characters are not shown; --json has all)"
    assert lines[1].rstrip() == prompt[:most].rstrip(), "the rewrite has all of it, so nothing is struck"
    assert lines[2] == rest.format(2_988_890, 3_188_890)
    assert lines[4].rstrip() == prompt[:most].rstrip()
    assert lines[5] == rest.format(400_000, 600_000)
    assert lines[9:11] == ['{"answer": "' + "x" * (most - 12), rest.format(14, most + 14)]
