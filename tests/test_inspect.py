"""Looking at a run finds the right record, counts right, and changes nothing."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from s2a_batch.errors import JobError
from s2a_batch.inspect import dry_run, find, standing
from s2a_batch.job import Job
from s2a_batch.resume import Options
from tests.processes import run, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Reply, Upstream

ROWS = [
    '{"id": 1, "prompt": "Is [[r-1]] the number?"}',
    '{"id": "1", "prompt": "Is [[r-2]] the text?"}',
    '{"id": "grün\\n\\u001b[31m", "prompt": "Is [[r-3]] green? \\u001b]0;owned\\u0007 \\u009b2J \\r gone"}',
    '{"prompt": "Is [[r-4]] without an id?"}',
    '{"id": 12345678901234567890.50, "prompt": "Is [[r-5]] exact?"}',
    '{"id": "refused", "prompt": "Is [[r-6]] refused?"}',
    '{"id": "line:1", "prompt": "Is [[r-7]] named like a line?"}',
    '{"id": "broken", "prompt": 7}',
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, upstream_process: Upstream) -> Path:
    """A finished run's directory, which no test changes; record 6 is a dead letter after its rewrite."""
    work = tmp_path_factory.mktemp("finished") / "work"
    work.mkdir()
    (work / "in.jsonl").write_text("\n".join(ROWS) + "\n", "utf-8")
    refuse: Reply = {"status": 400, "error": {"message": "\x1b[2Jnot this one"}}
    escapes: Reply = {"content": "\x1b[31mred\x07 [bold]not markup[/bold]", "good": True}
    upstream_process.replan(
        {
            "rules": [
                {"when": {"stage": "answer", "contains": "[[r-6]]"}, "replies": [refuse]},
                {"when": {"stage": "answer", "contains": "[[r-3]]"}, "replies": [escapes]},
            ]
        }
    )
    call = ("run", "in.jsonl", "-o", "out", "--base-url", upstream_process.base_url, "--model", "m")
    assert run(work, *call).status == 1
    return work / "out"


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        ("1", {1, 2}),
        ('"1"', {2}),
        ("grün\n\x1b[31m", {3}),
        ("null", {4}),
        ("12345678901234567890.50", {5}),
        ("refused", {6}),
        ("line:1", {1, 7}),
        ("line:6", {6}),
        ("line:8", {8}),
        ("broken", {8}),
    ],
)
def test_a_record_is_found_by_id_and_line(finished: Path, wanted: str, lines: set[int]) -> None:
    """An auditor has the id that the input has, of whatever type, or the line number of an editor."""
    assert {json.loads(line)["line"] for line in find(finished, wanted)} == lines


def test_a_record_is_found_by_its_key(finished: Path) -> None:
    """Records without an id have a key; it is in every line and in no other record's."""
    for line in (finished / "results.jsonl").read_bytes().splitlines():
        assert find(finished, json.loads(line)["key"]) == [line]


@pytest.mark.parametrize("wanted", ["2", "line:9", "line:", "line:²", "", '1,"status":"answered"', "\udcff", "Is"])
def test_what_is_not_there_is_not_found(finished: Path, wanted: str) -> None:
    """A near miss shown as a hit would be audited as the wrong record."""
    with pytest.raises(JobError, match="no record"):
        find(finished, wanted)


def test_a_rewrite_without_an_answer_is_shown(tmp_path: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Rewrites are audited before any answer is paid; once there is an answer, its line tells all."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "in.jsonl").write_text(ROWS[0] + "\n")
    call = ("run", "in.jsonl", "-o", "out", "--base-url", upstream({}).base_url, "--model", "m")
    assert run(tmp_path / "work", *call, "--only", "rewrite").status == 0
    shown = run(tmp_path / "work", "show", "out", "1")
    assert shown.out.startswith("rewritten line 1, id 1")
    assert "[[r-1]] via-rewrite question?" in shown.out
    found = standing(tmp_path / "work" / "out")
    assert (found.answered, found.failed, found.waiting, found.running) == (0, 0, 1, False)
    assert run(tmp_path / "work", *call).status == 0
    assert [json.loads(line)["status"] for line in find(tmp_path / "work" / "out", "1")] == ["answered"]
    assert standing(tmp_path / "work" / "out").waiting == 0


def test_what_is_shown_cannot_steer_the_terminal(finished: Path) -> None:
    """Replies and inputs are strangers' text; shown, they must stay text."""
    for wanted in ("line:3", "line:6"):
        shown = run(finished.parent, "show", "out", wanted)
        assert shown.status == 0
        assert not [c for c in shown.out if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)]
    assert "\\x1b[2Jnot this one" in shown.out
    shown = run(finished.parent, "show", "out", "line:3")
    assert "\\x1b[31mred\\x07 [bold]not markup[/bold]" in shown.out.replace("\\u001b", "\\x1b").replace(
        "\\u0007", "\\x07"
    )
    assert "\\x1b]0;owned\\x07" in shown.out
    raw = run(finished.parent, "show", "out", "line:3", "--json")
    assert raw.out.encode() in (finished / "results.jsonl").read_bytes()
    assert "\x1b" not in raw.out, "JSON escapes it"


