"""Traces and metrics of real runs, as a collector on loopback gets them; and what a bad collector does: nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from s2a_batch.watching.traces import place_of
from tests.collector import Collector
from tests.fakes import a_job
from tests.processes import ROOT, RUN, manifest, run, running, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.collector import Span
    from tests.processes import Done
    from tests.server import Plan, Reply, Upstream

RECORDS = 6
LIMITED: Reply = {"status": 429, "headers": {"retry-after": "0.2"}}
MIXED: Plan = {
    "rules": [
        {"when": {"contains": "[[r-1]]", "stage": "rewrite"}, "replies": [{"status": 400, "error": "no"}]},
        {"when": {"contains": "[[r-2]]", "stage": "rewrite"}, "replies": [{"status": 500}, {}]},
        {"when": {"contains": "[[r-3]]", "stage": "rewrite"}, "replies": [{"content": "no JSON"}, {}]},
        {"when": {"contains": "[[r-4]]", "stage": "answer"}, "replies": [LIMITED, {}]},
    ]
}


def sending(folder: Path, url: str, collector: str, *more: str, environ: dict[str, str] | None = None) -> Done:
    """The usual run, with telemetry."""
    to = ("--set", f"telemetry.endpoint={collector}")
    return run(folder, *RUN, "--base-url", url, "--set", "retry.backoff_s=0.01", *to, *more, environ=environ)


def shape(record: Span) -> tuple[object, ...]:
    """A record's tree: its status, and of each stage the errors of its requests."""
    stages = {stage.name: [child.attributes.get("error.type") for child in stage.children] for stage in record.children}
    return record.attributes["s2a.status"], record.attributes.get("error.type"), stages


@pytest.mark.parametrize("processes", ["1", "2"])
def test_each_record_is_a_trace_of_what_was_sent(
    folder: Path, upstream: Callable[[Plan], Upstream], processes: str
) -> None:
    """An operator looks for the slow or refused request there: what is missing or invented sends him astray."""
    with (folder / "in.jsonl").open("a") as file:
        file.write("no JSON\n")
    began = time.time_ns()
    with Collector() as collector:
        done = sending(folder, upstream(MIXED).base_url, collector.url, "--processes", processes)
    ended = time.time_ns()
    assert done.status == 1, done.err
    assert "telemetry" not in done.err
    records = collector.records()
    good = {"rewrite": [None], "answer": [None]}
    assert [shape(record) for record in records] == [
        ("answered", None, good),
        ("failed", "bad_request", {"rewrite": ["bad_request"]}),
        ("answered", None, good | {"rewrite": ["server_error", None]}),
        ("answered", None, good | {"rewrite": ["invalid_reply", None]}),
        ("answered", None, good | {"answer": ["rate_limited", None]}),
        ("answered", None, good),
        ("failed", "bad_json", {}),
    ]
    assert len({record.ids[0] for record in records}) == len(records), "each has a trace of its own"
    for record in records:
        assert record.name == "record"
        assert (record.attributes["s2a.job"], record.attributes["s2a.run"]) == ("in", "out")
        ok = Status.STATUS_CODE_UNSET if record.attributes["s2a.status"] == "answered" else Status.STATUS_CODE_ERROR
        assert record.status == ok
        for stage in record.children:
            spans = [record, stage, *stage.children]
            assert all(began - 10**6 <= span.start <= span.end <= ended for span in spans)
            assert stage.start == stage.children[0].start
            assert stage.end == max(child.end for child in stage.children)
            assert record.end >= stage.end
            assert {child.ids[0] for child in spans} == {record.ids[0]}


