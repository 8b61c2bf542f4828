"""kill -9 at any moment costs nothing but the requests that were open: no record lost, none twice, none paid again."""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from s2a_batch.keys import line_hash
from s2a_batch.rundir import DEAD_LETTERS, LINE_FILES, RESULTS, REWRITES
from tests.processes import OPEN, RUN, JsonObject, Program, read_lines, run, running, strict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server import Plan, Reply, Rule, Upstream

RECORDS = 60
KILLS = 20
"""Of each campaign; with the ten of them 200."""
REFUSE: Reply = {"status": 400, "error": {"message": "no"}}
TOLD = ("--set", "limits.requests_per_minute=60000")  # else a run learns from each refusal to go slowly
QUICK = ("--set", "retry.backoff_s=0.01", "--set", "retry.attempts=20")  # 1 in 4 fails, in whatever order


@dataclass(frozen=True)
class Campaign:
    """One way to be killed again and again.

    Attributes:
        first: Options of the first half of the executions.
        refused: Records that end as dead letters.
    """

    name: str
    seed: int
    rules: tuple[Rule, ...] = ()
    options: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    packed: bool = False
    refused: tuple[int, ...] = ()

    @property
    def plan(self) -> Plan:
        """How the upstream behaves."""
        return {"rules": list(self.rules), "latency_s": [0.004, 0.04], "seed": self.seed}


def sometimes(n: int, *replies: Reply) -> Rule:
    """Every n-th request gets one of them."""
    return {"when": {"every": n}, "replies": list(replies), "per_record": False}


UNFIT: Rule = {"when": {"stage": "rewrite"}, "replies": [{"content": '{"relevant_context": "cut'}], "then": "good"}
NOW = {"retry-after-ms": "10"}
REFUSED = tuple(n for n in range(RECORDS) if str(n).startswith("1"))
REFUSING: Rule = {"when": {"stage": "answer", "contains": "[[r-1"}, "replies": [REFUSE]}
CAMPAIGNS = (
    Campaign("all well", 1),
    Campaign("all well, other moments", 2),
    Campaign("synced with every commit", 3, options=("--set", "fsync_s=0")),
    Campaign("server errors", 4, (sometimes(4, {"status": 500}),), QUICK),
    Campaign("connections lost", 5, (sometimes(6, {"reset": True}),), QUICK),
    Campaign("rate limits", 6, (sometimes(9, {"status": 429, "headers": NOW}),), TOLD),
    Campaign("each rewrite asked for twice", 7, (UNFIT,)),
    Campaign("rewrites first, all else later", 8, first=("--only", "rewrite")),
    Campaign("packed input", 9, packed=True),
    Campaign("some refused", 10, (REFUSING,), refused=REFUSED),
)


def written_bytes(out: Path) -> int:
    """Size of what is kept of replies."""
    return sum((out / name).stat().st_size for name in LINE_FILES if (out / name).exists())


def kill_somewhere(program: Program, up: Upstream, out: Path, draw: random.Random) -> bool:
    """Kill it after a random number of bytes written, of requests, or of milliseconds; whether it still ran."""
    how = draw.random()
    if how < 0.7:
        end = written_bytes(out) + draw.randint(1, 16_000)
        while written_bytes(out) < end and program.process.exitcode is None:
            program.process.join(0.0002)  # no sleep: it ends with the process
    elif how < 0.9:
        seen, more = up.stats().requests, draw.randint(1, 8)
        up.wait_until(lambda stats: stats.requests >= seen + more or program.process.exitcode is not None)
    else:
        program.process.join(draw.uniform(0, 0.4))
    runs = program.process.exitcode is None
    program.kill()
    up.wait_until(lambda stats: stats.in_flight == 0)
    return runs


def whole_lines(path: Path) -> list[JsonObject]:
    """The lines of a file; all are strict JSON but for at most one unfinished last one."""
    *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return [strict(line) for line in lines]


def kept(out: Path) -> dict[str, set[str]]:
    """Which records are done with each stage, as their markers; none is there twice."""
    lines = {name: [f"[[r-{line['id']}]]" for line in whole_lines(out / name)] for name in LINE_FILES}
    for marks in lines.values():
        assert len(set(marks)) == len(marks), "a line twice"
    answered = {*lines[RESULTS], *lines[DEAD_LETTERS]}
    assert len(answered) == len(lines[RESULTS]) + len(lines[DEAD_LETTERS]), "a record with two results"
    return {"rewrite": {*lines[REWRITES]}, "answer": answered}


