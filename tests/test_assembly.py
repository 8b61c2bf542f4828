"""From a job to its parts: who shares a limiter, whose key goes where, and that replies find their records."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch.assembly import Assembly, Parts
from s2a_batch.errors import Drained, EndpointError, JobError, StopRun
from s2a_batch.report import Tally
from s2a_batch.resume import Options
from s2a_batch.setup import check_setup
from s2a_batch.worker import run_job
from tests.fakes import a_job, a_record
from tests.server import key_digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from s2a_batch.job import Job
    from s2a_batch.live import Live
    from s2a_batch.records import Status
    from tests.server import Plan, Upstream

pytestmark = pytest.mark.anyio
SLASH = "http://127.0.0.1:9/v1/"  # as the usual one of the tests, but for its end
KEYS = {"KEY_A": "sk-aaaaaaaa", "KEY_B": "sk-bbbbbbbb", "OPENAI_API_KEY": "sk-openai"}


def assembly(job: Job, environ: Mapping[str, str] = KEYS, tally: Tally | None = None) -> Assembly:
    return Assembly(job, environ=environ, drain=anyio.Event(), tally=tally or Tally(), say=print)


async def keep(_: Status, line: bytes) -> None:
    json.loads(line)


@asynccontextmanager
async def built(job: Job, tally: Tally | None = None) -> AsyncIterator[Parts]:
    async with assembly(job, tally=tally).parts("f" * 12, "e" * 12, keep) as parts:
        yield parts


async def limiters_of(**table: object) -> int:
    async with built(a_job(**table)) as parts:
        return len(parts.limiters)


@pytest.mark.parametrize(
    ("tables", "count"),
    [
        ({}, 1),
        ({"answer": {"temperature": 0.5}}, 1),
        ({"answer": {"model": "m1"}}, 1),
        ({"api_key_env": "KEY_A", "answer": {"base_url": SLASH, "model": "m1", "api_key_env": "KEY_A"}}, 1),
        ({"answer": {"model": "m2"}}, 2),
        ({"answer": {"base_url": "http://127.0.0.1:8/v1"}}, 2),
        ({"api_key_env": "KEY_A", "answer": {"api_key_env": "KEY_B"}}, 2),
        ({"api_key_env": "KEY_A", "answer": {"api_key_env": "KEY_A"}}, 1),
        ({"only": "rewrite"}, 1),
    ],
)
async def test_stages_of_one_account_and_model_share_a_limiter(tables: dict[str, object], count: int) -> None:
    """Two limiters on one account would let twice the limit through; one over two accounts would waste half of both."""
    assert await limiters_of(**tables) == count


@pytest.mark.parametrize(
    "table",
    [
        {"answer": {"limits": {"open_requests": 3}}},
        {"rewrite": {"limits": {"requests_per_minute": 3}}, "answer": {"base_url": SLASH}, "api_key_env": None},
        {"model": None, "base_url": None, "answer": {"limits": {"open_requests": 3}}},
    ],
)
def test_own_limits_on_a_shared_account_are_refused(table: dict[str, object]) -> None:
    """Two limits for one account contradict each other: nothing may be sent before that is settled."""
    with pytest.raises(JobError, match=r"answer.limits"):
        check_setup(a_job(**table), {})


async def test_own_limits_on_an_own_account_are_kept() -> None:
    """A small local model for stage 1 and a large account for stage 2 have nothing in common."""
    table = {"limits": {"open_requests": 4}, "answer": {"model": "m2", "limits": {"open_requests": 9}}}
    async with built(a_job(**table)) as parts:
        assert sorted(limiter.cap for limiter in parts.limiters) == [4, 9]
        assert parts.tasks == 20  # half as many again as may be open


async def test_the_cap_holds_over_both_stages_together(upstream: Callable[[Plan], Upstream]) -> None:
    """The server counts one account's open requests, not a stage's."""
    up = upstream({"latency_s": 0.02})
    job = a_job(base_url=up.base_url, limits={"open_requests": 3})
    async with built(job) as parts, anyio.create_task_group() as tasks:
        for n in range(12):
            tasks.start_soon(parts.pipeline.process, a_record(f"[[r-{n}]]?", n), None)
    assert up.stats().answered == 24
    assert up.stats().max_in_flight == 3


async def test_a_stages_own_cap_holds(upstream: Callable[[Plan], Upstream]) -> None:
    """Rewrites may be held back so that answers have room."""
    up = upstream({"latency_s": 0.02})
    job = a_job(base_url=up.base_url, only="rewrite", rewrite={"open_requests": 2})
    async with built(job) as parts, anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(parts.pipeline.process, a_record(f"[[r-{n}]]?", n), None)
    assert up.stats().max_in_flight == 2


async def test_two_models_of_one_endpoint_do_not_wait_for_each_others_connections(
    upstream: Callable[[Plan], Upstream],
) -> None:
    """They have a limiter each; waiting for a connection would eat the deadline, and fail as a time-out."""
    up = upstream({"latency_s": 0.3})
    job = a_job(base_url=up.base_url, limits={"open_requests": 2}, answer={"model": "m2"})
    async with built(job) as parts, anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(parts.pipeline.process, a_record(f"[[r-{n}]]?", n), None)
    assert up.stats().max_in_flight == 4
    assert up.stats().by_status == {"200": 8}


async def test_each_stage_sends_its_own_key_and_no_other(upstream: Callable[[Plan], Upstream]) -> None:
    """A key that reaches an endpoint which it was not named for is a key to be revoked."""
    up = upstream({})
    answer = {"base_url": up.base_url.replace("127.0.0.1", "localhost"), "model": "m2", "api_key_env": "KEY_B"}
    job = a_job(base_url=up.base_url, api_key_env="KEY_A", answer=answer)
    async with built(job) as parts:
        await parts.pipeline.process(a_record(), None)
    sent = {(row["model"], row["key"]) for row in up.requests()}
    assert sent == {("m1", key_digest(KEYS["KEY_A"])), ("m2", key_digest(KEYS["KEY_B"]))}


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
        ({"answer": {"api_key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY"),
        ({"rewrite": {"headers_env": {"X-Gw": "NO_SUCH_HEADER"}}}, "NO_SUCH_HEADER"),
    ],
)
def test_a_missing_secret_is_named_before_anything_is_sent(table: dict[str, object], missing: str) -> None:
    """Found out with the first request, it would look like a wrong key."""
    with pytest.raises(JobError, match=missing):
        check_setup(a_job(**table), KEYS)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"base_url": None, "model": "nowhere.gguf"}, r"nowhere\.gguf: .*hint"),
        ({"rewrite": {"model": "nowhere.gguf"}}, r"nowhere\.gguf: .*hint"),
        ({"answer": {"schema_file": "nowhere.json"}}, r"nowhere\.json: cannot be read"),
        ({"answer": {"class": "nowhere:Model"}}, "nowhere:Model"),
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
        ({"answer": {"limits": {"open_requests": 3}}}, r"answer\.limits"),
    ],
)
def test_a_wrong_set_up_leaves_no_directory_behind(tmp_path: Path, table: dict[str, object], says: str) -> None:
    """A run that never was must not stand in the way of the next one, nor show up in `status`."""
    (tmp_path / "in.jsonl").write_text("{}")
    job = a_job(input=tmp_path / "in.jsonl", output=tmp_path / "deep" / "out", **table)

    async def watch(_: Live) -> None:
        await anyio.sleep_forever()

    with pytest.raises(JobError, match=says):
        run_job(job, Options(), say=print, watch=watch, environ={})
    assert not (tmp_path / "deep").exists()


def test_a_stage_that_does_not_run_needs_no_secret() -> None:
    """A run that stops after the rewrites must not ask for the answer's key."""
    check_setup(a_job(only="rewrite", answer={"api_key_env": "NO_SUCH_KEY"}), KEYS)


