"""The command line as cron, scripts and people meet it: streams, exit statuses, silence, and a bare environment."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import ROOT, RUN, read_lines, run, running, write_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Plan, Reply, Upstream

RECORDS = 4
TEXT = "Is [[r-{n}]] in Zürich, 東京 or 🏔 right?"


@pytest.fixture
def folder(folder: Path) -> Path:
    write_input(folder / "in.jsonl", range(RECORDS), TEXT)
    return folder


def bare(folder: Path, *argv: str) -> subprocess.CompletedProcess[bytes]:
    """Run it as a cron with the poorest environment would: ASCII locale, nothing on stdin, not even a file there."""
    return subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m s2a_batch "$@" <&-', sys.executable, *argv],
        env={"PATH": os.defpath, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_a_bare_cron_environment_changes_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """What works at the desk must work at 3 in the morning, where locale, terminal and stdin are others."""
    (folder / "in.jsonl").rename(folder / "über.jsonl")
    done = bare(folder, "run", "über.jsonl", "-o", "grün", "--model", "m", "--base-url", upstream({}).base_url)
    assert done.returncode == 0, done.stderr.decode()
    results = read_lines(folder / "grün" / "results.jsonl")
    assert sorted(line["input"]["prompt"] for line in results) == [TEXT.replace("{n}", str(n)) for n in range(4)]
    assert all(TEXT[-20:] in line["stages"]["rewrite"]["messages"][-1]["content"] for line in results)
    assert done.stdout == b""
    assert not {b"\x1b", b"\r"} & {bytes([byte]) for byte in done.stderr}
    assert len(done.stderr.splitlines()) <= 6
    assert "files in grün" in done.stderr.decode()
    shown = bare(folder, "show", "grün", "2")
    assert "Zürich, 東京 or 🏔" in shown.stdout.decode()
    assert bare(folder, "status", "grün").stdout.decode().startswith("grün: not running; 4 answered, 0 failed\n")


def test_quiet_says_nothing_when_all_is_well_and_why_when_not(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Cron mails whatever is printed; a mail each night teaches people to read none."""
    up = upstream({})
    done = run(folder, *RUN, "--base-url", up.base_url, "--quiet")
    assert (done.status, done.out, done.err) == (0, "", "")
    again = run(folder, *RUN, "--base-url", up.base_url, "-q")
    assert (again.status, again.out, again.err) == (0, "", "")
    with (folder / "in.jsonl").open("a") as file:
        file.write("{\n")
    done = run(folder, *RUN, "--base-url", up.base_url, "-q")
    assert (done.status, done.out) == (1, "")
    assert "1 failed (1 bad_json)" in done.err
    refuse: Reply = {"status": 401, "error": {"message": "no"}}
    up = upstream({"rules": [{"replies": [refuse]}]})
    done = run(folder, *RUN, "--base-url", up.base_url, "-q", "--fresh")
    assert (done.status, done.out) == (3, "")
    assert "check the key" in done.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["run"], "Missing argument"),
        (["run", "--no-such-option"], "No such option"),
        (["rum"], "No such command"),
        (["run", "missing.jsonl", "-o", "out", "--base-url", "http://127.0.0.1:9", "--model", "m"], "No such file"),
        (["run", "in.jsonl", "--model", "m"], 'no output; give -o DIR (or output = ".." in the job file)'),
        ([*RUN, "--base-url", "http://h/v1", "--answer", "choice"], "--choice yes --choice no"),
        ([*RUN, "--base-url", "http://h/v1", "--answer", "int", "--choice", "a"], "--choice goes with --answer choice"),
        ([*RUN, "--set", "rewrite.seed=x"], "rewrite.seed: expected a whole number, found a text"),
        (["run", "in.jsonl", "-o", "in.jsonl", "--model", "m"], "is a file"),
        (["run", "in.jsonl", "-o", "in.jsonl/out", "--model", "m", "--base-url", "http://h/v1"], "Not a directory"),
        (["run", "in.jsonl", "-o", "out", "--model", "m", "--set", "rewrite.presset=x"], "did you mean 'preset'?"),
        (["run", "in.jsonl", "-o", "out", "--model", "m", "--set", "nonsense"], "expected key=value"),
        (["run", "in.jsonl", "-o", "out", "--model", "m", "--limit", "0"], "--limit"),
        (["run", "in.jsonl", "-o", "out", "--model", "gpt", "--base-url", "ftp://x"], "no http(s) address"),
        (["run", "missing.toml"], "cannot be read"),
        (["status", "nowhere"], "no run here"),
        (["show", "nowhere", "1"], "nowhere: no run here"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_with_status_2_and_nothing_written(folder: Path, argv: list[str], says: str) -> None:
    """A script must be able to tell a wrong call, which never heals, from a bad night, which does."""
    done = run(folder, *argv, environ={"COLUMNS": "200"})
    assert done.status == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not (folder / "out").exists()


def test_a_bug_has_a_status_of_its_own(folder: Path) -> None:
    """A script that takes status 1 for "some records failed" must not take a fault of the program for it."""
    (folder / "broken.py").write_text(
        "import anyio, pydantic\n\nanyio.run = None\n\nclass Answer(pydantic.BaseModel):\n    x: int\n"
    )
    argv = ("in.jsonl", "-o", "out", "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    done = run(folder, "run", *argv, "--answer", "broken:Answer")
    assert done.status == 70
    assert "TypeError" in done.err


def test_a_missing_key_is_told_before_anything_is_sent(folder: Path) -> None:
    """Without a key every request would fail; and the message must name the variable, never a value."""
    done = run(folder, "run", "in.jsonl", "-o", "out", "--model", "gpt-x", "--set", "api_key_env=MY_KEY")
    assert done.status == 2
    assert "MY_KEY" in done.err


def test_a_second_run_exits_with_4_at_once_and_names_the_first(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """An overlapping cron job must step aside, and its mail must say which process to look for."""
    up = upstream({"latency_s": 30})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.requests > 0)
        done = run(folder, *RUN, "--base-url", up.base_url, within_s=5)
        assert done.status == 4
        assert f"process {program.pid} on " in done.err
        assert up.stats().requests == 4
        told = run(folder, "status", "out")
        assert told.out.startswith("out: running; 0 answered, 0 failed")
        for _ in range(2):
            program.send(signal.SIGTERM)
            up.wait_until(lambda _: "second signal" in program.err())
        assert program.wait(10).status == 143


def test_a_dry_run_sends_and_writes_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Looking before paying must be free, and must find in seconds what the night would find."""
    up = upstream({})
    call = (*RUN, "--base-url", up.base_url, "--dry-run")
    done = run(folder, *call)
    assert done.status == 0
    tokens = round(4 * len(TEXT.replace("{n}", "0")) / 3.5)
    assert done.out == f"4 lines: 4 pending, 0 done; about 8 requests, about {tokens} tokens of prompts\n"
    assert done.err == ""
    with (folder / "in.jsonl").open("a") as file:
        file.write('{"prompt": 1}\n\n{\n')
    done = run(folder, *call)
    assert done.status == 1
    assert done.out.startswith("6 lines: 4 pending, 0 done, 2 bad (1 bad_json, 1 bad_prompt); ")
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["in.jsonl line 5", "in.jsonl line 7"]
    assert not (folder / "out").exists()
    assert up.stats().requests == 0
    assert run(folder, *RUN, "--base-url", up.base_url, "--limit", "3").status == 0
    assert "about 2 requests" in run(folder, *call, "--limit", "1").out
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    assert run(folder, *call).out.startswith("6 lines: 1 pending, 3 done, 2 bad")
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before
    assert up.stats().requests == 6


def test_a_dry_run_over_a_file_of_faults_stays_short(folder: Path) -> None:
    """A wrong file has a million bad lines; the first ones and a count are enough to know."""
    rows = [json.dumps({"prompt": "word " * 1750 + "?"})] * 10 + ["{"] * 27
    (folder / "in.jsonl").write_text("\n".join(rows) + "\n")
    done = run(folder, *RUN, "--base-url", "http://127.0.0.1:9/v1", "--dry-run")
    assert done.out == (
        "37 lines: 10 pending, 0 done, 27 bad (27 bad_json); about 20 requests, about 25 thousand tokens of prompts\n"
    )
    *lines, more = done.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"in.jsonl line {n}" for n in range(11, 31)]
    assert more == "and 7 more"


def test_the_help_names_every_exit_status_of_the_readme(folder: Path) -> None:
    """Whoever writes a script around it reads the help, not the README."""
    shown = run(folder, "run", "--help", environ={"COLUMNS": "200"}).out
    told = shown.partition("Exit status:")[2].partition("Arguments")[0]
    table = (ROOT / "README.md").read_text().partition("## Exit status")[2].partition("## ")[0]
    documented = {
        number for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for number in cell.split(", ")
    }
    assert len(documented) >= 9
    assert documented <= set(re.findall(r"\d+", told))


def test_data_goes_to_stdout_and_all_else_to_stderr(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """`s2a-batch show .. --json | jq` must get JSON and nothing but."""
    up = upstream({})
    done = run(folder, *RUN, "--base-url", up.base_url)
    assert done.out == ""
    assert "4 answered" in done.err
    shown = run(folder, "show", "out", "3", "--json")
    assert json.loads(shown.out)["id"] == 3
    assert shown.err == ""
    told = run(folder, "status", "out")
    assert "4 answered" in told.out
    assert told.err == ""


def test_a_broken_input_is_reported_and_its_whole_lines_answered(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A download cut short is found at the end of the night; what could be read must be done by then."""
    packed = gzip.compress((folder / "in.jsonl").read_bytes() + os.urandom(3000).hex().encode())
    (folder / "in.jsonl.gz").write_bytes(packed[:-1200])
    up = upstream({})
    done = run(folder, "run", "in.jsonl.gz", *RUN[2:], "--base-url", up.base_url)
    assert done.status == 3
    assert "cut short" in done.err
    assert len(read_lines(folder / "out" / "results.jsonl")) == 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, upstream_process: Upstream) -> Path:
    """A folder with a finished run, which no test changes."""
    upstream_process.replan({})
    work = tmp_path_factory.mktemp("finished") / "work"
    work.mkdir()
    write_input(work / "in.jsonl", range(4), "Is [[r-{n}]] right?" + " I think it is." * 9)
    assert run(work, *RUN, "--base-url", upstream_process.base_url).status == 0
    job = f'input = "in.jsonl"\noutput = "both"\nmodel = "m"\nbase_url = "{upstream_process.base_url}"\n'
    (work / "in.toml").write_text(f'{job}compare.arms = ["baseline"]\n')
    return work


LOOKS = ["status out", "verify out --json", "show out line:1"]
AHEAD = "in.jsonl -o out --model m --base-url http://127.0.0.1:9/v1"


@pytest.mark.parametrize("words", [*LOOKS, f"estimate {AHEAD}", "--help"])
def test_a_full_disk_behind_stdout_is_told_in_words(finished: Path, words: str) -> None:
    """A report that was cut must not look whole, nor like a bug of ours, nor like records that failed."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "s2a_batch", *words.split()]
        done = subprocess.run(command, cwd=finished, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "words",
    [
        *LOOKS,
        f"run {AHEAD} --dry-run",
        "status out --json",
        "prune out --keep 9",
        "report out --json",
        "compare in.toml -q",
        "schema",
    ],
)
def test_a_reader_that_goes_away_changes_no_status(finished: Path, words: str) -> None:
    """`| head -1` is how people look; an error for it would end their scripts, and a verdict must stay a verdict."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "s2a_batch", *words.split()]
    done = subprocess.run(command, cwd=finished, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_verdict_survives_its_reader(finished: Path, tmp_path: Path) -> None:
    """A script that reads the first line of `verify` alone goes by its status."""
    write_input(tmp_path / "more.jsonl", range(5), "Is [[r-{n}]] right?" + " I think it is." * 9)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "s2a_batch", "verify", "out", str(tmp_path / "more.jsonl")]
    assert subprocess.run(command, cwd=finished, stdout=writer, check=False).returncode == 1
    os.close(writer)


def test_a_file_of_a_run_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A disk that breaks is no fault of the program, and the file's name is what the person needs."""
    (tmp_path / "out" / "results.jsonl").mkdir(parents=True)
    (tmp_path / "out" / "run.json").write_text('{"s2a_batch": "0"}')
    done = run(tmp_path, "status", "out")
    assert (done.status, done.err) == (3, "error: out/results.jsonl: cannot be used: Is a directory\n")
