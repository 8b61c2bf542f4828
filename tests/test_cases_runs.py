"""Trouble that servers make, from the command line to the files of the run: who fails, who waits, what it costs."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.processes import read_lines, run, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.processes import Done, JsonObject
    from tests.server import Plan, Reply, Rule, Upstream

Trouble: TypeAlias = "tuple[Reply, str, int]"
"""A reply to the rewrite's request, the reason code that it makes, and the requests that it costs."""

GOOD = 40
FIRST = 10  # a record before which, and after which, there are good ones
SECRET = "sk-very-secret-key"  # noqa: S105  a stand-in
TEXT = "Is [[r-{n}]] so? My diary says no, and zebras agree."
TOO_LARGE = "Request too large on tokens per min (TPM): Limit 30000, Requested 45000."


def told(message: str, code: object = None) -> JsonObject:
    return {"message": message, "type": "error", "param": None, "code": code}


ONCE: list[Trouble] = [
    ({"message": {"content": None, "refusal": "I would rather not."}}, "refusal", 1),
    ({"content": "", "finish_reason": "content_filter"}, "content_filter", 1),
    ({"content": '{"relevant_context": "half', "finish_reason": "length"}, "truncated", 1),
    ({"message": {"content": None, "reasoning_content": "Hm, zebras."}}, "only_reasoning", 1),
    ({"content": "The zebras are right."}, "invalid_reply", 2),
    ({"json": {"relevant_context": 5, "user_query": []}}, "invalid_reply", 2),
    ({"json": {"relevant_context": " ", "user_query": " "}}, "empty_rewrite", 2),
    ({"status": 400, "error": told("no", "context_length_exceeded")}, "too_long", 1),
    ({"status": 413, "body": "<html><h1>Too large</h1></html>", "content_type": "text/html"}, "too_long", 1),
    ({"status": 429, "error": told(TOO_LARGE, "rate_limit_exceeded")}, "too_long", 1),
    ({"status": 400, "error": told("no", "content_filter")}, "content_filter", 1),
    ({"status": 403, "error": told("Your input was flagged")}, "content_filter", 1),
    ({"status": 422, "body": '{"detail": [{"loc": ["body"], "msg": "odd", "input": "zebras"}]}'}, "bad_request", 1),
    ({"status": 451, "error": told("not here")}, "bad_request", 1),
]
"""Nothing of it would pass by itself."""

AGAIN: list[Trouble] = [
    ({"error": told("upstream died", 502)}, "server_error", 3),
    ({"choices": []}, "not_an_answer", 3),
    ({"body": '{"choices": [{"mess'}, "not_an_answer", 3),
    ({"content": None}, "empty_rewrite", 3),
    ({"status": 403, "body": "<h1>Blocked</h1>", "content_type": "text/html"}, "server_error", 3),
    ({"status": 409, "error": told("busy")}, "server_error", 3),
    ({"reset": True}, "connection", 3),
]
"""Might pass, so it is tried as often as the job says. Fewer than an outage needs to be taken for one."""


def start(folder: Path, up: Upstream, *more: str) -> Done:
    words = ["run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", up.base_url, "--set", "retry.backoff_s=0.01"]
    return run(folder, *words, *more, environ={"OPENAI_API_KEY": SECRET})


def results(folder: Path) -> tuple[list[JsonObject], list[JsonObject]]:
    """The answered and the failed; each key once, each answer its record's own, and no file holds the key."""
    good = read_lines(folder / "out" / "results.jsonl")
    bad = read_lines(folder / "out" / "dead_letters.jsonl")
    assert len({row["key"] for row in good + bad}) == len(good + bad)
    for row in good:
        assert row["answer"] == {"answer": f"ANSWER [[r-{row['id']}]]"}
    assert not any(SECRET.encode() in path.read_bytes() for path in (folder / "out").iterdir())
    return good, bad


