"""A record's way through both stages: what the answer stage may see, what is saved when, and what stops where."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.bounds import Retry
from s2a_batch.draft import FinishedRewrite
from s2a_batch.errors import (
    AccountError,
    Drained,
    EndpointError,
    OutputError,
    RateLimitedError,
    RequestRefused,
    TransientError,
    UnusableReply,
)
from s2a_batch.pipeline import Pipeline
from s2a_batch.records import LINE_PREFIX, Outcome, Usage, result_line
from s2a_batch.stagejob import AnswerJob, RewriteJob
from tests.fakes import FakeClient, Scripted, a_job, a_limiter, a_record, a_stage, in_virtual_time, usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2a_batch.client import Request
    from s2a_batch.records import Status
    from tests import server

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
KEY = f"{1:032x}"


class Way:
    """A pipeline around one fake client, with all that it saved and when."""

    def __init__(
        self,
        client: FakeClient,
        *,
        rewrite: RewriteJob | None = None,
        answer: AnswerJob | None = None,
        only_rewrite: bool = False,
        drain: anyio.Event | None = None,
        save_error: Exception | None = None,
    ) -> None:
        self.client = client
        self.saved: list[tuple[int, bytes]] = []
        self.written: list[tuple[Status, bytes]] = []
        self.open_at_writes: list[int] = []
        self.save_error = save_error
        rewrite, answer = rewrite or RewriteJob(model="m1"), answer or AnswerJob(model="m1")
        self.limiter = limiter = a_limiter(drain=drain)
        retry = Retry(backoff_s=1e-9)
        stage2 = a_stage(client, name="answer", job=answer, model=None, limiter=limiter, retry=retry, drain=drain)
        stage1 = a_stage(client, name="rewrite", job=rewrite, limiter=limiter, retry=retry, drain=drain)
        self.tallies = stage1.tally, stage2.tally
        self.pipeline = Pipeline(
            stage1,
            None if only_rewrite else stage2,
            job=a_job().model_copy(update={"rewrite": rewrite, "answer": answer}),
            fingerprint="f" * 12,
            rewrite_fingerprint="of rewrites",
            write=self.write,
        )

    async def write(self, status: Status, line: bytes) -> None:
        """Keep the line, a rewrite's with how many requests came before it, and how many slots are taken."""
        if self.save_error is not None:
            raise self.save_error
        await anyio.sleep(1)
        self.open_at_writes.append(self.limiter.open)
        if status == "rewritten":
            self.saved.append((len(self.client.requests), line))
        else:
            self.written.append((status, line))

    async def go(self, prompt: str = "[[r-1]] so?", finished: FinishedRewrite | None = None) -> Outcome:
        """The outcome of one record."""
        outcome = await self.pipeline.process(a_record(prompt), finished)
        assert outcome is not None
        return outcome


def rewritten(context: str, query: str) -> server.Reply:
    return {"content": json.dumps({"relevant_context": context, "user_query": query})}


def is_rewrite(request: Request) -> bool:
    return "response_format" in request


def user_text(request: Request) -> str:
    messages: Any = request["messages"]
    return "\n".join(m["content"] for m in messages if m["role"] == "user")


async def test_a_record_goes_through_both_stages() -> None:
    """The answer is asked from the rewrite, and everything in between is in the outcome."""
    way = Way(FakeClient([{"usage": usage(10, 5)}, {"usage": usage(3, 2)}], seconds=2))
    found = await way.go()
    assert (found.status, found.answer) == ("answered", {"answer": "ANSWER [[r-1]]"})
    assert found.rewrite is not None
    assert found.rewrite.relevant_context == "[[r-1]] via-rewrite context"
    assert found.stages.rewrite is not None
    assert found.stages.answer is not None
    assert found.stages.rewrite.usage == Usage(input_tokens=10, output_tokens=5)
    assert found.stages.answer.usage == Usage(input_tokens=3, output_tokens=2)
    assert found.seconds == pytest.approx(5), "with the second that writing the rewrite took"
    assert (found.fingerprint, found.error) == ("f" * 12, None)


WORDS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(prompt=WORDS, context=st.text(max_size=40), query=WORDS.filter(lambda text: text.strip() != ""))
def test_the_answer_stage_sees_the_rewrite_and_nothing_of_the_prompt(prompt: str, context: str, query: str) -> None:
    """That is System 2 Attention: whatever the rewrite left out must not reach the answer by another way."""
    secret = f"\u2603{prompt}\u2603"

    async def main() -> None:
        way = Way(FakeClient([rewritten(context, query), {}]))
        found = await way.go(secret)
        assert found.status == "answered"
        sent = user_text(way.client.requests[1])
        assert secret not in way.client.texts()[1]
        assert sent == (f"{context}\n\n{query}" if context else query)
        assert "\u2603" not in sent.replace(context, "").replace(query, "")

    in_virtual_time(main)


