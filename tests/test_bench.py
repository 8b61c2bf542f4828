"""What the benches promise: an upstream that counts and answers right, arithmetic, and one run of each kind."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.checks import Original, judge_rewrite
from s2a_batch.records import Rewrite
from tests.bench.child import Spent, serving, spend
from tests.bench.clients import Client, Load, answered, judged
from tests.bench.growth import as_row
from tests.bench.reckon import Run, cpu_ms_a_row, ratio, share_of_allowed, share_of_ideal, start_cpu_s, table
from tests.bench.replies import ANSWER, prompt, template
from tests.bench.speed import arguments, command_in_words, rotated
from tests.bench.tables import Found, readme, report
from tests.bench.upstream import Behaviour, Connection, Seen, Upstream
from tests.bench.windows import Limits, Window
from tests.exported import result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.replies import Kind
    from tests.processes import JsonObject

REWRITE_FIELDS: dict[str, object] = {"properties": {"relevant_context": {}, "user_query": {}}}
GAPS = st.lists(st.floats(0, 0.5), max_size=60)


def request(n: int, *, rewrite: bool = True, tool: str = "") -> bytes:
    """One HTTP request as a client sends it."""
    schema: dict[str, object] = REWRITE_FIELDS if rewrite else {"properties": {"answer": {}}}
    body: JsonObject = {"model": "m", "messages": [{"role": "user", "content": prompt(n) if rewrite else "how many?"}]}
    if tool:
        body["tools"] = [{"type": "function", "function": {"name": tool, "parameters": schema}}]
    else:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    raw = json.dumps(body).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw


class Written(asyncio.Transport):
    """A connection's other end: keeps what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.parts.append(bytes(data))

    def is_closing(self) -> bool:
        """It never is."""
        return False

    def replies(self) -> list[JsonObject]:
        """The bodies of all replies, each as long as its head says."""
        found, rest = [], b"".join(self.parts)
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
            found.append(json.loads(rest[:length]))
            rest = rest[length:]
        return found


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def said(reply: JsonObject) -> JsonObject:
    """What the model says in a reply: its content, or the arguments of its tool call."""
    message = reply["choices"][0]["message"]
    text = message["content"] or message["tool_calls"][0]["function"]["arguments"]
    found: JsonObject = json.loads(text)
    return found


@given(st.integers(0, 10**12), st.sampled_from(["", "Rewrite"]), st.lists(st.integers(0, 4000), max_size=5))
def test_requests_cut_anywhere_get_their_own_rewrites(
    loop: asyncio.AbstractEventLoop, n: int, tool: str, cuts: list[int]
) -> None:
    """Bytes come as the network likes; a request glued to the next would be measured as a hang of the client."""
    sent = request(n, tool=tool) + request(n + 1, tool=tool) + request(0, rewrite=False, tool=tool)
    places = sorted({0, len(sent), *(cut % len(sent) for cut in cuts)})
    upstream, written = Upstream(Behaviour(), loop), Written()
    connection = Connection(upstream)
    connection.connection_made(written)
    for start, end in pairwise(places):
        connection.data_received(sent[start:end])
    first, second, third = (said(reply) for reply in written.replies())
    assert [one["user_query"].split("box ")[1] for one in (first, second)] == [f"{n}?", f"{n + 1}?"]
    assert third == {"answer": ANSWER}
    assert (upstream.seen.requests, upstream.seen.served, upstream.seen.rewrites) == (3, 3, 2)


@given(st.integers(0, 10**9))
def test_a_rewrite_of_the_upstream_passes_our_checks(n: int) -> None:
    """A re-ask or a warning in the bench would be work that its peers do not do."""
    given_rewrite = said(json.loads(_body("rewrite", n)))
    checks = judge_rewrite(Original(prompt(n)), Rewrite(**given_rewrite, raw=""))
    assert {check.level for check in checks} <= {"info"}
    assert given_rewrite["relevant_context"] in prompt(n)


def _body(kind: Kind, n: int) -> bytes:
    number = str(n).encode()
    filled = template(kind, b"", len(number)) % (1, b"", 1, number, number)
    return filled.partition(b"\r\n\r\n")[2]


