"""What Prometheus gets: scraped while a run goes and read from the textfile after it, by Prometheus' own parser."""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from s2a_batch.errors import FailureKind
from s2a_batch.operations import Metrics
from s2a_batch.placeholders import name_of
from s2a_batch.records import Usage
from s2a_batch.report import StageTally, Tally
from s2a_batch.watching.exposition import Exposition
from s2a_batch.watching.metrics import Last, State, families
from tests.processes import PRICES, ROOT, RUN, Done, caps, manifest, run, running, start, write_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Plan, Upstream

RECORDS = 6
Samples = dict[tuple[str, ...], float]
FILE = ("--set", "metrics.textfile=s2a.prom")


def samples(text: str) -> Samples:
    """All samples: their name without prefix and the values of their labels but the job's."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            assert sample.labels["job"] == "in"
            rest = [value for name, value in sorted(sample.labels.items()) if name != "job"]
            key = (sample.name.removeprefix("s2a_batch_"), *rest)
            assert key not in found
            found[key] = sample.value
    return found


def textfile(folder: Path) -> Samples:
    """What the node exporter reads."""
    return samples((folder / "s2a.prom").read_text())


def measured(folder: Path, url: str, *more: str) -> Done:
    """The usual run, with a textfile."""
    return run(folder, *RUN, "--base-url", url, "--set", "retry.backoff_s=0.01", *FILE, *more)


def a_port() -> int:
    """A port that was free just now."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def scrape(port: int, host: str = "127.0.0.1") -> tuple[str, str]:
    """Content type and text, as soon as there is an answer."""
    end = time.monotonic() + 20
    while True:
        with closing(http.client.HTTPConnection(host, port, timeout=5)) as connection:
            try:
                connection.request("GET", "/metrics")
                reply = connection.getresponse()
                assert reply.status == 200
                return reply.headers["content-type"], reply.read().decode()
            except OSError:
                assert time.monotonic() < end


def _open(found: Samples) -> float:
    """Open requests of both stages."""
    return found["open_requests", "rewrite"] + found["open_requests", "answer"]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_is_scraped_while_it_goes(folder: Path, upstream: Callable[[Plan], Upstream], processes: str) -> None:
    """The graph of a night is made of these; what all processes do together must be in it."""
    write_input(folder / "in.jsonl", range(16))
    port = a_port()
    up = upstream({"latency_s": 0.4})
    metrics = ("--set", f"metrics.port={port}", "--processes", processes)
    with running(folder, *RUN, "--base-url", up.base_url, *metrics) as program:
        found: Samples = {}
        while not found.get(("records_total", "answered")) or not _open(found):
            kind, text = scrape(port)
            found = samples(text)
        assert kind.startswith("text/plain")
        assert found["running",] == 1
        assert found["requests_total", "rewrite"] >= found["records_total", "answered"] > 0
        assert 0 < _open(found) <= found["open_requests_limit",]
        assert found["open_requests_limit",] == 4
        assert found["records_left",] > 0
        assert found["tokens_total", "input", "rewrite"] > 0
        assert ("last_exit_status",) not in found, "it has not ended"
        done = program.wait()
    assert done.status == 0, done.err
    assert "warning" not in done.err


