"""The table of a comparison against a count by hand, and what is shared between arms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.comparing import arm, figures, write_job
from tests.processes import JsonObject, read_lines, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Plan, Reply, Rule, Upstream

RECORDS = 8
ARMS = ("baseline", "instructed", "s2a", "s2a_keep_original")
ANSWERS = (  # by arm; None: the request is refused. The right answer is 1, record 7 has none.
    (1, 1, 1, 1),
    (1, 1, 0, 1),
    (0, 1, 1, 0),
    (0, 0, 1, 1),
    (0, 0, 1, 0),
    (0, 0, 0, 0),
    (1, 0, 1, None),
    (5, 5, 6, 5),
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
REWRITTEN = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
# By what only this arm's request says: the original beside the rewrite, the rewrite, the added sentence, the prompt.
CUES = ("{r} right?\n\nLeave out", "{r} via-rewrite", "written:\nI think so: is {r}", "is {r} right?")


def write_input(folder: Path) -> None:
    """The records of `ANSWERS`, and one line that is none."""
    rows = [
        {
            "id": n,
            "prompt": f"I think so: is [[r-{n}]] right?",
            "expected": "1",
            "side": "even" if n % 2 == 0 else "odd",
        }
        for n in range(RECORDS)
    ]
    del rows[7]["expected"]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "in.jsonl").write_text(lines + "{bad\n")


def scripted() -> Plan:
    """Each arm's answers."""
    rules: list[Rule] = [{"when": {"stage": "rewrite"}, "replies": [{"usage": REWRITTEN}]}]
    for number, given in enumerate(ANSWERS):
        instructed, rewritten, original, given_as_is = (cue.format(r=f"[[r-{number}]]") for cue in CUES)
        for cue, said in ((original, given[3]), (rewritten, given[2]), (instructed, given[1]), (given_as_is, given[0])):
            refuse: Reply = {"status": 400, "error": {"message": "no"}}
            reply: Reply = refuse if said is None else {"json": {"answer": said}, "usage": USAGE}
            rules.append({"when": {"stage": "answer", "contains": cue}, "replies": [reply]})
    return {"rules": rules}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scripted answers are compared, once for this file."""
    return tmp_path_factory.mktemp("compared") / "work"


@pytest.fixture(scope="module")
def compared(place: Path, upstream_process: Upstream) -> JsonObject:
    """The figures of the scripted answers."""
    place.mkdir()
    write_input(place)
    upstream_process.replan(scripted())
    write_job(place, upstream_process, compare='by = "side"')
    done = run(place, "compare", "job.toml", "--json")
    assert done.status == 1, done.err
    found = figures(place)
    assert json.loads(done.out) == found
    return found


def test_right_answers_are_those_counted_by_hand(compared: JsonObject) -> None:
    """The first number that anybody reads; a failed record is a wrong one, a line without a right answer is none."""
    assert [compared[name] for name in ("way", "lines", "unusable", "no_gold")] == ["number", 9, 1, 1]
    assert [one["name"] for one in compared["arms"]] == list(ARMS)
    assert [(one["judged"]["right"], one["judged"]["n"]) for one in compared["arms"]] == [
        (3, 7),
        (3, 7),
        (5, 7),
        (3, 7),
    ]
    assert [(one["answered"], one["failed"], one["pending"]) for one in compared["arms"]] == [
        (8, 0, 0),
        (8, 0, 0),
        (8, 0, 0),
        (7, 1, 0),
    ]
    assert arm(compared, "s2a_keep_original")["failures"] == {"bad_request": 1}
    baseline = arm(compared, "baseline")["judged"]
    assert baseline["share"] == pytest.approx(3 / 7)
    # Binomial(7, 3/7): P(0) = .0199, P(0 or 1) = .1244; P(7) = .0027, P(6 or 7) = .0274.
    assert baseline["bootstrap"] == pytest.approx({"low": 1 / 7, "high": 6 / 7})


def test_groups_are_those_counted_by_hand(compared: JsonObject) -> None:
    """The paper's own table is by condition: an arm may win one and lose the other."""
    counted = {
        one["name"]: {name: (share["right"], share["n"]) for name, share in one["groups"].items()}
        for one in compared["arms"]
    }
    assert counted == {
        "baseline": {"even": (2, 4), "odd": (1, 3)},
        "instructed": {"even": (2, 4), "odd": (1, 3)},
        "s2a": {"even": (4, 4), "odd": (1, 3)},
        "s2a_keep_original": {"even": (1, 4), "odd": (2, 3)},
    }


