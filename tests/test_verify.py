"""`verify` finds whatever is missing, doubled or damaged, blames nothing sound, and repairs as a run would."""

from __future__ import annotations

import gzip
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.keys import line_hash
from s2a_batch.linefiles import key_of
from s2a_batch.rundir import DEAD_LETTERS, RESULTS, REWRITES
from s2a_batch.verify import Verdict, holds_its_input, verify
from tests.processes import JsonObject, run, running, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Reply, Upstream

RECORDS = 8
REFUSE: Reply = {"status": 400, "error": {"message": "no"}}
ODD = [
    '{"id":90,"prompt":"é [[r-90]]?","input":{"a":1},"started_at":"x","seconds":1,"more":{"seconds":2,"input":{}}}',
    "{broken",
    '{"id":91,"prompt":"twice [[r-91]]?"}',
    '{"id":91,"prompt":"twice [[r-91]]?"}',
    '{"prompt":7}',
    "[1]",
    "x" * 5000,
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, upstream_process: Upstream) -> Path:
    """A finished run of good, equal, refused and broken lines."""
    folder = tmp_path_factory.mktemp("made")
    write_input(folder / "in.jsonl", range(RECORDS))
    with (folder / "in.jsonl").open("ab") as file:
        file.write("\n".join(["", *ODD, ""]).encode() + b'{"prompt":"\xff"}\n')
    upstream_process.replan({"rules": [{"when": {"stage": "answer", "contains": "[[r-3]]"}, "replies": [REFUSE]}]})
    call = ("run", "in.jsonl", "-o", "out", "--base-url", upstream_process.base_url, "--model", "m")
    assert run(folder, *call).status == 1
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil; its input stands where run.json says."""
    return shutil.copytree(made, tmp_path / "work")


def told(folder: Path, *more: str, status: int = 0) -> JsonObject:
    """What `verify --json` says."""
    done = run(folder, "verify", "out", *more, "--json")
    assert done.status == status, done.out + done.err
    found: JsonObject = json.loads(done.out)
    assert found["holds"] == (status == 0)
    return found


def counts(found: JsonObject) -> dict[str, int]:
    """How often each kind was found, the kinds that were not left out."""
    return {kind: part["count"] for kind, part in found["findings"].items() if part["count"]}


def change(path: Path, alter: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change a file's lines."""
    path.write_bytes(b"".join(alter(path.read_bytes().splitlines(keepends=True))))


def test_a_finished_run_holds(folder: Path) -> None:
    """Failed, broken and equal lines have their one result each; a false alarm would make the true one ignored."""
    found = told(folder)
    assert (found["lines"], found["answered"], found["failed"]) == (RECORDS + len(ODD) + 1, RECORDS + 2, 6)
    assert counts(found) == {}
    shown = run(folder, "verify", "out")
    assert shown.out == (
        "out against in.jsonl: holds: every line has exactly one result\n16 lines: 10 answered, 6 failed\n"
    )
    assert (shown.status, shown.err) == (0, "")


