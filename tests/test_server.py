"""The upstream double does what its plan says: a test that leans on a fault must be able to trust that it happened."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.server import Plan, Reply, Rule, Upstream, When, key_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

REWRITE = {"type": "object", "properties": {"relevant_context": {"type": "string"}, "user_query": {"type": "string"}}}
JsonObject = dict[str, Any]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """One process for all tests here; each begins with its own plan and no rows."""
    with Upstream() as up:
        yield up


def begin(up: Upstream, plan: Plan) -> http.client.HTTPConnection:
    up.replan(plan)
    up.reset_stats()
    return connect(up)


def connect(up: Upstream) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(up.base_url.split("/")[2], timeout=5)


def send(connection: http.client.HTTPConnection, prompt: str, **extra: object) -> None:
    body = {"model": "m1", "messages": [{"role": "user", "content": prompt}], **extra}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": "Bearer sk-1"})


def chat(connection: http.client.HTTPConnection, prompt: str, **extra: object) -> tuple[int, JsonObject]:
    send(connection, prompt, **extra)
    response = connection.getresponse()
    return response.status, json.load(response)


def said(completion: JsonObject) -> str:
    message = completion["choices"][0]["message"]
    text: str = message["content"] or message["tool_calls"][0]["function"]["arguments"]
    return text


def as_schema(schema: JsonObject) -> JsonObject:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema}}}


def as_object(schema: JsonObject) -> JsonObject:
    told = {"role": "system", "content": f"Reply with JSON: {json.dumps(schema)}"}
    messages = [told, {"role": "user", "content": "[[a-1]] I think 30."}]
    return {"response_format": {"type": "json_object"}, "messages": messages}


def as_tool(schema: JsonObject) -> JsonObject:
    function = {"name": "shape", "parameters": schema}
    choice = {"type": "function", "function": {"name": "shape"}}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}


@pytest.mark.parametrize("wrap", [as_schema, as_tool, as_object])
def test_good_replies_carry_the_record_through_both_stages(upstream: Upstream, wrap: Any) -> None:  # noqa: ANN401
    """An answer can be traced to its record only if both stages repeat its marker, however the schema is sent."""
    with closing(begin(upstream, {})) as connection:
        rewrite = json.loads(said(chat(connection, "[[a-1]] I think 30.", **wrap(REWRITE))[1]))
        assert rewrite == {
            "relevant_context": "[[a-1]] via-rewrite context",
            "user_query": "[[a-1]] via-rewrite question?",
        }
        assert said(chat(connection, rewrite["user_query"])[1]) == "ANSWER [[a-1]]"
    stats = upstream.stats()
    assert stats.per_record == {"[[a-1]]": {"rewrite": 1, "answer": 1}}
    assert (stats.requests, stats.answered, stats.connections, stats.in_flight) == (2, 2, 1, 0)


def test_good_answers_fit_the_schema(upstream: Upstream) -> None:
    """A reply that broke the caller's schema would turn every typed run into re-asks."""
    part = {"type": "object", "properties": {"why": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
    kinds = {"i": {"type": "integer"}, "f": {"type": "number", "maximum": 1}, "b": {"type": "boolean"}}
    schema = {
        "$defs": {"Part": part},
        "properties": {**kinds, "l": {"type": "array"}, "e": {"enum": ["A", "B"]}, "p": {"$ref": "#/$defs/Part"}},
    }
    with closing(begin(upstream, {})) as connection:
        answer = json.loads(said(chat(connection, "[[a-1]]", **as_schema(schema))[1]))
    assert answer == {"i": 1, "f": 1, "b": True, "l": [], "e": "A", "p": {"why": "ANSWER [[a-1]]"}}


def test_a_script_gives_exact_payloads_in_both_stages(upstream: Upstream) -> None:
    """The scripted rewrite drops the script's own cue, so its text has to be a cue for the answer."""
    rewrite = {"relevant_context": "Mary is 5 times as old as Sam.", "user_query": "How old is Mary?"}
    plan: Plan = {"script": {"Max": {"rewrite": rewrite, "answer": {"answer": 25}}}}
    with closing(begin(upstream, plan)) as connection:
        assert json.loads(said(chat(connection, "Max says 30. How old is Mary?", **as_schema(REWRITE))[1])) == rewrite
        assert json.loads(said(chat(connection, rewrite["user_query"])[1])) == {"answer": 25}
        assert said(chat(connection, "Something else")[1]) == "ANSWER"


def test_replies_are_counted_for_each_record(upstream: Upstream) -> None:
    """With records in any order, each one must meet its own first fault and its own recovery."""
    when: When = {"contains": "[[", "stage": "answer", "model": "m1"}
    others: list[Rule] = [{"when": {"stage": "rewrite"}, "replies": [{"status": 500}]}, {"when": {"model": "m2"}}]
    plan: Plan = {"rules": [*others, {"when": when, "replies": [{"status": 503}], "then": "good"}]}
    with closing(begin(upstream, plan)) as connection:
        prompts = ["[[a-1]]", "[[a-2]]", "[[a-1]]", "[[a-2]]"]
        assert [chat(connection, prompt)[0] for prompt in prompts] == [503, 503, 200, 200]
    assert upstream.stats().by_status == {"503": 2, "200": 2}


def test_a_global_rule_counts_all_records_and_every_nth(upstream: Upstream) -> None:
    """A fault of the account strikes by order of arrival, not by record."""
    quota: Reply = {"status": 429, "error": {"code": "insufficient_quota"}, "headers": {"retry-after": "7"}}
    plan: Plan = {
        "rules": [
            {"when": {"every": 2, "to_request": 4}, "replies": [{"status": 500}], "per_record": False, "then": "good"},
            {"when": {"from_request": 5}, "replies": [quota]},
        ]
    }
    with closing(begin(upstream, plan)) as connection:
        assert [chat(connection, f"[[a-{n}]]")[0] for n in range(5)] == [200, 500, 200, 200, 429]
        send(connection, "[[a-9]]")
        response = connection.getresponse()
        assert response.headers["retry-after"] == "7"
        assert json.load(response) == {"error": {"code": "insufficient_quota"}}


def test_a_reply_can_say_anything(upstream: Upstream) -> None:
    """Real servers send refusals, null content, empty choices, HTML and 200s that are errors; so must this one."""
    replies: list[Reply] = [
        {"content": None, "message": {"refusal": "no"}, "usage": None},
        {"json": {"answer": "<markers>"}, "finish_reason": "length"},
        {"choices": []},
        {"status": 200, "error": {"message": "upstream"}},
        {"body": '"<html>"', "content_type": "text/html"},
    ]
    with closing(begin(upstream, {"rules": [{"replies": replies}]})) as connection:
        refused, cut, empty, error, page = (chat(connection, "[[a-1]]")[1] for _ in replies)
    assert refused["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": "no"}
    assert refused["usage"] is None
    assert (said(cut), cut["choices"][0]["finish_reason"]) == ('{"answer": "[[a-1]]"}', "length")
    assert empty["choices"] == []
    assert [error, page] == [{"error": {"message": "upstream"}}, "<html>"]
    assert upstream.stats().answered == 0


@pytest.mark.parametrize(
    ("reply", "raised", "status"),
    [
        ({"reset": True}, ConnectionResetError, "reset"),
        ({"cut": 10}, http.client.IncompleteRead, "cut"),
        ({"hang_s": 0.01}, http.client.RemoteDisconnected, "hang"),
    ],
)
def test_transport_faults_reach_the_client(
    upstream: Upstream, reply: Reply, raised: type[Exception], status: str
) -> None:
    """Each kind of broken connection is its own error at the client, and none of them is an answer."""
    with closing(begin(upstream, {"rules": [{"replies": [reply]}]})) as connection, pytest.raises(raised):
        chat(connection, "[[a-1]]")
    stats = upstream.stats()
    assert (stats.by_status, stats.answered, stats.in_flight) == ({status: 1}, 0, 0)


def test_a_body_can_trickle_and_a_connection_can_close_unannounced(upstream: Upstream) -> None:
    """Slow bodies defeat per-read time-outs; silent closes meet the client's pool at its next request."""
    body = '{"slow": true}'
    plan: Plan = {"rules": [{"replies": [{"body": body, "trickle": {"every_s": 0.002}}, {"close": True}]}]}
    with closing(begin(upstream, plan)) as connection:
        start = time.monotonic()
        assert chat(connection, "[[a-1]]") == (200, {"slow": True})
        assert time.monotonic() - start > 0.002 * (len(body) - 1)
        send(connection, "[[a-1]]")
        response = connection.getresponse()
        response.read()
        assert not response.will_close
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            chat(connection, "[[a-1]]")


def test_limits_refuse_what_is_too_much(upstream: Upstream) -> None:
    """The limiter is judged by these refusals, so they must come exactly at the limit."""
    plan: Plan = {"limits": {"max_in_flight": 1, "retry_after": "3"}, "latency_s": 0.05}
    with closing(begin(upstream, plan)) as first, closing(connect(upstream)) as second:
        send(first, "[[a-1]]")
        upstream.wait_until(lambda stats: stats.in_flight == 1)
        send(second, "[[a-2]]")
        refused = second.getresponse()
        assert (refused.status, refused.headers["retry-after"]) == (429, "3")
        assert first.getresponse().status == 200
    with closing(begin(upstream, {"limits": {"per_second": 3}})) as connection:
        assert [chat(connection, "[[a-1]]")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert upstream.stats().max_per_second == 4


def test_an_outage_ends_by_itself(upstream: Upstream) -> None:
    """Requests within the window are reset; after it the same plan is good again."""
    with closing(begin(upstream, {"down": [[0, 0.03]]})) as connection:
        with pytest.raises(ConnectionResetError):
            chat(connection, "[[a-1]]")
        end, status = time.monotonic() + 5, 0
        while status != 200 and time.monotonic() < end:
            connection.close()
            with suppress(ConnectionResetError):
                status = chat(connection, "[[a-1]]")[0]
        assert status == 200


def test_a_client_that_leaves_frees_its_place(upstream: Upstream) -> None:
    """A killed run must not count as open requests in the run that follows, nor as an answer."""
    connection = begin(upstream, {"latency_s": 60})
    send(connection, "[[a-1]]")
    upstream.wait_until(lambda stats: stats.in_flight == 1)
    connection.close()
    assert upstream.wait_until(lambda stats: stats.in_flight == 0).by_status == {"gone": 1}


def test_pipelined_and_split_requests_are_served_in_order(upstream: Upstream) -> None:
    """TCP keeps no message borders; neither a split head nor two requests in one segment may confuse the parser."""
    body = b'{"model": "m", "messages": [{"role": "user", "content": "[[a-1]]"}]}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with closing(begin(upstream, {"latency_s": 0.005})) as connection:
        connection.connect()
        connection.sock.sendall(request + request + request[:30])
        upstream.wait_until(lambda stats: stats.answered == 2)
        connection.sock.sendall(request[30:])
        assert upstream.wait_until(lambda stats: stats.answered == 3).max_in_flight == 1
        received = b""
        while received.count(b"ANSWER [[a-1]]") < 3:
            received += connection.sock.recv(65536)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 3


def test_rows_tell_what_was_sent_but_never_the_key(upstream: Upstream) -> None:
    """Audits compare parameters and bodies; the key is only ever a digest."""
    with closing(begin(upstream, {"keep_bodies": True})) as connection:
        chat(connection, "[[a-1]] [[a-2]]", temperature=0)
    (row,) = upstream.requests()
    assert row["parameters"] == ["temperature"]
    assert row["body"]["messages"][0]["content"] == "[[a-1]] [[a-2]]"
    assert (row["markers"], row["stage"], row["messages"], row["chars"]) == (["[[a-1]]", "[[a-2]]"], "answer", 1, 15)
    assert (row["key"], row["status"], row["good"]) == (key_digest("sk-1"), 200, True)
    assert "sk-1" not in json.dumps(row)


def test_a_re_ask_still_belongs_to_its_record(upstream: Upstream) -> None:
    """The last user message of a re-ask is the complaint, which need not repeat the marker."""
    turns = [("user", "[[a-1]] How many?"), ("assistant", "[[b-9]]"), ("user", "Not a number.")]
    with closing(begin(upstream, {})) as connection:
        answer = chat(connection, "", messages=[{"role": role, "content": text} for role, text in turns])[1]
    assert said(answer) == "ANSWER [[a-1]]"


def test_a_wrong_plan_or_request_is_refused(upstream: Upstream) -> None:
    """A misspelt fault would silently never happen, and the test leaning on it would pass for nothing."""
    with pytest.raises(ValueError, match="Reply has no delay; it has delay_s"):
        Upstream({"rules": [{"replies": [json.loads('{"delay": 1}')]}]})
    with pytest.raises(ValueError, match="Plan has no rule;"):
        upstream.ask("POST", "/__plan", {"rule": []})
    with closing(begin(upstream, {})) as connection:
        assert chat(connection, "", messages="none")[0] == 400


def test_the_process_ends_with_its_parent_its_time_or_sigterm(tmp_path: Path) -> None:
    """No run of the tests may leave a server behind."""
    plan = tmp_path / "plan.json"
    plan.write_text("{}", "utf-8")
    command = [sys.executable, "-m", "tests.server", str(plan)]
    root = Path(__file__).parents[1]
    for extra, end in (("--parent", "stdin"), ("--seconds=60", "signal"), ("--seconds=0.01", "time")):
        pipe = subprocess.PIPE
        with subprocess.Popen([*command, extra], cwd=root, stdin=pipe, stdout=pipe) as process:
            assert process.stdout
            assert process.stdin
            assert process.stdout.readline().startswith(b"READY http://127.0.0.1:")
            if end == "stdin":
                process.stdin.close()
            if end == "signal":
                os.kill(process.pid, signal.SIGTERM)
            assert process.wait(10) == 0