async def test_the_answers_messages_do_not_depend_on_the_prompt() -> None:
    """Two prompts with one rewrite must be answered from the same words, down to the system message."""
    sent = []
    for prompt in ("I think it is 5, surely?", "What is it? The sky is blue."):
        way = Way(FakeClient([rewritten("c", "What is it?"), {}]))
        await way.go(prompt)
        sent.append(way.client.requests[1])
    assert sent[0] == sent[1]


async def test_keep_original_shows_the_prompt_too() -> None:
    """The paper's variant; a job that asks for it must get it, word for word."""
    way = Way(FakeClient([rewritten("c", "What?"), {}]), answer=AnswerJob(model="m1", keep_original=True))
    await way.go("  {Original} \\text?\n")
    assert "  {Original} \\text?\n" in user_text(way.client.requests[1])
    assert user_text(way.client.requests[1]).endswith("c\n\nWhat?")


async def test_the_rewrite_is_saved_before_its_answer_is_asked_for() -> None:
    """A kill between the stages must not pay for the rewrite twice."""
    way = Way(FakeClient([{}, {}]))
    await way.go()
    ((requests_before, line),) = way.saved
    assert requests_before == 1
    assert line.startswith(LINE_PREFIX)
    assert json.loads(line)["status"] == "rewritten"
    assert json.loads(line)["answer"] is None


async def test_a_saved_rewrite_is_not_asked_for_again() -> None:
    """What is paid is paid; the outcome is the same as without the interruption, audit included."""
    whole = await Way(FakeClient([{"usage": usage(8, 9)}, {}])).go()
    before = Way(FakeClient([{"usage": usage(8, 9)}]), only_rewrite=True)
    assert await before.pipeline.process(a_record("[[r-1]] so?"), None) is None
    way = Way(FakeClient([{}]))
    found = await way.go(finished=FinishedRewrite.from_line(before.saved[0][1], KEY, "of rewrites"))
    assert len(way.client.requests) == 1
    assert not is_rewrite(way.client.requests[0])
    assert way.saved == []
    assert (found.rewrite, found.answer, found.checks) == (whole.rewrite, whole.answer, whole.checks)
    assert found.stages.rewrite is not None
    assert found.stages.rewrite.usage == Usage(input_tokens=8, output_tokens=9)


async def test_only_rewrite_saves_and_asks_nothing_more() -> None:
    """A rewrite can be looked at before a cent is spent on answers."""
    way = Way(FakeClient([{}]), only_rewrite=True)
    assert await way.pipeline.process(a_record(), None) is None
    assert len(way.saved) == 1


LOST: list[tuple[list[Scripted], str, str]] = [
    ([UnusableReply("truncated", "cut", reply="half")], "rewrite", "truncated"),
    ([UnusableReply("refusal", "no")], "rewrite", "refusal"),
    ([RequestRefused("too_long", "HTTP 400")], "rewrite", "too_long"),
    ([{"content": "x"}, {"content": "x"}], "rewrite", "invalid_reply"),
    ([rewritten("c", " "), rewritten("c", "")], "rewrite", "empty_rewrite"),
    ([TransientError("empty_answer", "empty")] * 6, "rewrite", "empty_rewrite"),
    ([{}, UnusableReply("truncated", "cut", reply="half")], "answer", "truncated"),
    ([{}, RequestRefused("content_filter", "HTTP 400")], "answer", "content_filter"),
    ([{}, *[TransientError("empty_answer", "empty")] * 6], "answer", "empty_answer"),
]


@pytest.mark.parametrize(("script", "stage", "kind"), LOST)
async def test_a_lost_record_names_stage_and_reason(script: Sequence[Scripted], stage: str, kind: str) -> None:
    """The dead letter says where and why, with each attempt; nothing half is ever used for the answer."""
    way = Way(FakeClient(script))
    found = await way.go()
    assert found.status == "failed"
    assert found.error is not None
    assert (found.error.stage, found.error.kind, found.error.line) == (stage, kind, 1)
    assert len(way.client.requests) == len(script)
    assert (found.rewrite is None) == (stage == "rewrite")
    audits = found.stages.rewrite, found.stages.answer
    assert sum(len(audit.attempts) for audit in audits if audit is not None) == len(script)