def test_new_lines_are_named_as_pending_and_answered_by_the_next_run(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The line numbers lead straight to what is missing; only the first are shown of many."""
    with (folder / "in.jsonl").open("a") as file:
        file.writelines(f'{{"prompt":"new [[r-{n}]]?"}}\n' for n in range(100, 130))
    found = told(folder, status=1)
    assert counts(found) == {"pending": 30}
    begin = len((folder / "in.jsonl").read_bytes().splitlines()) - 29
    assert found["findings"]["pending"]["first"] == [str(n) for n in range(begin, begin + 20)]
    assert "30 pending: input lines without a result (" in run(folder, "verify", "out").out
    call = ("run", "in.jsonl", "-o", "out", "--base-url", upstream({}).base_url, "--model", "m")
    assert run(folder, *call).status == 1
    assert counts(told(folder)) == {}


def test_a_result_without_its_line_is_superseded_and_does_no_harm(folder: Path) -> None:
    """Inputs are edited between runs; what was answered before stays, and must be told apart from what is wrong."""
    change(folder / "in.jsonl", lambda lines: lines[2:])
    found = told(folder)
    assert counts(found) == {"superseded": 2}
    (first, second) = found["findings"]["superseded"]["first"]
    for place in (first, second):
        line = (folder / "out" / RESULTS).read_bytes().splitlines()[int(place.removeprefix("results.jsonl:")) - 1]
        assert json.loads(line)["id"] in (0, 1)


@pytest.mark.parametrize(("name", "places"), [(RESULTS, "results.jsonl:11"), (DEAD_LETTERS, "dead_letters.jsonl:7")])
def test_a_doubled_result_is_named(folder: Path, name: str, places: str) -> None:
    """Two results of one record make every sum over the file wrong, whichever file the second is in."""
    lines = (folder / "out" / RESULTS).read_bytes().splitlines(keepends=True)
    with (folder / "out" / name).open("ab") as file:
        file.write(lines[0])
    found = told(folder, status=1)
    assert counts(found) == {"duplicates": 1}
    assert found["findings"]["duplicates"]["first"] == [places]


def test_a_changed_input_in_a_result_is_found(folder: Path) -> None:
    """A result that tells another question than the one that was answered misleads everybody who reads it."""
    change(folder / "out" / RESULTS, lambda lines: [lines[0].replace(b"right?", b"wrong?", 99), *lines[1:]])
    found = told(folder, status=1)
    assert found["findings"]["mismatched"] == {"count": 1, "first": ["results.jsonl:1"]}


@pytest.mark.parametrize("name", [RESULTS, DEAD_LETTERS, REWRITES])
@pytest.mark.parametrize("damage", ["torn", "zeros", "middle"])
def test_damage_is_named_once_repaired_and_then_missing_only(folder: Path, name: str, damage: str) -> None:
    """Whoever looks after a crash must learn what it cost, and need not start a paid run for the repair."""
    half = b'{"schema":1,"key":"00'

    def spoil(lines: list[bytes]) -> list[bytes]:
        last = {"torn": half, "zeros": half + b"\0" * 5000, "middle": b""}[damage]
        return [*lines[:-2], *([half + b"\n"] if damage == "middle" else []), lines[-1], last]

    change(folder / "out" / name, spoil)
    found = told(folder, status=1)
    kind = "damaged" if damage == "middle" else "torn"
    assert found["findings"][kind]["count"] == 1
    assert len(found["repaired"]) == 1
    lost = {} if name == REWRITES else {"pending": 1}
    assert counts(found) == {kind: 1, **lost} | {k: v for k, v in counts(found).items() if k == "rewrites_waiting"}
    again = told(folder, status=1 if lost else 0)
    assert again["repaired"] == []
    assert {k: v for k, v in counts(again).items() if k != "rewrites_waiting"} == lost


def test_a_copy_elsewhere_is_proved_against_the_input_that_is_named(folder: Path, tmp_path: Path) -> None:
    """Results are handed to others with their input; they must be able to check what they got."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(folder / "out", elsewhere / "out")
    done = run(elsewhere, "verify", "out")
    assert (done.status, done.out) == (2, "")
    assert "in.jsonl: the input that run.json names is not there; give it" in done.err
    (elsewhere / "other.jsonl.gz").write_bytes(gzip.compress((folder / "in.jsonl").read_bytes()))
    assert counts(told(elsewhere, "other.jsonl.gz")) == {}


def test_no_run_is_told_with_status_2(tmp_path: Path) -> None:
    """A mistyped directory must not look like one in which everything is missing."""
    (tmp_path / "work").mkdir()
    done = run(tmp_path / "work", "verify", "nowhere")
    assert (done.status, done.out) == (2, "")
    assert "no run here" in done.err
    assert not (tmp_path / "work" / "nowhere").exists()


def test_beside_a_run_it_only_looks(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A repair under a run that writes would cut what it is just writing."""
    with (folder / "in.jsonl").open("a") as file:
        file.write('{"prompt":"slow [[r-500]]?"}\n')
    up = upstream({"latency_s": 30})
    with running(folder, "run", "in.jsonl", "-o", "out", "--base-url", up.base_url, "--model", "m") as program:
        up.wait_until(lambda stats: stats.requests > 0)
        with (folder / "out" / RESULTS).open("ab") as file:
            file.write(b'{"schema":1}\n{"schema":1')
        size = (folder / "out" / RESULTS).stat().st_size
        found = told(folder, status=1)
        assert found["running"]
        assert counts(found) == {"pending": 1, "damaged": 1}
        assert found["repaired"] == []
        assert (folder / "out" / RESULTS).stat().st_size == size
        program.kill()
    assert told(folder, status=1)["repaired"], "now nobody holds it"


def test_rewrites_made_first_are_results_of_their_run_and_wait_for_the_next(
    tmp_path: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A run that stops after stage 1 is complete with its rewrites; the run after it is not."""
    work = tmp_path / "work"
    work.mkdir()
    write_input(work / "in.jsonl", range(4))
    call = ("run", "in.jsonl", "-o", "out", "--base-url", upstream({}).base_url, "--model", "m")
    assert run(work, *call, "--only", "rewrite").status == 0
    assert counts(told(work)) == {}
    assert run(work, *call, "--limit", "1").status == 0
    assert counts(told(work, status=1)) == {"pending": 3, "rewrites_waiting": 3}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_loss_and_every_double_is_counted_and_nothing_else(
    made: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is taken from or put into the files, in whatever order, the numbers are those of the change."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("copy") / "work")
    path = folder / "out" / RESULTS
    lines = path.read_bytes().splitlines(keepends=True)
    times = [data.draw(st.integers(0, 2)) for _ in lines]
    kept = data.draw(st.permutations([line for line, n in zip(lines, times, strict=True) for _ in range(n)]))
    path.write_bytes(b"".join(kept))
    found: Verdict = verify(folder / "out", [str(folder / "in.jsonl")])
    assert found.findings["pending"].count == times.count(0)
    assert found.findings["duplicates"].count == times.count(2)
    assert found.findings["mismatched"].count == found.findings["damaged"].count == 0
    assert found.holds == (times == [1] * len(lines))


def test_every_line_of_a_run_holds_its_input_and_no_other(made: Path) -> None:
    """The proof by content is worth nothing if it passes the neighbour's key."""
    lines = [
        line for name in (RESULTS, DEAD_LETTERS, REWRITES) for line in (made / "out" / name).read_bytes().splitlines()
    ]
    for line in lines:
        assert holds_its_input(line, key_of(line))
        raw = json.loads(line).get("raw") or ""
        if "\\x" not in raw and not raw.endswith(" [cut]"):
            assert not holds_its_input(line, b"0" * 32)


@pytest.mark.parametrize("inner", ['null,"more":1', 'null,"raw":7', '{"a":1}', "null", '"text"'])
@pytest.mark.parametrize("place", ["answer", "input"])
def test_fields_named_as_ours_mislead_nobody(inner: str, place: str) -> None:
    """Schemas and inputs are the user's own: their `input` must neither hide the line's, nor end the proof."""
    theirs = '{"prompt":"q","started_at":"x","seconds":1,"input":' + inner + "}"
    given = theirs if place == "input" else '{"prompt":"q"}'
    answer = theirs if place == "answer" else "null"
    key = line_hash(given.encode()).hex()
    line = f'{{"schema":1,"key":"{key}","answer":{answer},"started_at":"t","seconds":0.1,"input":{given}}}'.encode()
    json.loads(line)
    assert holds_its_input(line, key.encode())
    assert not holds_its_input(line, b"0" * 32)
    assert not holds_its_input(line, "é".encode() * 16)


def test_a_damaged_old_line_is_met_by_the_resume_and_the_proof_holds_again(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Zeros of a bad sector in an old line must cost that record a second asking, not be passed over in silence."""
    path = folder / "out" / RESULTS
    change(path, lambda lines: [lines[0][:50] + b"\0" * 9 + lines[0][59:], *lines[1:]])
    call = ("run", "in.jsonl", "-o", "out", "--base-url", upstream({}).base_url, "--model", "m")
    done = run(folder, *call)
    assert "results.jsonl: moved 1 damaged lines" in done.err
    assert counts(told(folder)) == {}