def assert_finished(out: Path, refused: tuple[int, ...] = ()) -> None:
    """Every record is answered once, from its own rewrite, or refused once."""
    results = read_lines(out / RESULTS)
    assert sorted(line["id"] for line in results) == [n for n in range(RECORDS) if n not in refused]
    for line in results:
        assert line["answer"] == {"answer": f"ANSWER [[r-{line['id']}]]"}
        assert line["rewrite"]["user_query"].startswith(f"[[r-{line['id']}]]")
    assert sorted(line["id"] for line in read_lines(out / DEAD_LETTERS)) == list(refused)
    assert sorted(line["id"] for line in read_lines(out / REWRITES)) == list(range(RECORDS))
    told = run(out.parent, "verify", "out")
    assert told.status == 0, told.out


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name.replace(" ", "-"))
def test_killed_again_and_again_a_run_still_ends_with_each_record_answered_once(
    folder: Path, upstream: Callable[[Plan], Upstream], campaign: Campaign
) -> None:
    """A machine that crashes every few seconds may make a night longer, never wrong or dearer than what was open."""
    if campaign.packed:
        (folder / "in.jsonl.gz").write_bytes(gzip.compress((folder / "in.jsonl").read_bytes()))
    up, out = upstream(campaign.plan), folder / "out"
    draw = random.Random(campaign.seed)  # noqa: S311  no secret
    words = (RUN[0], "in.jsonl.gz" if campaign.packed else "in.jsonl", *RUN[2:], "--base-url", up.base_url)
    wasted = paid = killed = 0
    for n in range(KILLS + 1):
        before = kept(out)
        options = (*campaign.options, *(campaign.first if n < KILLS // 2 else ()))
        up.reset_stats()
        with running(folder, *words, *options) as program:
            if n < KILLS:
                killed += kill_somewhere(program, up, out, draw)
            else:
                assert program.wait().status == (1 if campaign.refused else 0)
        asked = {(row["stage"], row["markers"][0]) for row in up.requests()}
        again = {(stage, mark) for stage, mark in asked if mark in before[stage] or mark in before["answer"]}
        assert not again, "paid before, and asked again"
        now, good = kept(out), up.stats().answered
        gained = sum(len(now[stage] - before[stage]) for stage in before)
        gained -= sum(f"[[r-{n}]]" in now["answer"] - before["answer"] for n in campaign.refused)
        lost = good - gained
        assert 0 <= lost <= (OPEN if n < KILLS else 0), "only what was open may be asked again"
        wasted, paid = wasted + lost, paid + good
    assert killed >= KILLS * 0.8, "too fast to be killed"
    assert_finished(out, campaign.refused)
    assert paid - wasted == 2 * RECORDS - len(campaign.refused)


def test_a_kill_between_the_stages_keeps_the_rewrites(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A finished rewrite is paid for; asking it again would bill the same work twice."""
    up = upstream({"rules": [{"when": {"stage": "answer"}, "replies": [{"hang_s": 60}]}]})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) == OPEN)
        program.kill()
    rewritten = len(read_lines(folder / "out" / REWRITES))
    assert rewritten >= OPEN
    up.wait_until(lambda stats: stats.in_flight == 0)
    upstream({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")
    assert up.stats().by_stage == {"rewrite": RECORDS - rewritten, "answer": RECORDS}


def test_killed_while_failed_records_are_taken_up_again_each_keeps_one_result(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Repairing last night's failures must be as safe to interrupt as the night itself."""
    up = upstream({"rules": [REFUSING]})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 1
    out, draw = folder / "out", random.Random(3)  # noqa: S311  no secret
    assert len(read_lines(out / DEAD_LETTERS)) == len(REFUSED)
    upstream({"latency_s": 0.02})
    for option in (["--retry-failed"], [], []):
        with running(folder, *RUN, "--base-url", up.base_url, *option) as program:
            seen, more = up.stats().requests, draw.choice([1, 2])
            end, left = seen + more, program.process
            up.wait_until(lambda stats, end=end, left=left: stats.requests >= end or left.exitcode is not None)  # type: ignore[misc]
            program.process.join(draw.uniform(0, 0.02))
            program.kill()
        up.wait_until(lambda stats: stats.in_flight == 0)
        assert len(read_lines(out / "dead_letters.1.jsonl")) == len(REFUSED), "kept for the audit"
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(out)
    assert up.stats().by_stage.keys() == {"answer"}, "their rewrites were finished"


def test_a_killed_run_leaves_no_lock_and_says_in_status_what_is_there(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A stale lock that a person has to delete at night is an outage of its own."""
    up = upstream({"latency_s": [0.01, 0.03]})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.answered >= RECORDS)
        assert "out: running" in run(folder, "status", "out").out
        program.kill()
    assert (folder / "out" / ".lock").read_text().startswith(f"process {program.pid} on ")
    answered = len(whole_lines(folder / "out" / RESULTS))
    told = run(folder, "status", "out")
    assert told.status == 0
    assert f"out: not running; {answered} answered, 0 failed" in told.out
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")


# --- killed while it prepares

OLDER = 12_000


def older_lines(line: bytes, count: int) -> Iterator[bytes]:
    """Sound results of lines that are gone from the input: bulk that takes a repair some time."""
    made = strict(line)
    head, _, _ = line.rpartition(b',"input":')
    for n in range(count):
        given = b'{"id": %d, "prompt": "gone"}' % (1_000_000 + n)
        yield head.replace(made["key"].encode(), line_hash(given).hex().encode(), 1) + b',"input":' + given + b"}"


def until(true: Callable[[], bool], program: Program) -> None:
    """Look as often as possible; the program's own end ends it too."""
    while not true() and program.process.exitcode is None:
        program.process.join(0.0001)


@pytest.mark.parametrize("command", ["run", "verify"])
def test_killed_while_it_repairs_it_loses_no_sound_line(
    folder: Path, upstream: Callable[[Plan], Upstream], command: str
) -> None:
    """A machine that crashed once crashes again a minute later, just when the first crash is being mended."""
    up, out = upstream({}), folder / "out"
    words = (*RUN, "--base-url", up.base_url)
    assert run(folder, *words).status == 0
    ours = (out / RESULTS).read_bytes().splitlines()
    bulk = list(older_lines(ours[0], OLDER))
    broken = ours[3][: len(ours[3]) // 2]
    (out / RESULTS).write_bytes(b"\n".join([*bulk[: OLDER // 2], broken, *bulk[OLDER // 2 :], *ours, ours[1][:50]]))
    size, new, during = (out / RESULTS).stat().st_size, out / f"{RESULTS}.new", 0
    for part in (0.0, 0.0, 0.3, 0.6, 0.95):
        with running(folder, *(words if command == "run" else ("verify", "out"))) as program:
            until(lambda least=size * part: new.exists() and new.stat().st_size >= least, program)  # type: ignore[misc]
            program.kill()
        lines = (out / RESULTS).read_bytes().split(b"\n")
        assert {*bulk, *ours} <= {*lines}, "a sound line is gone"
        during += broken in lines
    assert during >= 3, "the kills came too late to prove anything"
    assert run(folder, *words).status == 0
    assert (out / RESULTS).read_bytes().splitlines() == [*bulk, *ours]
    assert broken in (out / "damaged.bin").read_bytes().splitlines(), "kept for the audit"
    assert_repaired = run(folder, "verify", "out")
    assert assert_repaired.status == 0, assert_repaired.out
    assert up.stats().requests == 2 * RECORDS


@pytest.mark.parametrize("then", [("--fresh",), ()], ids=["fresh-again", "without-fresh"])
def test_killed_while_the_earlier_run_is_set_aside_it_stays_whole(
    folder: Path, upstream: Callable[[Plan], Upstream], then: tuple[str, ...]
) -> None:
    """Half of the old run in the new one would mix answers of two settings; what was paid for must be found again."""
    up, out = upstream({}), folder / "out"
    words = (*RUN, "--base-url", up.base_url)
    assert run(folder, *words).status == 0
    for n in range(1, 4001):
        (out / f"dead_letters.{n}.jsonl").touch()
    old = {path.name: path.read_bytes() for path in out.iterdir() if path.name[0] != "."}
    half = out / "old-1.part"
    for least in (1, 500, 2000):
        with running(folder, *words, "--fresh") as program:
            until(lambda n=least: half.exists() and half.stat().st_size > 0 and moved(half) >= n, program)  # type: ignore[misc]
            program.kill()
        assert half.exists(), "the kill came too late to prove anything"
    assert run(folder, *words, *then).status == 0
    aside = out / "old-1"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == old
    assert not (out / "old-2").exists()
    assert up.stats().requests == 4 * RECORDS, "all is asked anew, once"
    assert run(folder, "verify", "out").status == 0


def moved(folder: Path) -> int:
    """How many files are there already."""
    return sum(1 for _ in folder.iterdir())
