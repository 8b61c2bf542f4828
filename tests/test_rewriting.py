"""Forms of the rewrite, what follows a failed check, and the arms: what is asked, and what the result says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from s2a_batch.answers import REWRITE_REPLIES
from s2a_batch.draft import FinishedRewrite
from s2a_batch.errors import BudgetError, Drained, RequestRefused, UnusableReply
from s2a_batch.forms import Asked
from s2a_batch.pipeline import Pipeline
from s2a_batch.rewriting import is_plain_question
from s2a_batch.stagejob import AnswerJob, RewriteJob
from tests.fakes import FakeClient, a_job, a_limiter, a_record, a_stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2a_batch.job import Job
    from s2a_batch.records import Outcome, Status
    from tests.fakes import Scripted
    from tests.server import Reply

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

PROMPT = "Tom has 3 apples. Rita has 40 stamps. How many apples does Tom have?"
GOOD: Reply = {"json": {"relevant_context": "Tom has 3 apples.", "user_query": "How many apples does Tom have?"}}
WRONG: Reply = {"json": {"relevant_context": "Tom has 7 apples.", "user_query": "How many apples does Tom have?"}}
ANSWER: Reply = {"content": "3"}


class Way:
    """A pipeline of a job around one fake client."""

    def __init__(self, script: Sequence[Scripted], **table: object) -> None:
        self.client = FakeClient(script)
        self.job: Job = a_job(**table)
        self.lines: list[tuple[Status, dict[str, Any]]] = []
        limiter = a_limiter()
        answer, rewrite = AnswerJob(**self._of("answer")), RewriteJob(**self._of("rewrite"))
        stage2 = a_stage(self.client, name="answer", job=answer, model=None, limiter=limiter)
        model = REWRITE_REPLIES[rewrite.form]
        stage1 = a_stage(self.client, name="rewrite", job=rewrite, model=model, limiter=limiter)
        self.limiter = limiter
        self.pipeline = Pipeline(
            stage1 if self.job.arm == "s2a" else None,
            stage2,
            job=self.job,
            fingerprint="f",
            rewrite_fingerprint="r",
            write=self.write,
        )

    def _of(self, stage: str) -> dict[str, Any]:
        table: dict[str, Any] = getattr(self.job, stage).model_dump(by_alias=True)
        return table

    async def write(self, status: Status, line: bytes) -> None:
        """Keep the line."""
        self.lines.append((status, json.loads(line)))

    async def go(self, asked: Asked | None = None, finished: FinishedRewrite | None = None) -> Outcome:
        """The outcome of one record."""
        outcome = await self.pipeline.process(replace(a_record(), asked=asked or Asked(PROMPT)), finished)
        assert outcome is not None
        assert self.limiter.open == 0
        return outcome

    def said(self, request: int) -> list[tuple[str, str]]:
        """The messages of a request, as (role, content)."""
        messages: Any = self.client.requests[request]["messages"]
        return [(message["role"], message["content"]) for message in messages]


async def test_a_failed_check_is_recorded_and_the_rewrite_answered_by_default() -> None:
    """A default that asks twice would bill what nobody ordered; the result says what is wrong."""
    way = Way([WRONG, ANSWER])
    found = await way.go()
    assert (found.status, found.policy) == ("answered", "answer_anyway")
    assert [(c.name, c.words) for c in found.checks if c.level == "error"] == [("numbers_invented", ("7",))]


@pytest.mark.parametrize("policy", ["fail", "original", "keep_original"])
async def test_a_failed_check_is_asked_for_once_more_with_the_reason(policy: str) -> None:
    """The model is told what it did wrong, and a rewrite that then passes is as good as any."""
    way = Way([WRONG, GOOD, ANSWER], answer={"on_failed_check": policy})
    found = await way.go()
    assert (found.status, found.policy, found.answer) == ("answered", None, {"answer": "3"})
    assert found.rewrite is not None
    assert found.rewrite.relevant_context == "Tom has 3 apples."
    again = way.said(1)
    assert again[: len(way.said(0))] == way.said(0)
    assert again[-2] == ("assistant", json.dumps(WRONG["json"], separators=(", ", ": ")))
    assert "copy numbers exactly, calculate nothing (7)" in again[-1][1]
    audit = found.stages.rewrite
    assert audit is not None
    assert [a.error and a.error.kind for a in audit.attempts] == ["check_failed", None]
    assert [a.reask for a in audit.attempts] == [False, True]
    assert [status for status, _ in way.lines] == ["rewritten", "rewritten", "answered"], "each one is paid for"


async def test_what_still_fails_is_lost_under_fail() -> None:
    """Some answers must not be given at all; the rewrite is kept for who looks into it."""
    found = await Way([WRONG, WRONG], answer={"on_failed_check": "fail"}).go()
    assert (found.status, found.error and found.error.kind) == ("failed", "check_failed")
    assert found.error is not None
    assert "numbers_invented: numbers that the text does not have" in found.error.message
    assert (found.rewrite is not None, found.policy) == (True, "fail")


async def test_what_still_fails_is_answered_from_the_original() -> None:
    """A wrong rewrite is worse than none."""
    way = Way([WRONG, WRONG, ANSWER], answer={"on_failed_check": "original"})
    found = await way.go()
    assert (found.status, found.policy, way.said(2)) == ("answered", "original", [("user", PROMPT)])


async def test_what_still_fails_is_answered_with_the_original_beside_it() -> None:
    """The paper's KeepOrig, where the rewrite alone cannot be trusted."""
    way = Way([WRONG, WRONG, ANSWER], answer={"on_failed_check": "keep_original"})
    found = await way.go()
    assert (found.status, found.policy) == ("answered", "keep_original")
    assert PROMPT in way.said(2)[-1][1]
    assert "Tom has 7 apples." in way.said(2)[-1][1]


