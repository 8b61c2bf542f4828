"""Replies of one shape: what goes on the wire, what is read as a reply, and what a re-ask costs."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, get_args

import anyio
import pytest
from pydantic import BaseModel, field_validator

from s2a_batch.answers import IntAnswer, RewriteReply
from s2a_batch.asker import Asker
from s2a_batch.client import Endpoint
from s2a_batch.errors import (
    AccountError,
    Drained,
    EndpointError,
    RateLimitedError,
    RecordError,
    S2AError,
    TransientError,
    UnusableReply,
)
from s2a_batch.stagejob import Mode
from tests.fakes import FakeClient, Scripted

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2a_batch.client import Request
    from s2a_batch.completion import Reply
    from tests import server
    from tests.server import Plan, Upstream

pytestmark = pytest.mark.anyio
MODES: tuple[Mode, ...] = get_args(Mode)
SCHEMA_MODES: tuple[Mode, ...] = ("json_schema", "tools")
FIELDS = {"relevant_context": "Ann has 3 cats.", "user_query": "How many?"}
JSON = json.dumps(FIELDS)
MESSAGES = [{"role": "system", "content": "split it"}, {"role": "user", "content": "[[r-1]] how many?"}]


def asker(mode: Mode, model: type[BaseModel] | None = RewriteReply, *, strict: bool = True) -> Asker:
    return Asker(model, mode=mode, strict=strict, max_chars=None)


class Asked:
    """One ask of a scripted client, with what came of it."""

    def __init__(self, script: list[Scripted]) -> None:
        self.client = FakeClient(script)
        self.invalid: list[str] = []

    async def ask(self, mode: Mode, *, reasks: int = 1, model: type[BaseModel] | None = RewriteReply) -> object:
        """What came back, a model as its fields."""
        found = asker(mode, model)
        return plain(
            await found.ask(
                self.client.send, MESSAGES, reasks=reasks, on_invalid=lambda _, reason: self.invalid.append(reason)
            )
        )


def plain(found: BaseModel | str) -> object:
    return found if isinstance(found, str) else found.model_dump()


def good(mode: Mode) -> server.Reply:
    """A good reply in the form that the mode asks for."""
    return {"json": FIELDS} if mode == "tools" else {"content": JSON}


def schema_of(request: Request) -> Any:  # noqa: ANN401  JSON
    body: Any = request
    return body["response_format"]["json_schema"] if "response_format" in body else body["tools"][0]["function"]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("mode", SCHEMA_MODES)
async def test_the_schema_is_on_the_wire(mode: Mode, strict: bool) -> None:
    """The library below never asks for a strict schema: invalid replies would be paid for all night."""
    client = FakeClient([good(mode)])
    await asker(mode, strict=strict).ask(client.send, MESSAGES, reasks=0, on_invalid=print)
    sent = schema_of(client.requests[0])
    schema = sent.get("schema") or sent["parameters"]
    assert sent["strict"] is strict
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == ["relevant_context", "user_query"]


@pytest.mark.parametrize("mode", SCHEMA_MODES)
async def test_max_chars_bounds_each_text_field(mode: Mode) -> None:
    """A tiny model that falls into a loop fills a field until the token limit; the bound lets its server stop it."""

    class Shape(BaseModel):
        free: str
        inner: list[str]
        maxLength: str  # noqa: N815  a field may have the bound's name
        number: int

    client = FakeClient([{"json": {"free": "", "inner": [], "maxLength": "", "number": 1}}])
    found = Asker(Shape, mode=mode, strict=True, max_chars=99)
    await found.ask(client.send, MESSAGES, reasks=0, on_invalid=print)
    sent = schema_of(client.requests[0])
    fields = (sent.get("schema") or sent["parameters"])["properties"]
    assert [fields[name].get("maxLength") for name in ("free", "maxLength", "number")] == [99, 99, None]
    assert fields["inner"]["items"]["maxLength"] == 99


@pytest.mark.parametrize("mode", MODES)
async def test_each_mode_reads_a_reply_over_a_real_connection(upstream: Callable[[Plan], Upstream], mode: Mode) -> None:
    """Servers differ in what they support; each way of asking must come back as the same object."""
    up = upstream({"rules": [{"replies": [good(mode)]}], "keep_bodies": True})
    async with Endpoint(base_url=up.base_url, api_key="k", headers={}, deadline_s=5, connections=1) as client:

        async def send(request: Request) -> Reply:
            return await client.send({"model": "m1", **request})

        assert plain(await asker(mode).ask(send, MESSAGES, reasks=0, on_invalid=print)) == FIELDS
    assert up.stats().requests == 1


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("mode", SCHEMA_MODES)
async def test_what_is_sent_first_is_what_instructor_sends(mode: Mode, strict: bool) -> None:
    """The short way around the library must not change what a server is asked."""
    by_us, by_instructor = FakeClient([good(mode)]), FakeClient([good(mode)])
    found = asker(mode, strict=strict)
    await found.ask(by_us.send, MESSAGES, reasks=0, on_invalid=print)
    await found._instructed(by_instructor.send, MESSAGES, None, reasks=0, on_invalid=print)  # noqa: SLF001
    assert by_us.requests == by_instructor.requests


HOSTILE = [
    "{{ user.name }} {% raw %} {# note #} {0} {} ${HOME} %s %(x)s %%",
    "</s><|im_end|><|im_start|>system [INST] <<SYS>>",
    "  leading, trailing \t\r\n",
    'quote " \\ \\n \\u0041 \x00 \x1b[31m \u2028 \U0001f36c e\u0301',
    "```json\n{}\n``` <think>so</think>",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("mode", MODES)
async def test_the_users_text_arrives_byte_for_byte(
    upstream: Callable[[Plan], Upstream], mode: Mode, text: str
) -> None:
    """The text is data: a template engine on the way deletes braces, or runs what is in them."""
    up = upstream({"rules": [{"replies": [good(mode)]}], "keep_bodies": True})
    async with Endpoint(base_url=up.base_url, api_key="k", headers={}, deadline_s=5, connections=1) as client:

        async def send(request: Request) -> Reply:
            return await client.send({"model": "m1", **request})

        messages = [MESSAGES[0], {"role": "user", "content": text}]
        await asker(mode).ask(send, messages, reasks=0, on_invalid=print)
    content = up.requests()[0]["body"]["messages"][-1]["content"]
    if mode == "md_json":  # the library asks for a code block below the text
        assert content.startswith(text)
    else:
        assert content == text


DRESSED = [
    JSON,
    f"```json\n{JSON}\n```",
    f"```\n{JSON}```",
    f"Here it is:\n```json\n{JSON}\n```\nAnything else?",
    f"<think>They ask {{how many}}. ```json\n{{}}\n``` no.</think>\n{JSON}",
    f"\n<think>\n</think>\n\n```json\n{JSON}\n```",
    json.dumps({**FIELDS, "user_query": "first"})[:-1] + ', "user_query": "How many?"}',
]


@pytest.mark.parametrize("text", DRESSED)
@pytest.mark.parametrize("mode", ["json_schema", "json", "md_json"])
async def test_json_is_found_in_what_models_wrap_around_it(mode: Mode, text: str) -> None:
    """Fences and thinking are the rule with open models; a re-ask for each doubles the bill."""
    asked = Asked([{"content": text}])
    assert await asked.ask(mode, reasks=0) == FIELDS
    assert asked.invalid == []


@pytest.mark.parametrize("escape", ["\\ud83d", "\\uDE00", "\ud83d"])
@pytest.mark.parametrize("mode", MODES)
async def test_half_a_character_in_json_becomes_the_replacement_character(mode: Mode, escape: str) -> None:
    """As an escape it passes for good JSON, and then cannot be written to disk."""
    text = f'{{"relevant_context": "a {escape} b", "user_query": "How many? \\ud83c\\udf6c"}}'
    asked = Asked([{"json": text} if mode == "tools" else {"content": text}])
    found = await asked.ask(mode, reasks=0)
    assert found == {"relevant_context": "a \ufffd b", "user_query": "How many? \U0001f36c"}


BAD: list[server.Reply] = [
    {"json": "no json at all"},
    {"json": {"relevant_context": "only half"}},
    {"json": {**FIELDS, "user_query": " "}},
    {"json": {**FIELDS, "note": "one more"}},
    {"json": {**FIELDS, "relevant_context": 5}},
    {"json": [FIELDS]},
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("mode", MODES)
async def test_a_reply_that_does_not_fit_is_asked_again_with_the_reason(mode: Mode, bad: server.Reply) -> None:
    """Told what was wrong, most models mend it; the first messages must stay as they were."""
    asked = Asked([bad, good(mode)])
    assert await asked.ask(mode) == FIELDS
    first, second = (request["messages"] for request in asked.client.requests)
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert second[: len(first)] == first
    assert len(second) > len(first)
    assert len(asked.invalid) == 1
    assert 0 < len(asked.invalid[0]) <= 300


@pytest.mark.parametrize("text", ["[" * 30_000, '{"a":' * 30_000, '{"a": "\\ud83d", "b": ' + "[" * 30_000])
@pytest.mark.parametrize("mode", MODES)
async def test_json_nested_without_end_is_the_models_fault(mode: Mode, text: str) -> None:
    """A tiny model in a loop writes such; what breaks a parser must not be taken for a bug of ours."""
    asked = Asked([{"json": text}] * 2)
    with pytest.raises(RecordError) as caught:
        await asked.ask(mode)
    assert caught.value.kind == "invalid_reply"
    assert len(asked.invalid) == len(asked.client.requests)


@pytest.mark.parametrize("loop", ["x```json\n{", "}\n``` ", "<think>", "```", "{}"])
async def test_a_reply_of_one_loop_is_judged_at_once(loop: str) -> None:
    """A tiny model repeats itself up to the token limit; a search that is quadratic in it stalls all other records."""
    asked = Asked([{"content": loop * (300_000 // len(loop))}])
    began = time.perf_counter()
    with pytest.raises(RecordError):
        await asked.ask("json_schema", reasks=0)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("reasks", [0, 1, 3])
@pytest.mark.parametrize("mode", MODES)
async def test_re_asks_end_at_their_bound(mode: Mode, reasks: int) -> None:
    """A model that never fits must cost exactly the attempts that the job allows, and say why in a short line."""
    bad: server.Reply = {"json": "x" * 20_000}
    asked = Asked([bad] * (reasks + 5))
    with pytest.raises(RecordError) as caught:
        await asked.ask(mode, reasks=reasks)
    assert len(asked.client.requests) == len(asked.invalid) == reasks + 1
    assert caught.value.kind == "invalid_reply"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("mode", MODES)
async def test_an_empty_question_fails_as_an_empty_rewrite(mode: Mode) -> None:
    """The answer stage would be asked nothing at all, and would answer something."""
    empty = {**FIELDS, "user_query": "\n"}
    asked = Asked([{"json": empty} if mode == "tools" else {"content": json.dumps(empty)}] * 2)
    with pytest.raises(RecordError) as caught:
        await asked.ask(mode)
    assert caught.value.kind == "empty_rewrite"


async def test_a_model_that_calls_no_tool_is_told_so() -> None:
    """In tools mode plain text has no arguments to read; the reason must not be a class name."""
    asked = Asked([{"content": JSON}, {"json": FIELDS}])
    assert await asked.ask("tools") == FIELDS
    assert "tool call" in asked.invalid[0]


OURS: list[Exception] = [
    TransientError("connection", "gone"),
    RateLimitedError("slow down", retry_after_s=1),
    UnusableReply("refusal", "no"),
    AccountError("key"),
    EndpointError("model"),
    Drained(),
    RecordError("bug", "lost"),
]


@pytest.mark.parametrize("after_invalid", [False, True])
@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("mode", MODES)
async def test_our_errors_pass_as_they_are(mode: Mode, error: S2AError, after_invalid: bool) -> None:
    """Wrapped, a wrong key would look like a bug of one record; hidden, it would be asked again."""
    bad: server.Reply = {"json": "no json"}
    asked = Asked([bad, error] if after_invalid else [error])
    with pytest.raises(type(error)) as caught:
        await asked.ask(mode, reasks=3)
    assert caught.value is error
    assert len(asked.client.requests) == 1 + after_invalid


@pytest.mark.parametrize("after_invalid", [False, True])
async def test_a_bug_below_is_not_taken_for_the_models_mistake(after_invalid: bool) -> None:
    """Reported as an invalid reply, a fault of ours would never be found."""
    asked = Asked([{"json": "no json"}, ZeroDivisionError("ours")] if after_invalid else [ZeroDivisionError("ours")])
    with pytest.raises(ZeroDivisionError):
        await asked.ask("json_schema")


@pytest.mark.virtual_time
async def test_cancellation_passes_and_sends_nothing_more() -> None:
    """A second signal must end the run at once, not start a re-ask."""
    asked = Asked([{"json": "no json"}, {"delay_s": 100}, {}])
    with anyio.move_on_after(10) as scope:
        await asked.ask("json_schema", reasks=5)
    assert scope.cancelled_caught
    assert anyio.current_time() == pytest.approx(10)
    assert len(asked.client.requests) == 2
    assert asked.client.open == 0


@pytest.mark.virtual_time
async def test_two_asks_at_once_share_no_state() -> None:
    """A retry object shared between tasks loses tries and swaps outcomes."""
    found = asker("json_schema")
    outcomes: dict[str, object] = {}
    scripts: dict[str, list[Scripted]] = {
        "a": [{"json": "x"}, {"json": "x"}, good("json")],
        "b": [good("json")],
        "c": [{"json": "x"}] * 3,
    }

    async def one(name: str, client: FakeClient) -> None:
        try:
            outcomes[name] = plain(await found.ask(client.send, MESSAGES, reasks=2, on_invalid=lambda *_: None))
        except RecordError as error:
            outcomes[name] = error.kind

    clients = {name: FakeClient(script, seconds=1) for name, script in scripts.items()}
    async with anyio.create_task_group() as tasks:
        for name, client in clients.items():
            tasks.start_soon(one, name, client)
    assert outcomes == {"a": FIELDS, "b": FIELDS, "c": "invalid_reply"}
    assert [len(client.requests) for client in clients.values()] == [3, 1, 3]


async def test_plain_text_is_asked_for_without_a_schema() -> None:
    """Free text needs no schema, and is taken as it is."""
    asked = Asked([{"content": "  42, of course\n"}])
    assert await asked.ask("json_schema", model=None) == "  42, of course\n"
    assert asked.client.requests == [{"messages": MESSAGES}]


@pytest.mark.parametrize("text", ['{"answer": "25"}', '{"answer": 25}', '{"answer": 25.0}'])
async def test_a_number_is_a_number_however_it_is_spelled(text: str) -> None:
    """Small models write numbers as text; strict reading would pay a re-ask for each."""
    asked = Asked([{"content": text}])
    assert await asked.ask("json_schema", model=IntAnswer, reasks=0) == {"answer": 25}


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>\nThree and two.\n</think>\n\n  Five.", "Five."),
        ("  Five, <think>no</think> six.", "  Five, <think>no</think> six."),
    ],
)
async def test_thinking_in_front_of_a_plain_answer_is_no_part_of_it(reply: str, answer: str) -> None:
    """An answer file full of monologues is of no use; what does not stand in front is the answer's own text."""
    assert await Asked([{"content": reply}]).ask("json_schema", model=None) == answer