@given(GAPS, st.integers(1, 20), st.sampled_from([1, 60]))
def test_what_is_served_never_exceeds_the_window(gaps: list[float], most: int, span_s: int) -> None:
    """A limit that lets one request too many through calls a client good that a provider would refuse."""
    window, served = Window(span_s, most), list[float]()
    for now in accumulate(gaps):
        before = window.violations
        if window.room(now, 1):
            window.add(now, 1)
            served.append(now)
        else:
            assert window.violations == before + 1
            assert sum(now - span_s < one for one in served) == most
    assert window.violations == len(gaps) - len(served)
    for now in served:
        assert sum(now - span_s < one <= now for one in served) <= most


def test_both_windows_count_and_the_enforced_one_refuses() -> None:
    """A client that is within the minute and not within the second must be seen, whichever of them is enforced."""
    limits = Limits(120, None, enforced_s=60)
    assert [limits.refusal_s(0.1 * n, 0) for n in range(5)] == [0] * 5
    assert (limits.windows["requests_1s"].violations, limits.windows["requests_60s"].violations) == (3, 0)
    strict = Limits(120, None, enforced_s=1)
    assert [strict.refusal_s(0.1 * n, 0) for n in range(5)] == [0, 0, 1, 1, 1]
    assert strict.refusal_s(1.05, 0) == 0, "refused requests count against nobody"
    assert strict.windows["requests_60s"].held == 3


def test_tokens_are_limited_too_and_a_request_above_the_window_goes_alone() -> None:
    """Token limits bind first with long prompts; a request that can never pass would hang every client."""
    limits = Limits(None, 6000, enforced_s=1)
    assert limits.refusal_s(0.0, 500) == 0
    assert limits.refusal_s(0.5, 10) == 1
    assert limits.refusal_s(1.5, 60) == 0
    assert limits.refusal_s(1.6, 40) == 0
    assert limits.windows["tokens_1s"].peak == 500
    assert "x-ratelimit-remaining-tokens: 0" in limits.headers().decode()


def test_a_reply_waits_for_its_latency_and_one_request_too_many_is_refused() -> None:
    """The bench's shares are of these latencies and limits, kept by the process that really serves."""
    how = Behaviour(latency="0.05", requests_per_minute=60, headers=True)
    with serving(how, seconds=60) as upstream:
        place = urlsplit(upstream.base_url)
        with socket.create_connection((place.hostname, place.port or 0), timeout=20) as connection:
            connection.sendall(request(1) + request(2))
            got = b""
            while got.count(b"HTTP/1.1") < 2 or not got.endswith(b"}"):
                got += connection.recv(1 << 16)
        seen = upstream.seen()
    assert b"429" in got
    assert b"retry-after: 1\r\n" in got
    assert b"x-ratelimit-limit-requests: 60\r\n" in got
    assert (seen.requests, seen.served, seen.refused, seen.max_in_flight) == (2, 1, 1, 1)
    assert seen.windows["requests_1s"] == {"violations": 1, "peak": 1, "most": 1}
    assert seen.first_at is not None
    assert seen.last_at is not None
    assert seen.waited_s == 0.05
    assert seen.last_at - seen.first_at >= 0.048, "its clock counts milliseconds"


def test_latencies_are_drawn_as_told() -> None:
    """A seeded draw makes two benches comparable; bounds and median are what the command line says."""
    uniform = [Behaviour(latency="uniform:0.1:0.3").waits()() for _ in range(2)]
    assert uniform[0] == uniform[1]
    draw = Behaviour(latency="uniform:0.1:0.3").waits()
    assert all(0.1 <= draw() <= 0.3 for _ in range(100))
    draw = Behaviour(latency="lognormal:0.2:0.5").waits()
    below = sum(draw() < 0.2 for _ in range(1000))
    assert 400 < below < 600
    assert Behaviour(latency="0.2").waits()() == 0.2