def test_a_request_is_described_as_the_conventions_say(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Dashboards of others look for exactly these names."""
    url = upstream(MIXED).base_url
    with Collector() as collector:
        done = sending(folder, url, collector.url, "--set", "rewrite.temperature=0.5", *("--set", "rewrite.seed=7"))
    assert done.status == 1
    retried = collector.records()[2].children[0].children
    port = int(url.rpartition(":")[2].partition("/")[0])
    for request in retried:
        assert request.name == "chat m"
        assert request.kind == WireSpan.SPAN_KIND_CLIENT
        assert (
            request.attributes.items()
            >= {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "m",
                "gen_ai.request.temperature": 0.5,
                "gen_ai.request.seed": 7,
                "server.address": "127.0.0.1",
                "server.port": port,
                "s2a.stage": "rewrite",
            }.items()
        )
    refused, answered = retried
    assert refused.status == Status.STATUS_CODE_ERROR
    assert (refused.attributes["error.type"], refused.attributes["http.response.status_code"]) == ("server_error", 500)
    assert "gen_ai.usage.input_tokens" not in refused.attributes
    assert answered.status == Status.STATUS_CODE_UNSET
    assert answered.attributes["gen_ai.response.model"] == "m"
    assert answered.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert int(str(answered.attributes["gen_ai.usage.input_tokens"])) > 0
    assert (answered.attributes["s2a.attempt"], refused.attributes["s2a.attempt"]) == (2, 1)
    assert collector.records()[3].children[0].children[1].attributes["s2a.reask"] is True


def test_histograms_agree_with_the_account(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Two counts of the same money that differ are both doubted."""
    with Collector() as collector:
        slow: Plan = {"latency_s": 0.05, "rules": MIXED["rules"]}
        assert sending(folder, upstream(slow).base_url, collector.url).status == 1
    summary = manifest(folder)["summary"]
    stages = (summary["rewrite"], summary["answer"])
    durations = collector.points("gen_ai.client.operation.duration")
    assert sum(point.count for _, point in durations) == sum(stage["requests"] for stage in stages)
    assert sum(point.sum for _, point in durations) == pytest.approx(sum(s["seconds"] for s in stages), abs=0.01)
    errors = {
        str(attributes["error.type"]): point.count for attributes, point in durations if "error.type" in attributes
    }
    assert errors == {"bad_request": 1, "server_error": 1, "invalid_reply": 1, "rate_limited": 1}
    for kind in ("input", "output"):
        points = [point for found, point in collector.points("gen_ai.client.token.usage")]
        of_kind = [
            p for found, p in collector.points("gen_ai.client.token.usage") if found["gen_ai.token.type"] == kind
        ]
        assert sum(point.sum for point in of_kind) == sum(stage["usage"][f"{kind}_tokens"] for stage in stages)
        assert all(sum(point.bucket_counts) == point.count for point in points)
    assert list(durations[0][1].explicit_bounds)[:3] == [0.01, 0.02, 0.04]
    for _, point in durations:
        assert len(point.bucket_counts) == 15
        assert sum(point.bucket_counts[:3]) == 0, "none took less than 0.04 s"
        assert sum(point.bucket_counts[10:]) == 0, "nor more than 5.12 s"


@pytest.mark.parametrize("content", [False, True])
def test_texts_go_along_only_when_asked_for(folder: Path, upstream: Callable[[Plan], Upstream], content: bool) -> None:
    """A collector is read by many who may not read the prompts."""
    write_input(folder / "in.jsonl", range(3), "Is [[r-{n}]] the canary bird? I think it is.")
    plan: Plan = {
        "rules": [
            {"when": {"contains": "[[r-1]]"}, "replies": [{"status": 400, "error": {"message": "the canary is odd"}}]},
            {"when": {"contains": "[[r-2]]", "stage": "answer"}, "replies": [{"content": "a canary"}, {}]},
        ]
    }
    with Collector() as collector:
        more = ("--set", f"telemetry.content={str(content).lower()}", "--answer", "int")
        assert sending(folder, upstream(plan).base_url, collector.url, *more).status == 1
    sent = b"".join(body for _, body in collector.bodies)
    assert (b"canary" in sent) is content
    if content:
        first, again = collector.records()[2].children[1].children
        (message,) = json.loads(str(first.attributes["gen_ai.output.messages"]))
        assert message["parts"] == [{"type": "text", "content": "a canary"}]
        roles = [message["role"] for message in json.loads(str(first.attributes["gen_ai.input.messages"]))]
        assert roles[-1] == "user"
        assert "gen_ai.input.messages" not in again.attributes, "what a re-ask added is not in the files"


def test_what_earlier_executions_sent_is_not_sent_again(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A resume of a million records must not fill the collector with yesterday's."""
    url = upstream({}).base_url
    with Collector() as first:
        assert sending(folder, url, first.url, "--limit", "2").status == 0
    with Collector() as second:
        assert sending(folder, url, second.url).status == 0
    with Collector() as third:
        assert sending(folder, url, third.url).status == 0
    lines = [[record.attributes["s2a.line"] for record in found.records()] for found in (first, second)]
    assert lines == [[1, 2], [3, 4, 5, 6]]
    assert third.bodies == [], "nothing was to be done"


def test_what_another_run_paid_for_is_not_counted(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Borrowed rewrites bring their audit along; a trace of them would bill the requests a second time."""
    url = upstream({}).base_url
    assert run(folder, *RUN, "--base-url", url, "--only", "rewrite").status == 0
    with Collector() as collector:
        assert sending(folder, url, collector.url, "-o", "other", "--set", "rewrites=out").status == 0
    assert [shape(record)[::2] for record in collector.records()] == [("answered", {"answer": [None]})] * RECORDS


def test_a_run_of_rewrites_alone_is_traced(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Its records end in another file."""
    with Collector() as collector:
        assert sending(folder, upstream({}).base_url, collector.url, "--only", "rewrite").status == 0
    assert [shape(record)[::2] for record in collector.records()] == [("rewritten", {"rewrite": [None]})] * RECORDS


def test_a_collector_that_is_away_for_a_moment_misses_nothing(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Collectors are restarted; the run's files are the queue until they are back."""
    with Collector(503, 503, 200) as collector:
        done = sending(folder, upstream({"latency_s": 1.2}).base_url, collector.url)
    assert done.status == 0
    assert len(collector.records()) == RECORDS
    assert done.err.count("telemetry") == 1, done.err
    assert "does not take it: HTTP 503" in done.err


def test_a_batch_that_is_refused_for_good_is_counted(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """To offer it for ever would hold up all that comes after it; to drop it without a word would be a lie."""
    with Collector(400) as collector:
        done = sending(folder, upstream({}).base_url, collector.url)
    assert done.status == 0
    assert f"traces of {RECORDS} records were not sent to {collector.url}: HTTP 400" in done.err


@pytest.mark.parametrize("fault", ["nobody", "hangs"])
def test_a_bad_collector_neither_fails_nor_holds_up_a_run(
    folder: Path, upstream: Callable[[Plan], Upstream], fault: str
) -> None:
    """Who watches the work must not be able to stop it; the wait at the end has a bound."""
    with Collector(0) as collector:
        url = collector.url if fault == "hangs" else "http://127.0.0.1:9"
        begin = time.monotonic()
        done = sending(folder, upstream({}).base_url, url)
        took = time.monotonic() - begin
    assert done.status == 0, done.err
    assert took < 12
    assert f"traces of {RECORDS} records were not sent to {url}" in done.err
    assert "Traceback" not in done.err


def test_a_second_sigterm_while_the_rest_is_sent_is_told_to_the_hook(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A service manager that loses its patience with a dead collector must not silence the hook, nor the status."""
    (folder / "hook.sh").write_text("#!/bin/sh\ncat > told.json\n")
    (folder / "hook.sh").chmod(0o700)
    up = upstream({"latency_s": 0.2})
    with Collector(0) as collector:
        settings = (f"telemetry.endpoint={collector.url}", 'hooks.on_failure.command=["./hook.sh"]')
        more = [word for setting in settings for word in ("--set", setting)]
        with running(folder, *RUN, "--base-url", up.base_url, *more) as program:
            up.wait_until(lambda stats: stats.by_stage.get("answer", 0) > 0)
            program.send(signal.SIGTERM)
            while "files in out" not in program.err():
                program.process.join(0.02)
            program.process.join(0.5)
            program.send(signal.SIGTERM)
            done = program.wait(4)
    assert done.status == 143
    assert json.loads((folder / "told.json").read_text())["exit_status"] == 143


def test_ctrl_c_while_the_rest_is_sent_ends_the_wait(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The run is over; the person wants the prompt back, and the exit status is the run's."""
    with Collector(0) as collector:
        to = ("--set", f"telemetry.endpoint={collector.url}")
        with running(folder, *RUN, "--base-url", upstream({}).base_url, *to) as program:
            while "files in out" not in program.err():
                program.process.join(0.02)
            program.send(signal.SIGINT)
            assert program.wait(4).status == 0


def test_the_environment_of_opentelemetry_changes_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A job says what it needs; a variable that some other tool left must not send keys along, or turn all off."""
    environ = {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=of-somebody-else",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": "another",
        "OTEL_RESOURCE_ATTRIBUTES": "team=blue",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    with Collector() as collector:
        assert sending(folder, upstream({}).base_url, collector.url, environ=environ).status == 0
    assert len(collector.records()) == RECORDS
    assert len(collector.records()[0].attributes) >= 5
    assert not any("x-key" in headers for headers in collector.headers)
    sent = b"".join(body for _, body in collector.bodies)
    assert b"another" not in sent
    assert b"blue" not in sent


def test_headers_and_login_reach_the_collector_and_nobody_else(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The key of a hosted collector is a secret like any other."""
    with Collector(401) as collector:
        url = collector.url.replace("//", "//night:s3cret-pass-77@")
        more = ("--set", 'telemetry.headers_env={"x-api-key"="COLLECTOR_KEY"}', "--log", "json")
        environ = {"COLLECTOR_KEY": "k-9f31c0ffee77"}
        done = sending(folder, upstream({}).base_url, url, *more, environ=environ)
    assert done.status == 0
    assert all(headers["x-api-key"] == environ["COLLECTOR_KEY"] for headers in collector.headers)
    assert all(headers["authorization"].startswith("Basic ") for headers in collector.headers)
    assert "HTTP 401" in done.err
    files = b"".join(path.read_bytes() for path in (folder / "out").iterdir() if path.is_file())
    for secret in ("k-9f31c0ffee77", "s3cret-pass-77"):
        assert secret not in done.err
        assert secret.encode() not in files


def test_what_telemetry_lacks_is_said_before_anything_is_sent(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """At 3 in the morning, after the money is spent, is too late."""
    up = upstream({})
    key = ("--set", 'telemetry.headers_env={"x-api-key"="COLLECTOR_KEY"}')
    for more in (key, (*key, "--dry-run")):
        done = sending(folder, up.base_url, "http://127.0.0.1:9", *more)
        assert done.status == 2
        assert "telemetry.headers_env: the environment has no COLLECTOR_KEY" in done.err
    done = sending(folder, up.base_url, "http://127.0.0.1:9/v1/traces")
    assert (done.status, "leave out /v1/" in done.err) == (2, True)
    code = (
        "import sys; sys.modules['opentelemetry'] = None; sys.argv = ['s2a-batch', *sys.argv[1:]]\n"
        "from s2a_batch.cli import main; main()"
    )
    words = [*RUN, "--base-url", up.base_url, "--set", "telemetry.endpoint=http://127.0.0.1:9"]
    bare = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert bare.returncode == 2, bare.stderr
    assert "pip install 's2a-batch[telemetry]'" in bare.stderr
    assert up.stats().requests == 0


@pytest.mark.parametrize(
    ("url", "provider", "port"),
    [
        ("https://api.openai.com/v1", "openai", 443),
        ("https://night.openai.azure.com/v1?api-version=1", "azure.ai.openai", 443),
        ("https://api.groq.com/openai/v1", "groq", 443),
        ("https://fakeapi.groq.com.example/v1", "openai", 443),
        ("http://me:pass@[::1]/v1", "openai", 80),
        ("http://10.0.0.1:8000/v1", "openai", 8000),
    ],
)
def test_the_provider_is_told_by_the_host(url: str, provider: str, port: int) -> None:
    """Prices and dashboards differ by provider; an unknown host speaks as OpenAI does. A login is not told."""
    found = place_of(a_job(base_url=url).answer)
    assert (found["gen_ai.provider.name"], found["server.port"]) == (provider, port)
    assert "pass" not in str(found)


def test_what_is_begun_anew_is_sent_anew(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Files that are set aside or renamed as a run begins must not hide its own lines behind their length."""
    plan: Plan = {"rules": [{"when": {"contains": "[[r-1]]"}, "replies": [{"status": 400}], "per_record": True}]}
    assert run(folder, *RUN, "--base-url", upstream(plan).base_url).status == 1
    with Collector() as collector:
        assert sending(folder, upstream({}).base_url, collector.url, "--retry-failed").status == 0
    assert [record.attributes["s2a.line"] for record in collector.records()] == [2]
    with Collector() as collector:
        assert sending(folder, upstream({}).base_url, collector.url, "--fresh").status == 0
    assert len(collector.records()) == RECORDS
