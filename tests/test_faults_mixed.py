"""All faults at once: each record still comes to exactly one result, and no record suffers from another's fault."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from s2a_batch import jobfile
from s2a_batch.resume import Options
from s2a_batch.rundir import DEAD_LETTERS, RESULTS
from s2a_batch.verify import verify
from s2a_batch.worker import run_job
from tests.bench.soak import Night, soak
from tests.processes import read_lines, write_input

if TYPE_CHECKING:
    from s2a_batch.live import Live
    from tests.server import Plan, Reply, Rule, Stage, Upstream

RECORDS = 6
MOST_EXECUTIONS = 12

PLAIN: dict[str, tuple[Reply, str]] = {
    "500": ({"status": 500}, "server_error"),
    "a web page": ({"body": "<html>busy</html>", "content_type": "text/html"}, "not_an_answer"),
    "no choices": ({"choices": []}, "not_an_answer"),
    "no JSON": ({"content": "Sure! Here it is"}, "invalid_reply"),
    "another shape": ({"json": {"neither": []}}, "invalid_reply"),
    "empty": ({"content": ""}, "empty_"),
    "refused": ({"status": 400, "error": {"message": "no"}}, "bad_request"),
    "too long": ({"status": 400, "error": {"message": "maximum context length is 9"}}, "too_long"),
    "filtered": ({"finish_reason": "content_filter"}, "content_filter"),
    "cut off": ({"finish_reason": "length"}, "truncated"),
}
"""What one record may get, with the kind of dead letter that it may end as."""
LOST: dict[str, tuple[Reply, str]] = {
    "reset": ({"reset": True}, "connection"),
    "cut": ({"cut": 40}, "connection"),
    "hang": ({"hang_s": 5}, "timeout"),
}
"""For few records: of many, it is an outage, and that is waited for."""
STOPS: dict[str, tuple[Reply, str]] = {
    "wrong key": ({"status": 401}, ""),
    "no money": ({"status": 402}, ""),
    "slow down": ({"status": 429, "headers": {"retry-after-ms": "10"}}, ""),
}
"""No record's fault, and once in a plan."""
FAULTS = PLAIN | LOST | STOPS
Drawn = dict[tuple[int, "Stage"], list[str]]


@st.composite
def mixes(draw: st.DrawFn) -> Drawn:
    """Which faults each stage of each record meets before it is well."""
    found: Drawn = {}
    for number in range(RECORDS):
        names = sorted(PLAIN | LOST if number < 2 else PLAIN)
        for stage in ("rewrite", "answer"):
            found[number, stage] = draw(st.lists(st.sampled_from(names), max_size=3), f"{stage} of {number}")
    for name in draw(st.sets(st.sampled_from(sorted(STOPS)))):
        found[draw(st.sampled_from(sorted(found)))].insert(0, name)
    return found


def plan_of(mix: Drawn) -> Plan:
    """The plan that plays these faults."""
    rules: list[Rule] = [
        {
            "when": {"stage": stage, "contains": f"[[r-{number}]]"},
            "replies": [FAULTS[name][0] for name in names],
            "then": "good",
        }
        for (number, stage), names in mix.items()
        if names
    ]
    return {"rules": rules}


async def unwatched(_: Live) -> None:
    """No display."""
    await anyio.sleep_forever()


def execute(folder: Path, up: Upstream) -> int:
    """One execution in this process; returns its exit status."""
    job = jobfile.build(
        {
            "input": str(folder / "in.jsonl"),
            "output": str(folder / "out"),
            "model": "m",
            "base_url": up.base_url,
            "answer": {"type": "int"},
            "limits": {"open_requests": 4, "requests_per_minute": 60_000},
            "retry": {"attempts": 3, "backoff_s": 0.001, "deadline_s": 0.3},
        },
        "test",
    )
    return run_job(job, Options(), say=lambda _: None, watch=unwatched, environ={}).exit_status


@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(mix=mixes())
def test_any_mix_of_faults_gives_each_record_one_result_by_its_own_faults_alone(
    mix: Drawn, upstream_process: Upstream
) -> None:
    """Nobody can foresee which faults meet in one night; the account of it must add up all the same."""
    upstream_process.replan(plan_of(mix))
    upstream_process.reset_stats()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_input(folder / "in.jsonl", range(RECORDS))
        statuses = [execute(folder, upstream_process)]
        while statuses[-1] == 3:
            assert len(statuses) < MOST_EXECUTIONS, "the same command never comes to an end"
            statuses.append(execute(folder, upstream_process))
        results = {line["id"]: line for line in read_lines(folder / "out" / RESULTS)}
        dead = {line["id"]: line["error"] for line in read_lines(folder / "out" / DEAD_LETTERS)}
        verdict = verify(folder / "out", None)
    assert verdict.holds, verdict.to_text()
    assert sorted([*results, *dead]) == list(range(RECORDS))
    assert all(line["answer"] == {"answer": 1} and line["error"] is None for line in results.values())
    assert statuses[-1] == (1 if dead else 0)
    for number, error in dead.items():
        own = {FAULTS[name][1] for name in mix[number, error["stage"]]}
        assert error["kind"].startswith(tuple(own - {""})), f"{number} had only {own}, and ends as {error}"
    assert {number for number in range(RECORDS) if not mix[number, "rewrite"] + mix[number, "answer"]} <= {*results}
    stats = upstream_process.stats()
    assert all(good <= 1 for paid in stats.per_record.values() for good in paid.values()), "paid twice"


def test_a_bad_night_in_small_keeps_its_promises(tmp_path: Path) -> None:
    """The long soak is run by hand; what it would find must not wait for that."""
    night = Night(
        200,
        open_requests=16,
        latency_s=(0.01, 0.05),
        deadline_s=1.0,
        storm_every_rows=45,
        storm_s=0.5,
        sample_s=0.1,
        settings=("limits.requests_per_minute=60000", "retry.backoff_s=0.05"),
    )
    found = soak(night, tmp_path)
    assert found.broken == []
    assert found.answered + sum(found.dead.values()) == night.rows
    assert found.dead.keys() <= {"invalid_reply"}
    assert found.exit_status == (1 if found.dead else 0)
    assert found.storms >= 2, "it ended before it was bad"
    assert found.by_status.keys() >= {"200", "429", "500", "502", "503"}