def test_pairs_are_those_counted_by_hand(compared: JsonObject) -> None:
    """What turned, and how sure that is."""
    names = ("arm", "n", "both_right", "both_wrong", "better", "worse", "left_out", "p", "mid_p", "p_holm")
    rows = [tuple(pair[name] for name in names) for pair in compared["pairs"]]
    assert rows == [
        ("instructed", 7, 2, 3, 1, 1, 0, 1.0, pytest.approx(1.0), 1.0),
        # 2 * (1 + 4) / 16, and the observed 4 / 16 less
        ("s2a", 7, 2, 1, 3, 1, 0, pytest.approx(0.625), pytest.approx(0.375), 1.0),
        ("s2a_keep_original", 7, 2, 3, 1, 1, 0, 1.0, pytest.approx(1.0), 1.0),
    ]
    assert {pair["first"] for pair in compared["pairs"]} == {"baseline"}
    assert [pair["difference"] for pair in compared["pairs"]] == pytest.approx([0, 2 / 7, 0])


def test_records_that_turned_are_named_with_both_answers(compared: JsonObject) -> None:
    """A figure convinces nobody who cannot look at the records behind it."""
    s2a, keep = compared["pairs"][1:]
    assert [turn["id"] for turn in s2a["to_right"]] == [2, 3, 4]
    assert s2a["to_wrong"] == [{"line": 2, "id": 1, "expected": "1", "first": 1, "arm": 0}]
    assert keep["to_wrong"] == [{"line": 7, "id": 6, "expected": "1", "first": 1, "arm": None}]
    assert [turn["id"] for turn in s2a["changed"]] == [7], "no right answer, and yet another answer"


def test_agreement_is_that_counted_by_hand(compared: JsonObject) -> None:
    """It needs no right answers; records that one of two failed on are in no agreement of those two."""
    counted = {(one["a"], one["b"]): (one["alike"], one["n"]) for one in compared["agreements"]}
    assert counted == {
        ("baseline", "instructed"): (6, 8),
        ("baseline", "s2a"): (3, 8),
        ("baseline", "s2a_keep_original"): (6, 7),
        ("instructed", "s2a"): (3, 8),
        ("instructed", "s2a_keep_original"): (5, 7),
        ("s2a", "s2a_keep_original"): (3, 7),
    }


def test_what_it_took_is_that_counted_by_hand(compared: JsonObject) -> None:
    """Borrowed rewrites are paid once, by the arm that asked for them; alone, every arm would pay its own."""
    names = ("requests", "input_tokens", "output_tokens", "cost_usd", "unknown_usage")
    taken = {
        (one["name"], part): tuple(one[part][name] for name in names)
        for one in compared["arms"]
        for part in ("paid", "alone")
    }
    plain = (8, 80, 16, pytest.approx(0.00024), 0)
    with_rewrites = (16, 320, 176, pytest.approx(0.00208), 0)
    assert taken == {
        ("baseline", "paid"): plain,
        ("baseline", "alone"): plain,
        ("instructed", "paid"): plain,
        ("instructed", "alone"): plain,
        ("s2a", "paid"): with_rewrites,
        ("s2a", "alone"): with_rewrites,
        ("s2a_keep_original", "paid"): (8, 70, 14, pytest.approx(0.00021), 0),
        ("s2a_keep_original", "alone"): (16, 310, 174, pytest.approx(0.00205), 0),
    }
    assert [one["rewrites_of"] for one in compared["arms"]] == [None, None, None, "s2a"]


def test_the_terminal_says_the_same(place: Path, compared: JsonObject) -> None:
    """Most people never open the JSON; and what is finished is told again without a request."""
    assert compared["arms"]
    shown = {" ".join(line.split()) for line in run(place, "compare", "job.toml").out.splitlines()}
    assert "s2a 5 of 7 71.4 % 42.9 to 100.0 - -" in shown
    assert "s2a_keep_original 3 of 7 42.9 % 14.3 to 85.7 1 -" in shown
    # Of 7 ** 7 resamples 3.2 % come to -2 or less and .9 % to less, 8.3 % to 5 or more and 2.1 % to more.
    assert "s2a - baseline +28.6 -28.6 to +71.4 3 1 7 0.6250 0.3750 1.0000" in shown
    assert any(line.startswith("s2a_keep_original 8 70 14 $0.000210 ") for line in shown)


def test_each_record_of_each_arm_is_in_one_file(place: Path, compared: JsonObject) -> None:
    """Whoever doubts the figures can count again."""
    rows = read_lines(place / "out" / "records.jsonl")
    assert len(rows) == compared["lines"]
    assert rows[6]["arms"]["s2a_keep_original"] == {"judgement": "failed", "answer": None, "failure": "bad_request"}
    assert rows[2]["arms"]["s2a"] == {"judgement": "right", "answer": {"answer": 1}, "failure": None}
    right = sum(row["arms"]["s2a"]["judgement"] == "right" for row in rows)
    assert right == arm(compared, "s2a")["judged"]["right"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in (place / "out").glob("*.json*")}
    assert modes == {"compare.json": 0o600, "records.jsonl": 0o600}
