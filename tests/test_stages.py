"""One stage of a record: each request passes limiter, retry and audit once, and what it cost is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.bounds import Retry
from s2a_batch.errors import (
    AccountError,
    AttemptError,
    Drained,
    EndpointError,
    RateLimitedError,
    RecordError,
    RequestRefused,
    TransientError,
    UnusableReply,
)
from s2a_batch.records import Usage
from s2a_batch.retry import Health
from s2a_batch.stagejob import AnswerJob, RewriteJob
from s2a_batch.stages import Trail
from tests.fakes import FakeClient, Scripted, a_limiter, a_stage, in_virtual_time, usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2a_batch.errors import FailureKind
    from s2a_batch.records import StageAudit
    from s2a_batch.stages import Stage
    from tests import server

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
MESSAGES = [{"role": "user", "content": "[[r-1]] so?"}]
BAD: server.Reply = {"json": "no json"}
NO_BACKOFF = Retry(backoff_s=1e-9)


def cut(inputs: int, outputs: int) -> UnusableReply:
    tokens = Usage(input_tokens=inputs, output_tokens=outputs).model_dump()
    return UnusableReply("truncated", "cut", status=200, request_id="req-cut", reply="half", usage=tokens)


async def run(stage: Stage) -> Trail:
    """One record through the stage, whatever comes of it."""
    trail = Trail(anyio.current_time())
    try:
        await stage.run(MESSAGES, trail)
    except RecordError as error:
        trail.text = f"{error.kind}: {error}"
    return trail


def audit(stage: Stage, trail: Trail) -> StageAudit:
    found = stage.audit(trail)
    assert found is not None
    return found


async def test_each_request_is_one_attempt_one_slot_and_one_audit_entry() -> None:
    """A request that is missing in the audit is a request nobody can account for."""
    script: list[Scripted] = [
        TransientError("server_error", "HTTP 503", status=503, request_id="req-a"),
        RateLimitedError("HTTP 429", retry_after_s=7, request_id="req-b"),
        BAD,
        TransientError("connection", "gone"),
        {},
    ]
    client = FakeClient(script, seconds=2)
    limiter = a_limiter(requests_per_minute=60)
    stage = a_stage(client, limiter=limiter, retry=NO_BACKOFF)
    trail = await run(stage)
    found = audit(stage, trail).attempts
    assert len(client.requests) == len(found) == stage.tally.requests == 5
    assert [a.n for a in found] == [1, 2, 3, 4, 5]
    assert [a.error.kind if a.error else None for a in found] == [
        "server_error",
        "rate_limited",
        "invalid_reply",
        "connection",
        None,
    ]
    assert [a.reask for a in found] == [False, False, False, True, True]
    assert [a.status for a in found] == [503, 429, 200, None, 200]
    assert [a.request_id for a in found] == ["req-a", "req-b", "req-3", None, "req-5"]
    assert found[2].reply == "no json"
    assert (limiter.open, stage.tally.open, stage.tally.waiting) == (1, 0, 0), "the reply is not yet written"
    trail.release()
    assert limiter.open == 0
    assert (stage.tally.rate_limited, stage.tally.reasks, stage.tally.retries) == (1, 1, 2)


async def test_seconds_and_waits_are_told_apart() -> None:
    """A slow server and a tight limit have different remedies; the audit must show which it was."""
    script: list[Scripted] = [{"delay_s": 3}, {"delay_s": 4}]
    client = FakeClient(script)
    stage = a_stage(client, limiter=a_limiter(requests_per_minute=6))
    first, second = await run(stage), await run(stage)
    assert [(a.waited_s, a.seconds) for a in first.attempts + second.attempts] == [(0, 3), (7, 4)]


async def test_a_wait_between_attempts_counts_as_waited() -> None:
    """Backoff and pauses are time that the record did not spend with the model."""
    script: list[Scripted] = [RateLimitedError("slow down", retry_after_s=20), {"delay_s": 5}]
    stage = a_stage(FakeClient(script, seconds=1))
    first, second = (await run(stage)).attempts
    assert (first.seconds, second.seconds) == (1, 5)
    assert first.retry_after_s is not None
    assert 20 <= first.retry_after_s <= 22
    assert second.waited_s == pytest.approx(first.retry_after_s, abs=1e-3)


TOKENS = st.tuples(st.integers(0, 500), st.integers(0, 500))
FATES = st.lists(st.tuples(st.sampled_from(["bad", "cut", "busy", "down", "unknown"]), TOKENS), max_size=8)


@settings(max_examples=60, deadline=None)
@given(fates=FATES, last=TOKENS)
def test_the_tokens_of_all_attempts_are_counted(
    fates: list[tuple[str, tuple[int, int]]], last: tuple[int, int]
) -> None:
    """Invalid and cut replies are billed; a sum that leaves them out is wrong exactly on a bad night."""
    paid: list[tuple[int, int]] = []
    script: list[Scripted] = []
    for fate, tokens in fates:
        paid += [tokens] if fate in {"bad", "cut"} else []
        script.append(
            {
                "bad": {"json": "no json", "usage": usage(*tokens)},
                "unknown": {"json": "no json", "usage": None},
                "cut": TransientError("empty_answer", "empty", usage=cut(*tokens).usage),
                "busy": RateLimitedError("slow down", retry_after_s=None),
                "down": TransientError("connection", "gone"),
            }[fate]  # type: ignore[arg-type]
        )
    script.append({"usage": usage(*last)})

    async def main() -> None:
        bounds = Retry(attempts=50, reasks=10, max_s=1e6)
        stage = a_stage(FakeClient(script), retry=bounds, health=Health(patience=100))
        found = audit(stage, await run(stage))
        for counted in (found.usage, stage.tally.usage):
            assert counted.input_tokens == sum(inputs for inputs, _ in [*paid, last])
            assert counted.output_tokens == sum(outputs for _, outputs in [*paid, last])
        assert stage.tally.unknown_usage == sum(fate == "unknown" for fate, _ in fates)
        assert stage.tally.requests == len(fates) + 1

    in_virtual_time(main)


async def test_a_cut_reply_is_counted_and_kept() -> None:
    """The record fails, its tokens are billed all the same, and an auditor wants to see the half."""
    stage = a_stage(FakeClient([cut(100, 50)]))
    trail = await run(stage)
    found = audit(stage, trail)
    assert trail.text.startswith("truncated")
    assert found.usage == Usage(input_tokens=100, output_tokens=50)
    assert found.attempts[0].reply == "half"
    assert stage.tally.done == 0


async def test_a_missing_usage_is_unknown_and_not_zero() -> None:
    """Sums must be able to say "at least"."""
    stage = a_stage(FakeClient([{"usage": None}]))
    found = audit(stage, await run(stage))
    assert found.usage == Usage()
    assert stage.tally.unknown_usage == 1


@pytest.mark.parametrize(
    ("sizes", "second_at"),
    [((1000, 200), 60.3), ((50, 250), 300 / 600 / 0.985 * 60 - 0.005)],
)
async def test_the_limiter_learns_what_a_request_really_took(sizes: tuple[int, int], second_at: float) -> None:
    """Also from a cut reply: a model in a loop would break the limit by its thousands of tokens."""
    client = FakeClient([cut(*sizes), {}])
    stage = a_stage(client, limiter=a_limiter(tokens_per_minute=600))
    await run(stage)
    await run(stage)
    assert client.started[1] == pytest.approx(second_at)


async def test_the_estimate_follows_what_replies_took() -> None:
    """A guess that stays one lets too much through, or too little; only replies that were counted may count."""
    busy = RateLimitedError("slow down", retry_after_s=1)
    script: list[Scripted] = [busy, {"usage": usage(10, 1000)}, {"usage": None}, {"usage": usage(10, 2000)}]
    client = FakeClient([*script, {"delay_s": 1e6}, {}])
    stage = a_stage(client, limiter=a_limiter(tokens_per_minute=60_000), name="answer", model=None)
    for _ in range(3):
        await run(stage)
    async with anyio.create_task_group() as tasks:  # the second starts before the first could be corrected
        tasks.start_soon(run, stage)
        tasks.start_soon(run, stage)
    estimate = len(MESSAGES[0]["content"]) / 3.5 + (1000 + 2000) / 2
    assert client.started[-1] - client.started[-2] == pytest.approx(estimate / 1000 / 0.985)


async def test_the_first_estimate_counts_the_prompts_length() -> None:
    """A file of long prompts must not begin with a burst far above the limit."""
    gaps = []
    for prompt in ("x" * 35, "x" * 3535):
        client = FakeClient([{"delay_s": 1e6}, {}])
        stage = a_stage(client, limiter=a_limiter(tokens_per_minute=6000), name="answer", model=None)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(stage.run, [{"role": "user", "content": prompt}], Trail(anyio.current_time()))
        gaps.append(client.started[1] - client.started[0])
    assert gaps[1] - gaps[0] == pytest.approx(1000 / 100 / 0.985)


async def test_a_rate_limits_text_never_gets_into_a_prompt() -> None:
    """The model would be told of a limit that is none of its business, and would answer to it."""
    script: list[Scripted] = [BAD, RateLimitedError("rate_limit says the server", retry_after_s=1), {}]
    client = FakeClient(script)
    await run(a_stage(client))
    assert len(client.requests) == 3
    assert client.requests[1] == client.requests[2]
    assert not any("rate_limit" in text for text in client.texts())


async def test_a_re_ask_and_a_retry_share_one_bound() -> None:
    """Two bounds multiply: one record cost sixteen requests that way."""
    script: list[Scripted] = [TransientError("connection", "gone"), BAD] * 20
    client = FakeClient(script)
    stage = a_stage(client, retry=Retry(attempts=5, reasks=10, backoff_s=1e-9))
    trail = await run(stage)
    assert len(client.requests) == 5
    assert trail.text.startswith("connection")


async def test_a_re_ask_without_an_attempt_left_says_what_the_last_reply_lacked() -> None:
    """That no attempt is left tells nobody what to change."""
    client = FakeClient([BAD] * 20)
    trail = await run(a_stage(client, retry=Retry(attempts=2, reasks=10)))
    assert len(client.requests) == 2
    assert trail.text.startswith("invalid_reply")
    assert "JSON" in trail.text


async def test_a_long_wait_for_a_turn_does_not_use_up_the_time_for_attempts() -> None:
    """With a slow limit the last records wait for hours before they are sent; their first fault must be forgiven."""
    script: list[Scripted] = [{}, TransientError("server_error", "HTTP 503"), {}]
    stage = a_stage(FakeClient(script), limiter=a_limiter(requests_per_minute=0.01), retry=Retry(max_s=900))
    await run(stage)
    found = await run(stage)
    assert kinds(found) == ["server_error", None]
    assert found.attempts[0].waited_s > 900


STOPS: list[Exception] = [AccountError("key"), EndpointError("model"), Drained()]


@pytest.mark.parametrize("error", STOPS, ids=lambda error: type(error).__name__)
async def test_what_stops_the_run_passes_through(error: Exception) -> None:
    """The record stays pending: as a dead letter it would not be asked again."""
    with pytest.raises(type(error)) as caught:
        await a_stage(FakeClient([error])).run(MESSAGES, Trail(0))
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "name", "kind"),
    [
        (UnusableReply("refusal", "no"), "rewrite", "refusal"),
        (RequestRefused("too_long", "long"), "answer", "too_long"),
        (TransientError("empty_answer", "empty"), "rewrite", "empty_rewrite"),
        (TransientError("empty_answer", "empty"), "answer", "empty_answer"),
        (TransientError("timeout", "slow"), "answer", "timeout"),
    ],
)
async def test_a_lost_record_says_why(error: AttemptError, name: str, kind: FailureKind) -> None:
    """The reason code decides what its owner does next."""
    stage = a_stage(
        FakeClient([error] * 6), name="rewrite" if name == "rewrite" else "answer", model=None, retry=NO_BACKOFF
    )
    stage.health.note_success()
    with pytest.raises(RecordError) as caught:
        await stage.run(MESSAGES, Trail(0))
    assert caught.value.kind == kind
    assert caught.value.__cause__ is None


async def test_a_cancelled_record_gives_everything_back() -> None:
    """A slot or a count that stays behind stalls the run, or makes the display lie."""
    client = FakeClient([{"delay_s": 100}])
    stage = a_stage(client)
    with anyio.move_on_after(5):
        await run(stage)
    assert (client.open, stage.limiter.open, stage.lane.open) == (0, 0, 0)
    assert (stage.tally.open, stage.tally.waiting, stage.tally.requests) == (0, 0, 1)


async def test_a_retrying_record_holds_no_slot() -> None:
    """A record in its backoff must not keep the others from the server."""
    client = FakeClient(lambda _: TransientError("server_error", "gone"), seconds=1)
    bounds = Retry(attempts=2, backoff_s=1e4, max_backoff_s=1e4, max_s=1e5)
    stage = a_stage(client, limiter=a_limiter(1), retry=bounds, health=Health(patience=100))
    stage.health.note_success()
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(run, stage)
        await anyio.sleep(4.5)
        assert len(client.requests) == 4
    assert client.max_open == 1


async def test_a_wrong_endpoint_costs_a_handful_of_requests_at_any_concurrency() -> None:
    """Sixty-four records at once, all against a wall: a few requests, then the run stops."""
    client = FakeClient(lambda _: TransientError("not_an_answer", "HTTP 200 with text/html"), seconds=0.1)
    health, limiter = Health(), a_limiter(64)
    stage = a_stage(client, limiter=limiter, health=health)
    stops = 0

    async def one() -> None:
        nonlocal stops
        try:
            await stage.run(MESSAGES, Trail(anyio.current_time()))
        except EndpointError:
            stops += 1
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(one)
    assert stops >= 1
    assert len(client.requests) <= 12


def sent(job: RewriteJob | AnswerJob) -> tuple[Stage, FakeClient]:
    client = FakeClient([{}])
    return a_stage(client, job=job), client


async def test_the_jobs_parameters_are_sent_and_no_others() -> None:
    """A default that the job does not name may be refused by the server, and would change answers unseen."""
    extra: dict[str, int] = {"top_k": 5}
    job = RewriteJob(model="m9", temperature=0.0, seed=7, max_tokens=64, extra_body=dict(extra))
    stage, client = sent(job)
    found = audit(stage, await run(stage))
    request = client.requests[0]
    assert set(request) == {"model", "messages", "response_format", "temperature", "seed", "max_tokens", "extra_body"}
    assert (request["model"], request["temperature"], request["extra_body"]) == ("m9", 0.0, extra)
    assert found.parameters == {
        "temperature": 0.0,
        "seed": 7,
        "max_tokens": 64,
        "extra_body": extra,
        "mode": "json_schema",
    }


async def test_a_bare_job_sends_no_parameters() -> None:
    """A model name and the messages: what a server makes of the rest is the server's default."""
    stage, client = sent(RewriteJob(model="m1"))
    await run(stage)
    assert set(client.requests[0]) == {"model", "messages", "response_format"}