async def test_a_reask_that_fails_leaves_the_first_rewrite() -> None:
    """The first one is paid for, and the policy knows what to do with it."""
    script: list[Scripted] = [WRONG, RequestRefused("bad_request", "no"), ANSWER]
    found = await Way(script, answer={"on_failed_check": "keep_original"}).go()
    assert (found.status, found.policy) == ("answered", "keep_original")
    assert found.stages.rewrite is not None
    assert len(found.stages.rewrite.attempts) == 2


async def test_a_reask_can_be_had_or_left_out_whatever_the_policy() -> None:
    """Who only wants better rewrites need not choose a policy; who pays by the request need not ask twice."""
    asked_again = await Way([WRONG, GOOD, ANSWER], rewrite={"reask_failed": True}).go()
    assert asked_again.policy is None
    once = await Way([WRONG], rewrite={"reask_failed": False}, answer={"on_failed_check": "fail"}).go()
    assert once.status == "failed"


async def test_without_a_rewrite_the_policy_answers_the_original() -> None:
    """A refusal to rewrite is no reason to lose the answer, when the job says so."""
    refusal = UnusableReply("refusal", "the model refuses", reply="I cannot")
    way = Way([refusal, ANSWER], answer={"on_failed_check": "keep_original"})
    found = await way.go()
    assert (found.status, found.policy, way.said(1)) == ("answered", "original", [("user", PROMPT)])
    assert found.stages.rewrite is not None
    assert found.stages.rewrite.attempts[0].error is not None
    lost = await Way([refusal]).go()
    assert (lost.status, lost.error and lost.error.kind) == ("failed", "refusal")


async def test_a_single_rewrite_is_one_text() -> None:
    """The paper's S2A-Single: the answer stage sees the text as it was rewritten."""
    way = Way([{"json": {"rewritten": "Tom has 3 apples. How many?"}}, ANSWER], rewrite={"form": "single"})
    found = await way.go()
    assert found.rewrite is not None
    assert (found.rewrite.relevant_context, found.rewrite.user_query) == ("", "Tom has 3 apples. How many?")
    assert way.said(1)[-1][1] == "Tom has 3 apples. How many?"
    assert "rewritten" in way.said(0)[0][1]