@pytest.mark.parametrize("after", [0, 1])
async def test_a_bug_is_one_dead_letter(after: int) -> None:
    """A fault of ours in one record must not end a night's run; it names its place, not the prompt."""
    bug = ZeroDivisionError("PROMPTTEXT")
    way = Way(FakeClient([*[{}] * after, bug]))  # type: ignore[list-item]
    found = await way.go("PROMPTTEXT?")
    assert found.error is not None
    assert found.error.kind == "bug"
    assert found.error.stage == ("answer" if after else "rewrite")
    assert "ZeroDivisionError" in found.error.message
    assert "PROMPTTEXT" not in found.error.message
    assert len(result_line(a_record(), found)) > 0


STOPS: list[Exception] = [Drained(), AccountError("key"), EndpointError("model")]


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("error", STOPS, ids=lambda error: type(error).__name__)
async def test_what_stops_the_run_leaves_the_record_pending(error: Exception, after: int) -> None:
    """As a dead letter the record would not be taken up when the run goes on; its rewrite is kept."""
    script: list[Scripted] = [{}, error] if after else [error]
    way = Way(FakeClient(script))
    with pytest.raises(type(error)) as caught:
        await way.go()
    assert caught.value is error
    assert len(way.saved) == after


async def test_a_full_disk_stops_the_run_and_asks_for_no_answer() -> None:
    """An answer that cannot be kept is money thrown away."""
    way = Way(FakeClient([{}, {}]), save_error=OutputError("disk full"))
    with pytest.raises(OutputError):
        await way.go()
    assert len(way.client.requests) == 1


async def test_a_drain_between_the_stages_keeps_the_rewrite() -> None:
    """The signal came while the rewrite was open: it is saved, and no answer is begun."""
    drain = anyio.Event()

    def script(_: Request) -> Scripted:
        drain.set()
        return {}

    way = Way(FakeClient(script), drain=drain)
    with pytest.raises(Drained):
        await way.go()
    assert len(way.saved) == 1
    assert len(way.client.requests) == 1


async def test_a_cancelled_record_passes_on_the_cancellation() -> None:
    """A second signal ends the run at once; taken for a bug it would write a dead letter."""
    way = Way(FakeClient([{}, {"delay_s": 100}]))
    with anyio.move_on_after(5) as scope:
        await way.go()
    assert scope.cancelled_caught
    assert (len(way.saved), way.client.open) == (1, 0)


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_of_a_model_makes_a_strict_line(text: str) -> None:
    """NUL, line separators, quotes: one odd character must not break the file, or the resume from it."""

    async def main() -> None:
        way = Way(FakeClient([rewritten(text, "q?"), {"content": f"a{text}"}]))
        found = await way.go()
        line = result_line(a_record(), found)
        assert line.count(b"\n") == 1
        again = json.loads(line)
        assert again["answer"] == {"answer": f"a{text}"}
        assert again["rewrite"]["relevant_context"] == text
        read_back = FinishedRewrite.from_line(way.saved[0][1], KEY, "of rewrites")
        assert read_back is not None
        assert read_back.rewrite == found.rewrite

    in_virtual_time(main)


async def test_many_records_at_once_keep_their_replies_apart() -> None:
    """An answer under another record's id is the worst fault of all: nobody notices."""
    delays = iter([(n * 7919 % 97) / 10 for n in range(80)])
    way = Way(FakeClient(lambda _: {"delay_s": next(delays)}))
    outcomes: dict[int, Outcome] = {}
    ended: list[int] = []

    async def one(n: int) -> None:
        found = await way.pipeline.process(a_record(f"[[r-{n}]] so?", line=n), None)
        assert found is not None
        outcomes[n] = found
        ended.append(n)

    async with anyio.create_task_group() as tasks:
        for n in range(40):
            tasks.start_soon(one, n)
    assert {n: found.answer for n, found in outcomes.items()} == {n: {"answer": f"ANSWER [[r-{n}]]"} for n in range(40)}
    assert ended != sorted(ended)
    assert way.client.max_open == 16
    assert [tally.requests for tally in way.tallies] == [40, 40]


async def test_rate_limits_are_not_the_records_fault() -> None:
    """However often the server asks to wait, the record keeps all its attempts: a busy night must not lose it."""
    busy = RateLimitedError("HTTP 429", retry_after_s=1)
    script: list[Scripted] = [*[busy] * 8, *[TransientError("timeout", "slow")] * 5, {}, *[busy] * 8, {}]
    way = Way(FakeClient(script))
    assert (await way.go()).status == "answered"