def test_the_textfile_has_the_account_of_the_run(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A short job is over before it is scraped; its file is all that Prometheus will ever see."""
    limited = {"status": 429, "headers": {"retry-after": "0.2"}}
    plan: Plan = {
        "rules": [
            {"when": {"contains": "[[r-1]]"}, "replies": [{"status": 400}]},
            {"when": {"contains": "[[r-2]]", "stage": "rewrite"}, "replies": [{"status": 500}, {}]},
            {"when": {"contains": "[[r-3]]", "stage": "rewrite"}, "replies": [{"content": "no JSON"}, {}]},
            {"when": {"contains": "[[r-4]]", "stage": "answer"}, "replies": [limited, {}]},  # type: ignore[list-item]
        ]
    }
    begin = time.time()
    done = measured(folder, upstream(plan).base_url, *PRICES)
    assert done.status == 1
    found, summary = textfile(folder), manifest(folder)["summary"]
    assert stat.S_IMODE((folder / "s2a.prom").stat().st_mode) == 0o644, "the node exporter is another user"
    assert {kind for kind in get_args(FailureKind) if found["failures_total", kind]} == {"bad_request"}
    assert found["records_total", "answered"] == summary["answered"] == RECORDS - 1
    assert found["records_total", "failed"] == 1
    for stage in ("rewrite", "answer"):
        for name, key in {
            "requests_total": "requests",
            "retries_total": "retries",
            "rate_limited_total": "rate_limited",
            "reasks_total": "reasks",
            "cost_usd_total": "cost_usd",
        }.items():
            assert found[name, stage] == pytest.approx(summary[stage][key])
        assert found["request_seconds_total", stage] == pytest.approx(summary[stage]["seconds"], abs=0.01)
        assert found["tokens_total", "output", stage] == summary[stage]["usage"]["output_tokens"]
        assert found["open_requests", stage] == 0
    assert found["waiting_seconds_total", "answer"] > 0.19, "the wait that the server asked for"
    assert (found["running",], found["last_exit_status",]) == (0, 1)
    assert ("last_success_timestamp_seconds",) not in found
    assert begin < found["start_timestamp_seconds",] < found["last_end_timestamp_seconds",] < time.time()
    assert found["duration_seconds",] == pytest.approx(summary["seconds"])


def test_the_last_success_outlives_failures(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The one alert that everybody sets is on its age: a failed night must neither renew nor lose it."""
    url = upstream({}).base_url
    assert measured(folder, url, "--limit", "2").status == 0
    success = textfile(folder)["last_success_timestamp_seconds",]
    assert measured(folder, url, *caps("max_requests=2")).status == 3
    assert measured(folder, url, "--set", "answer.api_key_env=NOT_SET").status == 2
    assert textfile(folder)["last_exit_status",] == 2
    assert measured(folder, url, *caps("max_requests=2")).status == 3
    lacking = ("--set", "telemetry.endpoint=http://127.0.0.1:9/v1/traces")
    assert measured(folder, url, *lacking).status == 2, "refused by what is beside the run"
    found = textfile(folder)
    assert found["last_success_timestamp_seconds",] == success
    assert found["last_exit_status",] == 2
    assert found["last_end_timestamp_seconds",] > success
    assert measured(folder, url).status == 0
    assert textfile(folder)["last_success_timestamp_seconds",] > success


def test_a_run_that_finds_the_lock_held_leaves_the_file(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The file tells of the run that goes on; the second copy of it has nothing to tell."""
    url = upstream({"latency_s": 30}).base_url
    with running(folder, *RUN, "--base-url", url, *FILE) as program:
        while not (folder / "s2a.prom").exists():
            program.process.join(0.05)
        assert measured(folder, url).status == 4
        assert textfile(folder)["running",] == 1


def test_a_port_that_is_taken_is_said_and_no_more(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Somebody else's service on the port must not cost a night."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(folder, *RUN, "--base-url", upstream({}).base_url, "--set", f"metrics.port={port}")
    assert done.status == 0
    assert f"warning: metrics cannot be served on 127.0.0.1 port {port}: Address already in use" in done.err


@pytest.mark.parametrize(("place", "why"), [("gone/s2a.prom", "No such file or directory"), ("out", "Is a directory")])
def test_a_textfile_that_cannot_be_written_is_said_once(
    folder: Path, upstream: Callable[[Plan], Upstream], place: str, why: str
) -> None:
    """The directory of the node exporter goes when that is removed; the job must not go with it."""
    done = run(folder, *RUN, "--base-url", upstream({}).base_url, "--set", f"metrics.textfile={place}", "--quiet")
    assert done.status == 0, done.err
    assert done.err == f"warning: {place}: metrics cannot be written: {why}; the run goes on\n", "quiet or not"
    assert not list(folder.glob("*.new"))


def test_a_full_disk_leaves_the_old_textfile(tmp_path: Path) -> None:
    """Half a file would be half of all metrics, and an alert on each missing one."""
    path = tmp_path / "s2a.prom"
    code = (
        "import resource, sys, pathlib; from s2a_batch.watching.exposition import Exposition\n"
        "from s2a_batch.operations import Metrics\n"
        "path = pathlib.Path(sys.argv[1]); shown = Exposition(Metrics(textfile=path), 'in', print)\n"
        "shown.ended(0); before = path.read_bytes()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2)\n"
        "shown.ended(1); shown.ended(1); assert path.read_bytes() == before"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: metrics cannot be written: File too large; the run goes on\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """The directory may be open to others, who would have a run of root's write where they like."""
    path, theirs = tmp_path / "s2a.prom", tmp_path / "theirs"
    theirs.write_text("precious")
    for name in ("s2a.prom", "s2a.prom.new"):
        (tmp_path / name).symlink_to(theirs)
    Exposition(Metrics(textfile=path), "in", print).ended(0)
    assert theirs.read_text() == "precious"
    assert samples(path.read_text())["last_exit_status",] == 0


def test_peers_that_hang_take_nothing_from_the_run(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Each connection is an open file, and a run needs those for its requests."""
    port = a_port()
    metrics = ("--set", f"metrics.port={port}", "--limit", "2", "--quiet")
    with ExitStack() as stack:
        program = start(folder, *RUN, "--base-url", upstream({"latency_s": 2}).base_url, *metrics)
        scrape(port)
        for _ in range(100):
            peer = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
            peer.sendall(b"GET /met")
        most = 0
        while program.process.exitcode is None:
            with suppress(OSError):
                most = max(most, len(list(Path(f"/proc/{program.pid}/fd").iterdir())))
            program.process.join(0.1)
        done = program.wait()
    assert (done.status, done.err) == (0, "")
    assert most < 60


def test_a_comparison_is_one_job_to_prometheus(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The alert names the job: a file that each arm replaces by its own never has it, nor the last success."""
    up, port = upstream({}), a_port()  # the second arm must find the port free again
    (folder / "in.toml").write_text(
        f'input = "in.jsonl"\noutput = "both"\nmodel = "m"\nbase_url = "{up.base_url}"\nmetrics.port = {port}\n'
        'metrics.textfile = "s2a.prom"\ncompare.arms = ["baseline", "s2a"]\n'
    )
    done = run(folder.parent, "compare", folder / "in.toml", "--quiet")
    assert (done.status, done.err) == (0, "")
    found = textfile(folder)  # beside the job file, as other paths of it
    assert (found["running",], found["last_exit_status",]) == (0, 0)
    assert found["records_total", "answered"] == 2 * RECORDS, "of both arms"
    assert found["requests_total", "answer"] + found["requests_total", "rewrite"] == up.stats().requests
    success = found["last_success_timestamp_seconds",]
    done = run(folder, "compare", "in.toml", "--quiet", "--fresh", *caps("max_requests=1"))
    assert done.status == 3
    assert textfile(folder)["last_success_timestamp_seconds",] == success
    assert textfile(folder)["last_exit_status",] == 3
    assert run(folder, "compare", "in.toml", "--quiet", "--set", "compare.judge={model=7}").status == 2
    assert run(folder, "compare", "in.toml", "--quiet", "--set", "answer.api_key_env=NOT_SET").status == 2
    assert textfile(folder)["last_success_timestamp_seconds",] == success
    assert textfile(folder)["last_exit_status",] == 2


def a_tally(scale: int) -> Tally:
    tally = Tally(lines=scale, answered=scale, failed=scale, limit=9)
    for stage in (tally.rewrite, tally.answer):
        stage.requests, stage.usage = scale, Usage(input_tokens=scale, output_tokens=None)
    tally.answer = tally.answer + StageTally(cost_usd=0.5, waited_s=1.5)
    return tally


def test_names_are_as_prometheus_wants_them() -> None:
    """What its linter refuses: counters without _total, gauges with it, units that are not base units, no help."""
    for family in families("in", a_tally(3), State(cap=4), 1.0, Last(1.0, 2.0, 0)):
        assert re.fullmatch(r"s2a_batch_[a-z]+(_[a-z]+)*", family.name), family.name
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info_info"))
        assert not re.search(r"_(ms|milliseconds|minutes|kb|percent)(_|$)", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter")
            assert set(sample.labels) <= {"job", "status", "kind", "stage", "direction", "version"}


def test_what_is_not_known_has_no_sample() -> None:
    """A cost of 0 that is really unknown is a wrong bill."""
    registry = CollectorRegistry()
    exposition = Exposition(Metrics(), "in", print)
    registry.register(exposition)
    found = samples(generate_latest(registry).decode())
    assert ("records_left",) not in found
    assert ("last_success_timestamp_seconds",) not in found
    kinds = {name: family for family in families("in", a_tally(3), State(), 1.0, Last()) for name in [family.name]}
    costs = {sample.labels["stage"]: sample.value for sample in kinds["s2a_batch_cost_usd"].samples}
    assert costs == {"answer": 0.5}
    assert "s2a_batch_open_requests_limit" not in kinds


@given(st.text(max_size=60) | st.just('s2a_batch_running{job="'), st.binary(max_size=20))
def test_any_old_textfile_and_any_job_name_are_borne(rubbish: str, name: bytes) -> None:
    """The file is anybody's, and a job may be called what it likes: neither may stop a run."""
    job = name_of(Path(os.fsdecode(name)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s2a.prom"
        path.write_text(rubbish)
        Exposition(Metrics(textfile=path), job, print).ended(0)
        again = Exposition(Metrics(textfile=path), job, print)
        again.ended(3)
        found = {s.name: s for family in text_string_to_metric_families(path.read_text()) for s in family.samples}
        assert found["s2a_batch_last_exit_status"].value == 3
        assert found["s2a_batch_last_success_timestamp_seconds"].labels == {"job": job}


def test_the_readme_names_all_metrics() -> None:
    """Whoever writes the alert looks there."""
    part = (ROOT / "README.md").read_text().partition("**Prometheus.**")[2].partition("**OpenTelemetry.**")[0]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    found = families("in", a_tally(3), State(cap=4), 1.0, Last(1.0, 2.0, 0))
    assert sorted(named) == sorted({s.name.removeprefix("s2a_batch_") for family in found for s in family.samples})


def test_a_fault_of_an_observer_is_told_and_ends_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Whatever goes wrong in what only looks, the night's work goes on; here a path that no system call takes."""
    done = run(folder, *RUN, "--base-url", upstream({}).base_url, "--set", r'metrics.textfile="a\u0000b"')
    assert done.status == 0, done.err
    assert done.err.count("warning: ValueError in what looks at the run") == 1, "beside it and at its end, told once"
    assert manifest(folder)["summary"]["answered"] == RECORDS