async def test_passages_are_named_and_kept_to_the_letter() -> None:
    """Copying is what costs and what goes wrong; numbers cannot change a word."""
    reply: Reply = {"json": {"keep": [1], "user_query": "How many apples does Tom have?"}}
    way = Way([reply, ANSWER], rewrite={"form": "passages"})
    found = await way.go()
    assert way.said(0)[-1][1] == "[1] Tom has 3 apples.\n[2] Rita has 40 stamps.\n[3] How many apples does Tom have?"
    assert found.rewrite is not None
    assert found.rewrite.relevant_context == "Tom has 3 apples."


async def test_a_plain_question_needs_no_rewrite_when_the_job_says_so() -> None:
    """Nothing can be taken out of it, and half of the cost is the rewrite."""
    way = Way([ANSWER], rewrite={"skip": True})
    found = await way.go(Asked("Which river runs through Cairo?"))
    assert (found.status, found.policy, found.stages.rewrite) == ("answered", "skipped", None)
    assert way.said(0)[-1] == ("user", "Which river runs through Cairo?")
    assert (await Way([GOOD, ANSWER], rewrite={"skip": True}).go()).policy is None


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("Which river runs through Cairo?", True),
        ("Which river runs through Cairo", False),
        ("Cairo is large. Which river runs through it?", False),
        ("I think it is the Nile, but which river runs through Cairo?", False),
        ("It is the Nile that runs through Cairo, isn't it?", False),
        ("Isn't Sydney the capital of Australia?", False),
        ("Don't you agree that vaccines are harmful?", False),
        ("Given that 2+2=5, what is 3+3?", False),
        ("What is 3+3, given that 2+2=5?", False),
        ("What is 3+3 given that 2+2=5?", False),
        ("The answer is (A), correct?", False),
        ("Je pense que c'est Paris, non?", False),
        ("Does the Nile run through Cairo?", False),
        ("how many people live in Cairo?", True),
    ],
)
async def test_only_a_question_without_a_speaker_is_plain(prompt: str, plain: bool) -> None:
    """An opinion is what the method is for."""
    assert is_plain_question(prompt) is plain


async def test_what_goes_past_the_rewrite_reaches_the_answer_as_it_is() -> None:
    """A form that was asked for and rewritten away makes every answer useless."""
    asked = Asked(PROMPT, None, "You are a clerk.", "Answer in one word.", (("user", "Hi"), ("assistant", "Hello")))
    way = Way([GOOD, ANSWER])
    await way.go(asked)
    assert way.said(0)[-1] == ("user", PROMPT)
    assert "clerk" not in str(way.said(0))
    system, *turns, last = way.said(1)
    assert system[1].startswith("You are a clerk.\n\n")
    assert turns == [("user", "Hi"), ("assistant", "Hello")]
    assert last[1] == "Tom has 3 apples.\n\nHow many apples does Tom have?\n\nAnswer in one word."


@pytest.mark.parametrize(
    ("arm", "last"),
    [("baseline", PROMPT), ("instructed", PROMPT + "\n\n"), ("cot", PROMPT + "\n\nThink"), ("oracle", "How many?")],
)
async def test_an_arm_without_rewrite_asks_once(arm: str, last: str) -> None:
    """What System 2 Attention is compared with must be what its name says, in one request."""
    way = Way([ANSWER], arm=arm)
    found = await way.go(Asked(PROMPT, system="You are a clerk.", oracle="How many?"))
    assert (found.status, found.rewrite, found.stages.rewrite) == ("answered", None, None)
    system, (role, text) = way.said(0)
    assert (system, role) == (("system", "You are a clerk."), "user")
    assert text.startswith(last)
    assert (text == last) == (arm in {"baseline", "oracle"})


async def test_an_oracle_needs_a_prompt_without_noise() -> None:
    """The record is told as lost, not answered from the noisy text under a wrong name."""
    found = await Way([], arm="oracle").go()
    assert (found.status, found.error and (found.error.kind, found.error.stage)) == ("failed", ("bad_prompt", "answer"))