@pytest.mark.parametrize(
    ("how", "sign"),
    [
        (Behaviour(share_500=1), b" 500 "),
        (Behaviour(share_bad_json=1), b'"choices":[{"mess'),
        (Behaviour(share_reset=1), b""),
    ],
)
def test_faults_come_when_asked_for(loop: asyncio.AbstractEventLoop, how: Behaviour, sign: bytes) -> None:
    """A fault that silently never happens makes every client look robust."""
    aborted: list[bool] = []

    class Cut(Written):
        def abort(self) -> None:
            aborted.append(True)

    upstream, written = Upstream(how, loop), Cut()
    connection = Connection(upstream)
    connection.connection_made(written)
    connection.data_received(request(1))
    assert (upstream.seen.failed, upstream.seen.served) == (1, 0)
    assert aborted == ([True] if how.share_reset else [])
    assert sign in b"".join(written.parts)
    assert bool(written.parts) == bool(sign)


FULL = Run("s2a-batch", 1050, answered=1050, cpu_s=7.0, peak_rss_kib=100 << 10, start_s=1.0, span_s=10.0, served=2100)
FEW = replace(FULL, rows=50, answered=50, cpu_s=2.0, served=100)


def test_cpu_of_a_row_leaves_the_start_out() -> None:
    """Half a second of imports spread over 500 rows would be a millisecond a row that no row costs."""
    assert cpu_ms_a_row(FULL, FEW) == pytest.approx(5.0)
    assert start_cpu_s(FULL, FEW) == pytest.approx(1.75)


def test_a_ratio_compares_within_its_round() -> None:
    """A machine that slows down in one round slows both down; across rounds it would be somebody's merit."""
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_shares_are_of_what_was_possible() -> None:
    """Ideal: two requests a row, all slots busy. Allowed: the limit's rate, of which a lost row's part is wasted."""
    assert share_of_ideal(replace(FULL, answered=640, span_s=2.0), 0.2, 256) == pytest.approx(0.5)
    assert share_of_allowed(replace(FULL, answered=450, served=990), 6000) == pytest.approx(0.9)


def found() -> Found:
    """A bench of two rounds, in which a peer costs twice ours and loses rows under the limit."""
    dear = replace(FULL, client="naive", cpu_s=12.5)
    cheap = replace(FEW, client="naive", cpu_s=2.5)
    lost = replace(dear, answered=1000, refused=77, problem="50 of 1050 rows without an answer")
    rounds = {
        "few 64": {"s2a-batch": [FEW, FEW], "naive": [cheap, cheap]},
        "cpu 64": {"s2a-batch": [FULL, FULL], "naive": [dear, dear]},
        "limit": {"s2a-batch": [FULL, FULL], "naive": [dear, lost]},
    }
    return Found("a title", rounds, {"litellm": "not installed: no such version"})


def test_tables_name_what_was_lost_and_what_could_not_run() -> None:
    """A peer that silently drops out of a table, or wins by dropping rows, makes the table a lie."""
    rows = {line.split()[1]: [cell.strip() for cell in line.split("|")] for line in readme(found()).splitlines()[4:]}
    assert rows["s2a-batch"][2:4] == ["5.00", "1.00"]
    assert rows["naive"][2:4] == ["10.00", "2.00"]
    assert rows["naive"][-3:-1] == ["77", "50"]
    assert rows["litellm"][-2] == "not installed: no such version"
    shown = report(found())
    assert "77 refusals; 50 of 1050 rows without an answer" in shown
    assert shown.count("not installed: no such version") == 2


def test_a_run_that_failed_has_no_cost() -> None:
    """A client that ends early is cheap."""
    broken = found()
    broken.rounds["cpu 64"]["naive"][1] = replace(FULL, client="naive", problem="exit status 1: boom")
    assert broken.costs("naive", 64) == []
    assert "boom" in report(broken)


def test_kept_runs_show_the_same_again(tmp_path: Path) -> None:
    """An hour of measuring must not be lost to a wish for another table."""
    found().save(tmp_path / "runs.json")
    assert Found.load(tmp_path / "runs.json") == found()


def test_a_table_lines_up() -> None:
    """It is read in a terminal before it is pasted."""
    assert table(["a", "bb"], [["long", "1"]]) == "| a    | bb |\n| ---- | -: |\n| long |  1 |"


