"""Answers that a judge model marks: what it sees, what is asked once, what becomes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.comparing import arm, figures, write_job
from tests.processes import read_lines, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Reply, Rule, Upstream

RECORDS = 4
JUDGED = 'arms = ["baseline", "s2a", "oracle"]\nscore = "judge"\njudge = {model = "judge"}'
BARE = "Which city is it, [[r-{n}]]?"


@pytest.fixture(autouse=True)
def _opinions(folder: Path) -> None:
    rows = [
        {
            "id": n,
            "prompt": f"I think it is Rome. {BARE.format(n=n)}",
            "question": BARE.format(n=n),
            "oracle_prompt": None if n == 3 else BARE.format(n=n),
            "expected": "Paris",
        }
        for n in range(RECORDS)
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def plan(verdict: Reply | None = None) -> Plan:
    """The baseline says Rome, all others Paris; a judge knows which is right."""
    rules: list[Rule] = [
        {
            "when": {"model": "judge", "contains": '"answer": "Rome"'},
            "replies": [{"json": {"reason": "another", "correct": False}}],
        },
        {"when": {"model": "judge"}, "replies": [verdict or {"json": {"reason": "the same", "correct": True}}]},
        {"when": {"stage": "rewrite"}, "replies": [{}]},
        {"when": {"contains": "I think it is Rome"}, "replies": [{"content": "Rome"}]},
        {"replies": [{"content": "Paris"}]},
    ]
    return {"rules": rules, "keep_bodies": True}


def test_a_judge_marks_each_different_answer_once(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """It is a paid model: equal answers of several arms are one question, and a resume asks none again."""
    up = upstream(plan())
    write_job(folder, up, compare=JUDGED, answer="")
    assert run(folder, "compare", "job.toml").status == 0
    asked = [row["body"]["messages"] for row in up.requests() if row["model"] == "judge"]
    assert len(asked) == 2 * RECORDS, "Rome and Paris for each record"
    found = figures(folder)
    counted = {one["name"]: (one["judged"]["right"], one["judged"]["n"], one["no_oracle"]) for one in found["arms"]}
    assert counted == {"baseline": (0, 4, 0), "s2a": (4, 4, 0), "oracle": (3, 3, 1)}
    assert found["judge"]["requests"] == 2 * RECORDS
    pair = found["pairs"][1]
    assert (pair["arm"], pair["n"], pair["left_out"], pair["better"]) == ("oracle", 3, 1, 3)
    seen = up.stats().requests
    assert run(folder, "compare", "job.toml").status == 0
    assert up.stats().requests == seen


def test_a_judge_sees_the_bare_question_the_right_answer_and_the_answer_alone(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The opinion that swayed the answer would sway the judge."""
    up = upstream(plan())
    write_job(folder, up, compare=JUDGED, answer="")
    assert run(folder, "compare", "job.toml").status == 0
    for row in up.requests():
        if row["model"] == "judge":
            system, user = row["body"]["messages"]
            assert (system["role"], user["role"]) == ("system", "user")
            asked = json.loads(user["content"])
            number = row["markers"][0].strip("[]").removeprefix("r-")
            assert asked["question"] == BARE.format(n=number)
            assert (asked["reference"], asked["answer"] in {"Rome", "Paris"}) == ("Paris", True)
            assert "I think" not in json.dumps(row["body"]["messages"])


def test_another_judge_starts_anew_and_the_arms_stay(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A doubtful verdict is checked with a stronger judge; the answers need not be bought again."""
    up = upstream(plan())
    write_job(folder, up, compare=JUDGED, answer="")
    assert run(folder, "compare", "job.toml").status == 0
    up = upstream({"rules": [{"replies": [{"json": {"reason": "strict", "correct": False}}]}]})
    write_job(folder, up, compare=JUDGED.replace('"judge"}', '"stricter"}'), answer="")
    assert run(folder, "compare", "job.toml").status == 0
    assert up.stats().models == ["stricter"]
    assert [one["judged"]["right"] for one in figures(folder)["arms"]] == [0, 0, 0]
    judges = [read_lines(path) for path in (folder / "out" / "judge").glob("*/results.jsonl")]
    assert [len(lines) for lines in judges] == [2 * RECORDS] * 2


def test_an_answer_without_a_verdict_is_left_out_and_told(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A judge that fails must not turn right answers into wrong ones."""
    up = upstream(plan({"content": "hm"}))
    write_job(folder, up, compare=JUDGED, answer="")
    done = run(folder, "compare", "job.toml")
    assert done.status == 1
    s2a = arm(figures(folder), "s2a")
    assert (s2a["unjudged"], s2a["judged"]["n"], s2a["judged"]["share"]) == (RECORDS, 0, None)
    assert f"s2a: {RECORDS} answers have no verdict" in done.out
    assert figures(folder)["pairs"][0]["left_out"] == RECORDS


def test_a_budget_counts_the_judge_too(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The judge is paid from the same purse."""
    up = upstream(plan())
    cap = 3 * RECORDS + 2
    write_job(
        folder,
        up,
        compare=JUDGED.replace(', "oracle"', ""),
        answer="",
        more=f"budget = {{max_requests = {cap}}}\nlimits = {{open_requests = 1}}",
    )
    assert run(folder, "compare", "job.toml").status == 3
    assert up.stats().requests == cap


def test_a_judges_password_is_in_no_file(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """An endpoint's address may hold a password; files are mailed around."""
    up = upstream(plan())
    secret = up.base_url.replace("http://", "http://me:hunter2@")
    judged = JUDGED.replace('{model = "judge"}', f'{{model = "judge", base_url = "{secret}"}}')
    own = f'\n[compare.variants.own]\narm = "baseline"\nbase_url = "{secret}"'
    write_job(folder, up, compare=judged.replace('"oracle"', '"own"') + own, answer="")
    done = run(folder, "compare", "job.toml")
    assert done.status == 0, done.err
    assert "hunter2" not in done.out + done.err
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