async def test_thinking_alone_is_no_answer() -> None:
    """The model used up its tokens on thinking: the remedy is more tokens, not a blank answer."""
    with pytest.raises(UnusableReply, match="raise max_tokens") as caught:
        await Asked([{"content": "<think>Three and two.</think> "}]).ask("json_schema", model=None)
    assert (caught.value.kind, caught.value.reply) == ("only_reasoning", "<think>Three and two.</think> ")


class Raises(BaseModel):
    """An answer's class with a fault of its author's."""

    answer: str

    @field_validator("answer")
    @classmethod
    def look_up(cls, value: str) -> str:
        """Know no answer, or the wrong thing of it."""
        if value == "zero":
            return str(1 / len(value[4:]))
        known: dict[str, str] = {}
        return known[value] if value == "key" else str(getattr(value, value))


@pytest.mark.parametrize(
    ("value", "raised"), [("zero", "ZeroDivisionError"), ("key", "KeyError"), ("nothing", "AttributeError")]
)
async def test_what_the_answers_class_raises_is_named_with_its_place(value: str, raised: str) -> None:
    """The fault is in the user's own file: a request to report it to us would cost both of us a day."""
    asked = Asked([{"content": json.dumps({"answer": value})}] * 2)
    with pytest.raises(RecordError, match=rf"{raised} in look_up \(line \d+ of test_asker\.py\)") as caught:
        await asked.ask("json_schema", model=Raises)
    assert caught.value.kind == "invalid_reply"
    assert "raised by the answer's class" in asked.invalid[0]
    assert "report" not in str(caught.value)
