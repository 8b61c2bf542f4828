"""The log for machines: one strict JSON object a line, a line a change of state, and a night that stays short."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.errors import BudgetError, meaning
from s2a_batch.eventlog import EventLog
from s2a_batch.live import Live
from s2a_batch.report import Tally
from tests.fakes import a_limiter
from tests.processes import ROOT, RUN, Done, caps, manifest, run, running, start, write_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Plan, Upstream

RECORDS = 4
JSON = ("--log", "json")


def events(text: str) -> list[dict[str, Any]]:
    """The lines of a log, each a strict object with the fields that all have."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        event = json.loads(line, parse_constant=pytest.fail)
        assert line.isascii()
        moment = datetime.fromisoformat(event["time"])
        assert moment.utcoffset() is not None
        assert len(event["time"]) == len("2026-11-25T22:07:59.123Z")
        assert event["level"] in ("info", "warning", "error")
        assert "job" in event
        found.append(event)
    return found


def names(text: str) -> list[str]:
    """What happened, in order."""
    return [event["event"] for event in events(text)]


def logged(folder: Path, url: str, *more: str) -> Done:
    """The usual run, speaking JSON."""
    return run(folder, *RUN, "--base-url", url, *JSON, *more)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_begins_and_ends_with_a_line(folder: Path, upstream: Callable[[Plan], Upstream], processes: str) -> None:
    """A log shipper must find out from two lines what a night did; the last one has the whole account."""
    url = upstream({}).base_url
    done = logged(folder, url, "--limit", "3", "--processes", processes)
    begin, end = events(done.err)
    assert (done.status, done.out) == (0, "")
    assert (begin["event"], begin["done_before"], begin["job"], begin["run"]) == ("started", 0, "in", "out")
    assert (end["event"], end["level"], end["exit_status"], end["meaning"]) == (
        "finished",
        "info",
        0,
        "all records answered, or nothing to do",
    )
    assert end["summary"] == manifest(folder)["summary"]
    again = events(logged(folder, url).err)
    assert [event["event"] for event in again] == ["started", "finished"]
    assert again[0]["done_before"] == 3