def test_the_command_in_a_table_says_what_differs_and_names_no_place() -> None:
    """What goes into the README must work for whoever reads it, and say when less was measured than usual."""
    parser = arguments()
    said = command_in_words(parser, parser.parse_args(["--json", "some/where.json", "--envs=here", "--readme"]))
    assert said == "`python -m tests.bench.speed`"
    said = command_in_words(parser, parser.parse_args(["--rows", "9", "--open", "64,65"]))
    assert said == "`python -m tests.bench.speed` with rows 9; open 64, 65"


def test_each_round_begins_with_another_client() -> None:
    """Whoever always goes first gets the cool machine."""
    clients = [Client("a"), Client("b"), Client("c")]
    assert [client.name for client in rotated(clients, 4)] == ["b", "c", "a"]


def test_a_copied_result_is_the_line_of_its_own_row() -> None:
    """The resume that is timed must find rows done, not ask for them anew."""
    lines = [json.dumps({"id": n, "prompt": prompt(n)}).encode() for n in (0, 7)]
    pattern, expected = (result(line, n, id_json=b"%d" % (n - 1)) for line, n in zip(lines, (1, 8), strict=True))
    assert as_row(pattern, json.loads(pattern)["key"].encode(), lines[1], 7) == expected


def test_only_right_answers_count(tmp_path: Path) -> None:
    """A client that answers wrong, twice, or in half a line has not done the row."""
    path = tmp_path / "out.jsonl"
    path.write_text(
        '{"id":1,"answer":25}\n{"id":1,"answer":25}\n{"id":2,"answer":24}\n{"id":3,"answer":{"answer":25}}\n'
    )
    assert answered(path) == 2
    assert answered(tmp_path / "none") == 0


@pytest.mark.parametrize("client", [Client(), Client("naive", module="tests.bench.peers.naive")], ids=lambda c: c.name)
def test_a_client_does_its_rows_and_is_measured(client: Client) -> None:
    """Two requests a row, no more: a bench whose client re-asks, or leaves rows out, compares nothing."""
    run = client.run(Load(50, 8, Behaviour(latency="0.01"), within_s=90))
    assert run.problem == ""
    assert (run.answered, run.served, run.refused) == (50, 100, 0)
    assert 1 < run.max_in_flight <= 8
    assert run.cpu_s > 0
    assert run.start_s is not None
    assert run.start_s > 0
    assert run.span_s >= 100 * 0.01 / 8
    assert run.peak_rss_kib > 10_000


def test_a_client_that_loses_rows_says_so() -> None:
    """Exit status 0 and fewer rows: the cheapest client of all."""
    spent = Spent(started_at=10.0, seconds=3.0, cpu_s=1.5, peak_rss_kib=1 << 15, status=0, out="", err="")
    seen = Seen(requests=6, served=5, refused=1, first_at=11.5, last_at=12.5)
    run = judged("naive", 3, spent, seen, 2)
    assert run.problem == "1 of 3 rows without an answer"
    assert (run.start_s, run.span_s, run.cpu_s, run.served, run.refused) == (1.5, 1.0, 1.5, 5, 1)
    assert judged("naive", 3, spent, seen, 3).problem == ""
    assert judged("naive", 3, replace(spent, status=-9), seen, 3).problem == "exit status -9: no output"


def test_a_client_that_hangs_is_ended(tmp_path: Path) -> None:
    """One peer that stalls must not cost the night in which all others were to be measured."""
    spent = spend(["sh", "-c", "sleep 600 & wait"], tmp_path, within_s=0.2)
    assert (spent.status, spent.err) == (-9, "\nkilled after 0.2 s")
    assert judged("naive", 1, spent, Seen(), 0).problem == "exit status -9: killed after 0.2 s"


def test_a_client_that_fails_says_why() -> None:
    """One line in the table has to be enough to know what to repair."""
    run = Client("nobody", module="tests.bench.peers.nobody").run(Load(1, 1))
    assert run.problem.startswith("exit status 1: ")
    assert "nobody" in run.problem
    assert run.start_s is None