async def test_the_audit_holds_the_messages_as_first_sent() -> None:
    """What was asked must be readable later, without what a re-ask added."""
    stage = a_stage(FakeClient([BAD, {}]))
    found = audit(stage, await run(stage))
    assert found.messages is not None
    assert [m.model_dump() for m in found.messages] == MESSAGES
    assert len(found.messages_sha256) == 64


async def test_a_stage_that_sent_nothing_has_no_audit() -> None:
    """An empty audit would read as a request that vanished."""
    drain = anyio.Event()
    drain.set()
    stage = a_stage(FakeClient([]), drain=drain)
    trail = Trail(0)
    with pytest.raises(Drained):
        await stage.run(MESSAGES, trail)
    assert stage.audit(trail) is None


def kinds(trail: Trail) -> Sequence[str | None]:
    return [a.error.kind if a.error else None for a in trail.attempts]


async def test_a_run_that_raises_leaves_the_trail_so_far() -> None:
    """A dead letter shows every attempt, above all those of the record that was lost."""
    script: list[Scripted] = [TransientError("timeout", "slow"), BAD, RequestRefused("content_filter", "HTTP 400")]
    assert kinds(await run(a_stage(FakeClient(script), retry=NO_BACKOFF))) == [
        "timeout",
        "invalid_reply",
        "content_filter",
    ]


async def test_a_record_that_alone_is_refused_is_given_up() -> None:
    """Each of its rate limits holds up everybody; without a bound one strange record takes the night."""
    refused = RateLimitedError("HTTP 429: busy", retry_after_s=1, status=429, request_id="req")
    client = FakeClient(lambda request: refused if "poison" in str(request["messages"]) else {})
    stage = a_stage(client)

    async def answer_others() -> None:
        while True:
            (await run(stage)).release()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_others)
        trail = Trail(anyio.current_time())
        with pytest.raises(RecordError, match="20 times, while others were answered") as caught:
            await stage.run([{"role": "user", "content": "poison"}], trail)
        tasks.cancel_scope.cancel()
    assert (caught.value.kind, len(trail.attempts)) == ("rate_limited", 21), "before the first one nobody was answered"


async def test_rate_limits_of_everybody_are_no_records_fault() -> None:
    """A busy night must not lose records, however often they are refused."""
    script: list[Scripted] = [RateLimitedError("HTTP 429: busy", retry_after_s=1) for _ in range(60)]
    client = FakeClient([*script, {}])
    trail = await run(a_stage(client, health=Health(max_wait_s=1e9)))
    assert len(trail.attempts) == 61