def test_failed_records_are_a_warning_and_what_was_asked_is_not_told(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Logs go to people who may not read the prompts."""
    write_input(folder / "in.jsonl", range(2), "Is [[r-{n}]] the canary?")
    plan: Plan = {"rules": [{"replies": [{"status": 400, "error": {"message": "canary?"}}]}]}
    done = logged(folder, upstream(plan).base_url)
    end = events(done.err)[-1]
    assert (end["level"], end["exit_status"], end["summary"]["kinds"]) == ("warning", 1, {"bad_request": 2})
    assert "canary" not in done.err


def test_an_error_before_there_is_a_job_is_json_too(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Half a log in another form is lost by whoever parses it, and it is the half that says why nothing ran."""
    (folder / "night.toml").write_text('input = "in.jsonl"\noutput = "out"\nmodelx = "m"\n')
    done = run(folder, "run", "night.toml", *JSON)
    (event,) = events(done.err)
    assert (done.status, event["event"], event["level"], event["job"]) == (2, "error", "error", "night")
    assert "modelx" in event["message"]
    done = run(folder, "compare", "night.toml", *JSON)
    assert (done.status, names(done.err)) == (2, ["error"])
    url = upstream({"latency_s": 30}).base_url
    with running(folder, *RUN, "--base-url", url) as program:
        while not (folder / "out" / ".lock").exists() or not (folder / "out" / ".lock").read_text():
            program.process.join(0.02)
        done = logged(folder, url)
    (event,) = events(done.err)
    assert (done.status, event["run"]) == (4, "out")
    assert "another run holds it" in event["message"]


def test_the_job_file_may_say_it_and_the_option_wins(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A unit file stays as it is when its log is read by a machine from now on."""
    url = upstream({}).base_url
    job = f'input = "in.jsonl"\noutput = "out"\nmodel = "m"\nbase_url = "{url}"\nlog.format = "json"\n'
    (folder / "night.toml").write_text(job)
    assert names(run(folder, "run", "night.toml", "--limit", "1").err) == ["started", "finished"]
    assert "files in" in run(folder, "run", "night.toml", "--limit", "1", "--log", "text").err.splitlines()[-1]
    (folder / "out" / "results.jsonl").write_text("{}\n")
    assert names(run(folder, "run", "night.toml").err)[-1] == "error", "also what is wrong after the file was read"


def test_a_dry_run_speaks_json_too(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A check before the night is read by the same eyes."""
    with (folder / "in.jsonl").open("a") as file:
        file.write("no JSON\n")
    done = logged(folder, upstream({}).base_url, "--dry-run")
    bad, checked = events(done.err)
    assert (done.status, bad["event"], bad["place"]) == (1, "bad_line", str(RECORDS + 1))
    assert (checked["event"], checked["pending"], checked["kinds"]) == ("checked", RECORDS, {"bad_json": 1})


def test_why_a_run_drains_is_a_line(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The alert is on the state, not on a sentence."""
    done = logged(folder, upstream({}).base_url, *caps("max_requests=3"))
    assert done.status == 3
    assert names(done.err) == ["started", "budget_reached", "draining", "finished"]
    end = events(done.err)[-1]
    assert (end["level"], end["meaning"]) == ("error", "stopped early, the rest is pending")
    assert "max_requests" in end["fault"]
    with running(folder, *RUN, "--base-url", upstream({"latency_s": 0.5}).base_url, *JSON) as program:
        while "started" not in program.err():
            program.process.join(0.02)
        program.send(signal.SIGTERM)
        done = program.wait()
    assert done.status == 143
    found = events(done.err)
    assert [event["event"] for event in found] == ["started", "draining", "finished"]
    assert found[1]["reason"] == "SIGTERM"
    assert found[2]["meaning"].startswith("interrupted")


def test_a_pause_is_a_line_and_its_end_another(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Two lines for one change are counted as two by whoever counts them."""
    up = upstream({"latency_s": 0.5})
    with running(folder, *RUN, "--base-url", up.base_url, *JSON) as program:
        up.wait_until(lambda stats: stats.requests > 0)
        for command, event in (("pause", "paused"), ("resume", "resumed")):
            assert run(folder, command, "out").status == 0
            while event not in names(program.err()):
                program.process.join(0.02)
        done = program.wait()
    assert names(done.err) == ["started", "paused", "resumed", "finished"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("run", "in.jsonl", "--log", "json", "--badopt", "x"), "--badopt"),
        (("run", "--log=json"), "SOURCE"),
        (("compare", "in.toml", "--limit", "none", "--log", "json"), "--limit"),
        (("run", "in.jsonl", "--log", "json", "--if-running", "maybe"), "maybe"),
    ],
)
def test_wrong_usage_is_json_too(folder: Path, words: tuple[str, ...], why: str) -> None:
    """A unit file with a typo fails every night, and the log's reader is the only one who could tell."""
    done = run(folder, *words)
    (event,) = events(done.err)
    assert (done.status, event["event"], event["level"]) == (2, "error", "error")
    assert why in event["message"]
    assert run(folder, "run", "--", "--log", "json").err.startswith("error: "), "those are the names of inputs"


def test_each_arm_of_a_comparison_has_its_lines(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A comparison is several runs; each line names the directory it is of."""
    url = upstream({}).base_url
    (folder / "both.toml").write_text(
        f'input = "in.jsonl"\noutput = "both"\nmodel = "m"\nbase_url = "{url}"\ncompare.arms = ["baseline", "s2a"]\n'
    )
    done = run(folder, "compare", "both.toml", *JSON)
    assert done.status == 0, done.err
    ends = [event for event in events(done.err) if event["event"] == "finished"]
    assert [Path(event["run"]).name for event in ends] == ["baseline", "s2a"]


def test_quiet_leaves_what_went_wrong(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Cron mails whatever is said; a night that was all well sends none."""
    assert logged(folder, upstream({}).base_url, "--quiet").err == ""
    (folder / "in.jsonl").write_text("no JSON\n")
    assert names(logged(folder, upstream({}).base_url, "--quiet").err) == ["finished"]
    lost = logged(folder, upstream({}).base_url, "--quiet", "--fresh", "--set", "metrics.textfile=gone/a.prom")
    assert [(event["event"], event["level"]) for event in events(lost.err)] == [
        ("note", "warning"),
        ("finished", "warning"),
    ], "nobody is left to see that nobody sees it"


def test_a_log_that_nobody_reads_changes_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The shipper dies at night; the work goes on."""
    for err in ("", "/dev/full"):
        more = ("--fresh", "--base-url", upstream({}).base_url)
        assert start(folder, *RUN, *more, *JSON, err=err).wait().status == 0


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_pauses_and_outages_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Until when it waits is what the person who was called up wants to know first."""
    limiter = a_limiter()
    live = Live(Tally(), anyio.current_time(), (limiter,))
    live.ready.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(EventLog("night").watch, live)
        await anyio.sleep(1)
        limiter.pause(30, since=anyio.current_time())
        await anyio.sleep(60)
        limiter.go_down(since=anyio.current_time())
        await anyio.sleep(60)
        limiter.note_success(a_taken(limiter), {}, anyio.current_time())
        live.held_at = anyio.current_time()
        await anyio.sleep(60)
        live.held_at = None
        live.stopping, live.cause = "stopping early", BudgetError("budget.max_tokens = 5 is used up")
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    found = events(capsys.readouterr().err)
    assert [event["event"] for event in found] == [
        *("started", "rate_limited", "rate_limited_over", "outage", "paused", "outage_over", "resumed"),
        *("budget_reached", "draining"),
    ]
    assert 29.5 <= found[2]["seconds"] <= 31
    assert datetime.fromisoformat(found[1]["until"]) > datetime.fromisoformat(found[1]["time"])
    assert 59 <= found[5]["seconds"] <= 61


def a_taken(limiter: Any) -> Any:  # noqa: ANN401  the limiter's own
    """What a request took, for one that was answered."""
    return limiter.requests.take(anyio.current_time(), 1)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_night_of_refusals_is_some_dozens_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A provider that refuses twice a minute would fill the log with a thousand lines that say the same."""
    limiters = (a_limiter(), a_limiter())
    live = Live(Tally(lines=50, answered=7, failed=2), anyio.current_time(), limiters)
    live.ready.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(EventLog("night").watch, live)
        for _ in range(8 * 120):
            await anyio.sleep(30)
            limiters[1].pause(2, since=anyio.current_time())
        tasks.cancel_scope.cancel()
    found = events(capsys.readouterr().err)
    told = [event["event"] for event in found]
    assert told.count("rate_limited") >= 2
    assert told.count("rate_limited") + told.count("rate_limited_over") <= 10
    assert {event["account"] for event in found if event["event"] == "rate_limited"} == {2}
    progress = [event for event in found if event["event"] == "progress"]
    assert 40 <= len(progress) <= 48, "one in ten minutes"
    assert (progress[0]["answered"], progress[0]["failed"]) == (7, 2)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_an_outage_takes_the_place_of_a_pause(capsys: pytest.CaptureFixture[str]) -> None:
    """While the endpoint is down each probe pauses anew; that is one outage and not a hundred."""
    limiter = a_limiter()
    live = Live(Tally(), anyio.current_time(), (limiter,))
    live.ready.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(EventLog("night").watch, live)
        limiter.pause(5, since=anyio.current_time())
        await anyio.sleep(1)
        for _ in range(50):
            limiter.go_down(since=anyio.current_time())
            await anyio.sleep(70)
        tasks.cancel_scope.cancel()
    assert [n for n in names(capsys.readouterr().err) if n != "progress"] == ["started", "rate_limited", "outage"]


@given(st.text(), st.binary(max_size=20))
def test_whatever_is_said_is_one_line_of_strict_json(text: str, name: bytes) -> None:
    """File names are bytes, and messages quote servers: neither may break a line or the parser behind it."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        EventLog("night", Path(os.fsdecode(name))).event("note", message=text, more=[{"deep": text}])
    (event,) = events(err.getvalue())
    assert event["message"] == event["more"][0]["deep"] == text.encode("utf-8", "backslashreplace").decode()
    json.dumps(event, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "all records"), (4, "another run"), (70, "a fault of this program"), (129, "interr")],
)
def test_each_exit_status_has_its_words(status: int, words: str) -> None:
    """Nobody knows the numbers by heart at 3 in the morning."""
    assert meaning(status).startswith(words)