@pytest.mark.parametrize(
    ("stage", "one", "other"),
    [
        (
            0,
            {"rewrite": RewriteJob(model="m1", preset="relevance")},
            {"rewrite": RewriteJob(model="m1", preset="question")},
        ),
        (0, {"rewrite": RewriteJob(model="m1")}, {"rewrite": RewriteJob(model="m1", instructions="split it")}),
        (0, {"rewrite": RewriteJob(model="m1")}, {"rewrite": RewriteJob(model="m1", examples=True)}),
        (1, {"answer": AnswerJob(model="m1")}, {"answer": AnswerJob(model="m1", instructed=False)}),
        (1, {"answer": AnswerJob(model="m1")}, {"answer": AnswerJob(model="m1", instructions="be brief")}),
        (1, {"answer": AnswerJob(model="m1")}, {"answer": AnswerJob(model="m1", examples=True)}),
    ],
)
async def test_the_jobs_wording_reaches_its_stage_and_no_other(
    stage: int, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """A switch that changes nothing makes two arms of a comparison equal, and nobody sees why."""
    ways = Way(FakeClient([{}, {}]), **one), Way(FakeClient([{}, {}]), **other)
    for way in ways:
        await way.go()
    asked = [[request["messages"] for request in way.client.requests] for way in ways]
    assert asked[0][stage] != asked[1][stage]
    assert asked[0][1 - stage] == asked[1][1 - stage]


def test_a_rewrite_of_another_version_is_no_rewrite() -> None:
    """After an update a line may lack a field; it costs a request, not the run."""
    for line in (b"{}", b'{"stages":{"rewrite":null},"rewrite":{"text":"x"},"checks":[]}', b"[1]", b'"x"', b"{"):
        assert FinishedRewrite.from_line(line, KEY, "of rewrites") is None


async def test_a_rewrite_of_other_settings_is_not_used() -> None:
    """After an accepted change of the preset an answer from the old rewrite would carry a false fingerprint."""
    way = Way(FakeClient([{}, {}]))
    await way.go()
    line = way.saved[0][1]
    assert json.loads(line)["fingerprint"] == "of rewrites"
    assert FinishedRewrite.from_line(line, KEY, "of other rewrites") is None


async def test_an_answer_that_is_no_json_is_a_dead_letter() -> None:
    """A class of the user's own may make anything of a reply; the file must stay JSON, and the others go on."""
    fine = Outcome(status="answered", answer={"answer": "yes"}, fingerprint="f", started_at="now", seconds=1)
    way, record = Way(FakeClient([])), a_record()
    assert await way.pipeline.settle(record, fine) == fine
    outcome = await way.pipeline.settle(record, fine.model_copy(update={"answer": {"answer": "\ud83d"}}))
    assert (outcome.status, outcome.error and outcome.error.kind) == ("failed", "bug")
    assert way.written[0] == ("answered", result_line(record, fine))
    assert way.written[1][0] == "failed"
    assert json.loads(way.written[1][1])["answer"] is None


async def test_a_reply_counts_as_open_until_it_is_written() -> None:
    """After kill -9 what came back and was not yet written is paid again: no more than may be open at all."""
    way = Way(FakeClient([{}, {"content": "{}"}, {}]), answer=AnswerJob(model="m1", type="int"))
    await way.go()
    assert way.open_at_writes == [1, 1]
    assert (way.limiter.open, len(way.saved), len(way.written)) == (0, 1, 1)


@pytest.mark.parametrize("error", [OutputError("disk full"), RequestRefused("bad_request", "no")])
async def test_a_slot_is_given_back_whatever_ends_the_record(error: Exception) -> None:
    """A slot that is lost makes the run slower for the rest of the night, and in the end stands still."""
    stops = isinstance(error, OutputError)
    way = Way(FakeClient([{}, {} if stops else error]), save_error=error if stops else None)
    with pytest.raises(OutputError) if stops else contextlib.nullcontext():
        await way.go()
    assert way.limiter.open == 0


async def test_an_audit_that_is_no_json_is_a_dead_letter_too() -> None:
    """Whatever slips through must cost one record: the same line would end the run, and each resume, in one place."""
    way = Way(FakeClient([{}, RequestRefused("bad_request", "half \ud83d of a character")]))
    record = a_record()
    found = await way.pipeline.process(record, None)
    assert found is not None
    assert (found.status, found.error and found.error.kind) == ("failed", "bug")
    status, line = way.written[-1]
    assert (status, json.loads(line)["input"]) == ("failed", json.loads(record.input_json))