async def test_replies_find_their_records_whatever_their_order(upstream: Callable[[Plan], Upstream]) -> None:
    """Sixteen at a time over shared connections: no answer may come back under another record's id."""
    up = upstream({"latency_s": [0.0, 0.06], "seed": 3})
    tally = Tally()
    found: dict[int, object] = {}
    waiting = iter(range(40))

    async def carry(parts: Parts) -> None:
        for n in waiting:
            outcome = await parts.pipeline.process(a_record(f"[[r-{n}]] so?", n), None)
            assert outcome is not None
            assert outcome.rewrite is not None
            found[n] = (outcome.rewrite.user_query, outcome.answer)

    async with built(a_job(base_url=up.base_url), tally) as parts, anyio.create_task_group() as tasks:
        for _ in range(parts.tasks):
            tasks.start_soon(carry, parts)
    assert found == {n: (f"[[r-{n}]] via-rewrite question?", {"answer": f"ANSWER [[r-{n}]]"}) for n in range(40)}
    assert list(found) != sorted(found)
    assert 4 < up.stats().max_in_flight <= 16
    assert (tally.requests, up.stats().requests) == (80, 80)


@pytest.mark.parametrize(
    "reply",
    [{"status": 401}, {"status": 404}, {"body": "<html>Sign in</html>", "content_type": "text/html"}],
)
async def test_a_wrong_endpoint_costs_a_handful_of_requests(
    upstream: Callable[[Plan], Upstream], reply: object
) -> None:
    """At a concurrency of sixty-four the first fault must not be paid sixty-four times."""
    up = upstream({"rules": [{"replies": [reply]}], "latency_s": 0.01})  # type: ignore[list-item]
    drain = anyio.Event()
    job = a_job(base_url=up.base_url, limits={"open_requests": 64}, retry={"backoff_s": 0.01})
    parts_of = Assembly(job, environ=KEYS, drain=drain, tally=Tally(), say=print).parts("f" * 12, "e" * 12, keep)
    stops = 0

    async def one(n: int, parts: Parts) -> None:
        nonlocal stops
        try:
            await parts.pipeline.process(a_record(f"[[r-{n}]]?", n), None)
        except (StopRun, Drained):
            stops += 1
            drain.set()
            parts.limiters[0].wake_all()

    async with parts_of as parts, anyio.create_task_group() as tasks:
        for n in range(96):
            tasks.start_soon(one, n, parts)
    assert stops == 96
    assert up.stats().requests <= 16


async def test_a_model_that_the_endpoint_does_not_know_is_named(upstream: Callable[[Plan], Upstream]) -> None:
    """With two stages and two models, "not found" alone does not say which one to mend."""
    up = upstream({"rules": [{"replies": [{"status": 404, "error": {"message": "unknown model"}}]}]})
    async with built(a_job(base_url=up.base_url)) as parts:
        with pytest.raises(EndpointError, match="m1"):
            await parts.pipeline.process(a_record(), None)