def test_the_readme_names_all_events() -> None:
    """Whoever writes the filter looks there."""
    code = (ROOT / "s2a_batch" / "eventlog.py").read_text()
    written = set(re.findall(r'(?:event|_write)\(\s*"(\w+)"', code)) | {"paused", "resumed"}
    holds = {"outage", "rate_limited"}
    written |= holds | {f"{name}_over" for name in holds}
    part = (ROOT / "README.md").read_text().partition("## Watch a run")[2].partition("**Prometheus.**")[0]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"event"} == written


def test_a_bug_is_one_line_too_and_the_textfile_tells_it(folder: Path) -> None:
    """A traceback over twenty lines is twenty broken records to a log shipper, and a stale file looks like a run."""
    (folder / "broken.py").write_text(
        "import anyio, pydantic\n\nanyio.run = None\n\nclass Answer(pydantic.BaseModel):\n    x: int\n"
    )
    more = ("--answer", "broken:Answer", "--set", "metrics.textfile=s2a.prom")
    done = logged(folder, "http://127.0.0.1:9/v1", *more)
    (event,) = events(done.err)
    assert (done.status, event["event"]) == (70, "error")
    assert "TypeError" in event["message"]
    assert 's2a_batch_last_exit_status{job="in"} 70.0' in (folder / "s2a.prom").read_text()