def test_the_standing_counts_what_is_there(finished: Path) -> None:
    """These are the numbers by which a person decides whether the night was good."""
    found = standing(finished)
    assert (found.answered, found.failed, found.waiting, found.running) == (6, 2, 0, False)
    told = run(finished.parent, "status", "out").out
    assert told.startswith("out: not running; 6 answered, 2 failed\n")
    assert "2 failed (1 bad_prompt, 1 bad_request)" in told


def test_looking_beside_a_run_sees_it_run(tmp_path: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The first question in the morning is whether it still runs; asking must not disturb it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "in.jsonl").write_text("\n".join(ROWS[:5]) + "\n", "utf-8")
    slow: Plan = {"rules": [{"when": {"stage": "answer", "contains": "[[r-1]]"}, "replies": [{"delay_s": 1.5}]}]}
    up = upstream(slow)
    call = ("run", "in.jsonl", "-o", "out", "--base-url", up.base_url, "--model", "m")
    with running(tmp_path / "work", *call) as program:
        up.wait_until(lambda stats: stats.answered == 9)
        found = standing(tmp_path / "work" / "out")
        while found.answered < 3:  # a reply is written some milliseconds after it was sent
            found = standing(tmp_path / "work" / "out")
        assert found.running
        assert found.answered <= 4
        assert find(tmp_path / "work" / "out", "1")
        assert program.wait().status == 0