@pytest.mark.parametrize("open_requests", ["4", "64"])
@pytest.mark.parametrize("troubles", [ONCE, AGAIN], ids=["once", "again"])
def test_a_strange_reply_fails_its_record_alone_for_a_known_price(
    tmp_path: Path, upstream: Callable[[Plan], Upstream], troubles: list[Trouble], open_requests: str
) -> None:
    """Whatever comes for one record: its neighbours are answered, the reason is named, the price is bounded."""
    rules: list[Rule] = [
        {"when": {"contains": f"[[r-{n}]]", "stage": "rewrite"}, "replies": [reply]}
        for n, (reply, _, _) in enumerate(troubles, FIRST)
    ]
    write_input(tmp_path / "in.jsonl", range(GOOD + len(troubles)), TEXT)
    up = upstream({"rules": rules, "latency_s": 0.01})
    done = start(tmp_path, up, "--set", "retry.attempts=3", "--open-requests", open_requests)
    assert done.status == 1, done.err
    good, bad = results(tmp_path)
    assert len(good) == GOOD
    found = {row["id"]: (row["error"]["kind"], len(row["stages"]["rewrite"]["attempts"])) for row in bad}
    assert found == {n: (kind, price) for n, (_, kind, price) in enumerate(troubles, FIRST)}
    sent = Counter(row["markers"][0] for row in up.requests() if row["stage"] == "rewrite")
    assert [sent[f"[[r-{n}]]"] for n in range(FIRST, FIRST + len(troubles))] == [price for _, _, price in troubles]
    for row in bad:
        assert "zebras" not in json.dumps(row["error"])
        assert len(row["error"]["message"]) < 400
    assert "zebras" not in done.err


STOPS: list[tuple[Reply, str]] = [
    ({"status": 400, "error": told("Model Not Exist")}, "check the model's name"),
    ({"status": 405, "body": "<h1>Not Allowed</h1>", "content_type": "text/html"}, "check the base URL"),
    ({"status": 407, "body": "<h1>Who are you</h1>", "content_type": "text/html"}, "proxy"),
    ({"status": 429, "body": '{"error": "You used all available credits"}'}, "check the billing"),
    ({"status": 402, "body": "<h1>Payment Required</h1>", "content_type": "text/html"}, "check the key"),
    ({"error": told("Insufficient credits", 402)}, "check the key"),
]


@pytest.mark.parametrize("from_request", [1, 30])
@pytest.mark.parametrize(("reply", "remedy"), STOPS)
def test_what_is_no_records_fault_stops_the_run_at_once_and_fails_none(
    tmp_path: Path, upstream: Callable[[Plan], Upstream], reply: Reply, remedy: str, from_request: int
) -> None:
    """From the first request or in the middle: few requests more, nobody written off, and the night goes on after."""
    write_input(tmp_path / "in.jsonl", range(GOOD), TEXT)
    rule: Rule = {"when": {"from_request": from_request}, "replies": [reply]}
    up = upstream({"rules": [rule], "latency_s": 0.01})
    done = start(tmp_path, up, "--open-requests", "16")
    assert done.status == 3, done.err
    assert remedy in done.err
    assert SECRET not in done.err
    assert up.stats().requests < from_request + 16
    answered, failed = results(tmp_path)
    assert not failed
    assert start(tmp_path, upstream({})).status == 0
    good, failed = results(tmp_path)
    assert [len(good), len(failed)] == [GOOD, 0]
    assert good[: len(answered)] == answered


def test_a_record_that_no_minute_can_hold_pauses_nobody(tmp_path: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Taken for a rate limit it would come back for ever, and hold everyone back each time."""
    write_input(tmp_path / "in.jsonl", range(GOOD), TEXT)
    reply: Reply = {"status": 429, "error": told(TOO_LARGE, "rate_limit_exceeded"), "headers": {"retry-after": "60"}}
    up = upstream({"rules": [{"when": {"contains": "[[r-7]]"}, "replies": [reply]}]})
    done = start(tmp_path, up)
    good, bad = results(tmp_path)
    assert (done.status, len(good), [row["id"] for row in bad]) == (1, GOOD - 1, [7])
    assert [attempt["retry_after_s"] for row in good for attempt in row["stages"]["rewrite"]["attempts"]] == [None] * (
        GOOD - 1
    )
    assert up.stats().requests == 2 * (GOOD - 1) + 1