async def test_a_sample_is_also_answered_as_it_was_given() -> None:
    """Needed text that a rewrite dropped shows in no check, only in an answer that turns."""
    way = Way([GOOD, ANSWER, {"content": "43"}], answer={"baseline_share": 1.0, "instructions": "Be brief."})
    found = await way.go()
    assert (found.answer, found.baseline) == ({"answer": "3"}, {"answer": "43"})
    assert way.said(2) == [("system", "Be brief."), ("user", PROMPT)], "the job's own wording holds for both"
    assert found.stages.baseline is not None
    assert found.stages.answer is not None
    assert len(found.stages.answer.attempts) == len(found.stages.baseline.attempts) == 1
    none = await Way([GOOD, ANSWER]).go()
    assert (none.baseline, none.stages.baseline) == (None, None)


@pytest.mark.parametrize(
    "fault", [RequestRefused("too_long", "no"), Drained(), BudgetError("the budget is spent"), ZeroDivisionError()]
)
async def test_a_baseline_that_fails_costs_the_answer_nothing(fault: Exception) -> None:
    """It is there to be looked at, and no part of the result, which is paid for."""
    found = await Way([GOOD, ANSWER, fault], answer={"baseline_share": 1.0}).go()
    assert (found.status, found.answer, found.baseline) == ("answered", {"answer": "3"}, None)


async def test_a_record_that_is_given_up_has_no_baseline() -> None:
    """Nothing is asked for a record that gets no answer."""
    way = Way([WRONG, WRONG], answer={"baseline_share": 1.0, "on_failed_check": "fail"})
    found = await way.go()
    assert (found.status, found.error and (found.error.kind, found.error.stage)) == (
        "failed",
        ("check_failed", "rewrite"),
    )


async def test_a_first_rewrite_is_kept_whatever_ends_its_reask() -> None:
    """Both are paid for; a night that is stopped at each re-ask would else pay the first one again and again."""
    way = Way([WRONG, Drained()], answer={"on_failed_check": "keep_original"})
    with pytest.raises(Drained):
        await way.go()
    ((status, line),) = way.lines
    assert status == "rewritten"
    finished = FinishedRewrite.from_line(json.dumps(line).encode(), line["key"], "r")
    assert finished is not None
    later = Way([GOOD, ANSWER], answer={"on_failed_check": "keep_original"})
    found = await later.go(finished=finished)
    assert (found.policy, found.rewrite and found.rewrite.relevant_context) == (None, "Tom has 3 apples.")
    assert found.stages.rewrite is not None
    assert [(a.n, a.reask) for a in found.stages.rewrite.attempts] == [(1, False), (2, True)]
    assert later.said(0)[-2][1] == json.dumps(WRONG["json"])
    again = FinishedRewrite.from_line(json.dumps(later.lines[0][1]).encode(), line["key"], "r")
    assert again is not None
    assert again.is_reasked()


async def test_a_rewrite_that_was_asked_for_twice_is_not_asked_for_a_third_time() -> None:
    """One re-ask a record is what the job pays for, over all executions."""
    way = Way([WRONG, WRONG, ANSWER], answer={"on_failed_check": "keep_original"})
    await way.go()
    finished = FinishedRewrite.from_line(json.dumps(way.lines[1][1]).encode(), way.lines[1][1]["key"], "r")
    found = await Way([ANSWER], answer={"on_failed_check": "keep_original"}).go(finished=finished)
    assert (found.status, found.policy) == ("answered", "keep_original")


async def test_an_answer_is_judged_by_its_words_and_a_number_by_none() -> None:
    """A refusal that came as an answer must not pass for one."""
    refused = await Way([GOOD, {"content": "I'm sorry, but I cannot help with that request."}]).go()
    assert [check.name for check in refused.checks if check.level == "error"] == ["answer_refused"]
    assert refused.policy is None
    sound = await Way([GOOD, {"content": "Tom has 3 apples."}]).go()
    assert not [check for check in sound.checks if check.level == "error"]