def test_no_run_is_told_as_such(tmp_path: Path) -> None:
    """A mistyped directory must not look like a run in which nothing happened."""
    with pytest.raises(JobError, match="no run here"):
        standing(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(JobError, match="not written by s2a-batch"):
        standing(tmp_path)


@pytest.mark.anyio
async def test_a_dry_run_finds_what_a_run_would_find(finished: Path) -> None:
    """A preview that disagrees with the run is worse than none."""
    table = {"input": finished.parent / "in.jsonl", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    fresh = await dry_run(Job.model_validate({**table, "output": finished.parent / "new"}), Options(), {})
    assert (fresh.lines, fresh.pending, fresh.done, dict(fresh.bad)) == (8, 7, 0, {"bad_prompt": 1})
    assert fresh.samples[0][0] == "8"
    assert fresh.requests == 14
    assert fresh.prompt_tokens == round(sum(len(json.loads(row)["prompt"]) for row in ROWS[:7]) / 3.5)
    job = Job.model_validate({**table, "output": finished})
    again = await dry_run(job, Options(), {})
    assert (again.pending, again.done, again.requests, again.prompt_tokens) == (0, 8, 0, 0)
    again = await dry_run(job, Options(retry_failed=True), {})
    assert (again.pending, again.done, again.requests) == (1, 6, 1), "its rewrite is there"
    anew = await dry_run(job, Options(fresh=True, limit=3), {})
    assert (anew.pending, anew.done, anew.requests) == (7, 0, 6)
    alone = await dry_run(Job.model_validate({**table, "output": finished, "only": "rewrite"}), Options(), {})
    assert (alone.pending, alone.done, alone.requests) == (0, 8, 0)


@pytest.mark.anyio
async def test_a_dry_run_refuses_what_a_run_would_refuse(tmp_path: Path) -> None:
    """The missing key must be found by the look before, not at night."""
    (tmp_path / "in.jsonl").write_text(ROWS[0])
    table = {"input": tmp_path / "in.jsonl", "output": tmp_path / "out", "model": "m"}
    with pytest.raises(JobError, match="OPENAI_API_KEY"):
        await dry_run(Job.model_validate(table), Options(), {})
    key = {"OPENAI_API_KEY": "sk-12345"}
    with pytest.raises(JobError, match="cannot read"):
        await dry_run(Job.model_validate({**table, "input": tmp_path / "no.jsonl"}), Options(), key)
    with pytest.raises(JobError, match=r"no\.gguf"):
        await dry_run(Job.model_validate({**table, "model": str(tmp_path / "no.gguf")}), Options(), {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.jsonl").write_text('{"not": "ours"}\n')
    with pytest.raises(JobError, match="not written by s2a-batch"):
        await dry_run(Job.model_validate(table), Options(fresh=True), key)


@pytest.mark.anyio
async def test_a_dry_run_refuses_changed_settings_as_a_run_does(finished: Path) -> None:
    """Somebody who looked before would find the refusal in the cron mail only, with a night lost."""
    table = {"input": finished.parent / "in.jsonl", "model": "another", "base_url": "http://127.0.0.1:9/v1"}
    job = Job.model_validate({**table, "output": finished})
    with pytest.raises(JobError, match=r'other settings[\s\S]*rewrite\.model: "m" -> "another"[\s\S]*--accept-changes'):
        await dry_run(job, Options(), {})
    assert (await dry_run(job, Options(accept_changes=True), {})).done == 8
    assert (await dry_run(job, Options(fresh=True), {})).done == 0


def test_the_original_is_shown_whatever_became_of_the_line(
    tmp_path: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """An audit begins with what was asked: also of a line that was no JSON, and of a run that keeps hashes only."""
    work = tmp_path / "work"
    work.mkdir()
    rows = ['{"ask": "Is [[r-1]] so? I think it is.", "more": "of it"}', "{no JSON", '{"ask": 7}', '"a text"']
    (work / "in.jsonl").write_text("\n".join(rows) + "\n")
    call = ("run", "in.jsonl", "-o", "out", "--base-url", upstream({}).base_url, "--model", "m")
    assert run(work, *call, "--set", "messages=hash", "--set", "fields.prompt=ask").status == 1
    found = [run(work, "show", "out", f"line:{n}").out.splitlines() for n in range(1, 5)]
    original = [lines[lines.index("original") + 1] for lines in found]
    assert original[0].startswith("[-Is-] [[r-1]]")
    assert "more" not in original[0]
    assert original[1:] == ["{no JSON", '{"ask": 7}', '"a text"']


@pytest.mark.parametrize("wanted", ["3", "line:3"])
def test_a_look_where_no_run_is_says_so(tmp_path: Path, wanted: str) -> None:
    """A typo in the directory must not read as a lost record."""
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(JobError, match="no run here"):
            find(place, wanted)


def test_the_standing_of_a_stopped_run_says_why_and_what_to_do(
    tmp_path: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """In the morning one look must tell whether to wait, to mend something, or to start it again."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "in.jsonl").write_text("\n".join(ROWS[:5]) + "\n", "utf-8")
    again = "run the same command again to go on"
    up = upstream({"rules": [{"when": {"contains": "[[r-3]]"}, "replies": [{"delay_s": 30}]}]})
    call = ("run", "in.jsonl", "-o", "out", "--base-url", up.base_url, "--model", "m")
    with running(work, *call) as program:
        up.wait_until(lambda stats: stats.answered == 8)
        program.kill()
    killed = run(work, "status", "out").out.splitlines()
    assert killed[0].startswith("out: not running; ")
    assert killed[-1].endswith(again)
    assert "kill" in killed[-1]
    with running(work, *call) as program:
        up.wait_until(lambda stats: stats.requests > 9)
        for _ in range(2):
            program.send(signal.SIGTERM)
            up.wait_until(lambda _: "second signal" in program.err())
        program.wait()
    stopped = run(work, "status", "out").out.splitlines()
    assert stopped[1].startswith("stopped by SIGTERM: ")
    assert again in stopped
    refuse: Reply = {"status": 401, "error": {"message": "no such account"}}
    up = upstream({"rules": [{"replies": [refuse]}]})
    assert run(work, *call).status == 3
    gone = run(work, "status", "out").out.splitlines()
    assert gone[1].startswith("stopped: ")
    assert [line for line in gone if line.startswith("reason: ") and "401" in line]
    assert gone[-1] == f"when the reason is mended, {again}"


def test_the_standing_adds_up_all_executions(tmp_path: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A night of restarts is paid as a whole; the last execution alone may have done nothing."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "in.jsonl").write_text("\n".join(ROWS[:5]) + "\n", "utf-8")
    prices = ("--set", "price.usd_per_million_input=100", "--set", "price.usd_per_million_output=0")
    slow: Plan = {"rules": [{"when": {"contains": "[[r-5]]"}, "replies": [{"delay_s": 30}]}]}
    up = upstream({})
    call = ("run", "in.jsonl", "-o", "out", "--base-url", up.base_url, "--model", "m", *prices)
    assert run(work, *call, "--limit", "2").status == 0
    first = run(work, "status", "out").out
    assert "all executions: 1; 4 requests; " in first
    assert "\nended at 20" in first
    assert "limit reached: 2 answered, 0 failed" in first
    up.replan(slow)
    with running(work, *call) as program:
        up.wait_until(lambda stats: stats.answered == 8)
        going = run(work, "status", "out").out
        program.kill()
    assert "out: running" in going
    assert "all executions before this one: 1; 4 requests; " in going
    killed = run(work, "status", "out").out
    assert "all executions: 2 (1 killed, whose use is not known); at least 4 requests; " in killed
    up.replan({})
    assert run(work, *call).status == 0
    assert run(work, *call).status == 0
    totals = json.loads((work / "out" / "run.json").read_text())["totals"]
    last = run(work, "status", "out").out
    assert f"all executions: 4 (1 killed, whose use is not known); at least {totals['requests']} requests; " in last
    assert f"{totals['input_tokens']} tokens in, {totals['output_tokens']} out; cost ${totals['cost_usd']:.4f}" in last
    assert "nothing to do: 0 answered" in last


def test_a_manifest_without_usable_totals_is_shown_all_the_same(tmp_path: Path) -> None:
    """Another version's file, or one that somebody edited, must not hide how many records are done."""
    for totals in ('{"executions": "many"}', "[]", "7"):
        (tmp_path / "run.json").write_text('{"s2a_batch": "0", "summary": null, "totals": ' + totals + "}")
        told = run(tmp_path, "status", ".")
        assert (told.status, told.out.splitlines()[0]) == (0, ".: not running; 0 answered, 0 failed"), told.err
