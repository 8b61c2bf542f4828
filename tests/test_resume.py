"""The same command again does the rest and nothing else; a changed job or input is met with the right difference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from s2a_batch.job import fingerprint
from s2a_batch.keys import key_text, line_hash
from s2a_batch.resume import compare, settings_of
from tests.fakes import a_job
from tests.processes import RUN, Done, JsonObject, read_lines, run, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import JsonValue

    from tests.server import Plan, Reply, Upstream

RECORDS = 8
FILES = ("results.jsonl", "dead_letters.jsonl", "rewrites.jsonl")
REFUSE: Reply = {"status": 400, "error": {"message": "no"}}


class Work:
    """A folder with an input, and an upstream to run it against."""

    def __init__(self, folder: Path, up: Upstream) -> None:
        self.folder, self.up, self.out = folder, up, folder / "out"
        self.input = folder / "in.jsonl"

    def run(self, *more: str, model: str = "m", requests: int | None = None, status: int = 0) -> Done:
        """Run it; check its exit status and how many requests it made."""
        before = self.up.stats().requests
        done = run(self.folder, *RUN, "--base-url", self.up.base_url, "--model", model, *more)
        assert done.status == status, done.err
        assert requests is None or self.up.stats().requests - before == requests, done.err
        return done

    def rewrite_input(self, change: Callable[[list[str]], list[str]]) -> None:
        """Change the input's lines."""
        lines = self.input.read_text().splitlines(keepends=True)
        self.input.write_text("".join(change(lines)))

    def ids(self, name: str = "results.jsonl") -> list[int]:
        """The ids in a file, sorted."""
        return sorted(line["id"] for line in read_lines(self.out / name))


@pytest.fixture
def work(folder: Path, upstream: Callable[[Plan], Upstream]) -> Work:
    return Work(folder, upstream({}))


def new_line(n: int) -> str:
    return json.dumps({"id": n, "prompt": f"Is [[r-{n}]] new?"}) + "\n"


def test_a_finished_job_asks_nothing_and_changes_no_result(work: Work) -> None:
    """A cron job that starts it every night must be free once all is done."""
    work.run(requests=2 * RECORDS)
    before = {name: (work.out / name).read_bytes() for name in FILES}
    done = work.run(requests=0)
    assert done.err.startswith("nothing to do")
    assert f"{RECORDS} done before" in done.err
    assert {name: (work.out / name).read_bytes() for name in FILES} == before


def test_an_empty_input_is_nothing_to_do(work: Work) -> None:
    """A night without new lines is a good night."""
    work.input.write_text("\n \n")
    assert "nothing to do" in work.run(requests=0).err


@pytest.mark.parametrize(
    ("change", "new", "gone"),
    [
        (lambda lines: [*lines, new_line(90)], 1, 0),
        (lambda lines: [lines[0], new_line(90), *lines[1:]], 1, 0),
        (lambda lines: [new_line(90), *lines], 1, 0),
        (lambda lines: lines[::-1], 0, 0),
        (lambda lines: [*lines[:3], lines[3].replace("think", "know"), *lines[4:]], 1, 1),
        (lambda lines: lines[2:], 0, 2),
        (lambda lines: [line.replace("\n", " \r\n") for line in lines], 0, 0),
        (lambda lines: ["\n", *lines[:-1], lines[-1].rstrip()], 0, 0),
        (lambda lines: ["\ufeff", *lines], 0, 0),
        (lambda lines: [*lines, lines[0], lines[0]], 2, 0),
    ],
    ids=["append", "insert", "first", "reverse", "edit", "remove", "crlf", "blank, no end", "bom", "equal lines"],
)
def test_only_what_is_new_in_the_input_is_asked(
    work: Work, change: Callable[[list[str]], list[str]], new: int, gone: int
) -> None:
    """Inputs grow and are corrected between nights; what was answered must not be paid again, nor mixed up."""
    work.run(requests=2 * RECORDS)
    before = (work.out / "results.jsonl").read_bytes()
    work.rewrite_input(change)
    done = work.run(requests=2 * new)
    after = (work.out / "results.jsonl").read_bytes()
    assert after.startswith(before), "earlier results stay as they are"
    assert len(read_lines(work.out / "results.jsonl")) == RECORDS + new
    assert (f"{gone} superseded" in done.err) == bool(gone)
    work.run(requests=0)


def test_equal_lines_are_as_many_records(work: Work) -> None:
    """Somebody who asks the same three times wants three answers, also when one is taken away again."""
    line = new_line(5)
    work.input.write_text(line * 3)
    work.run(requests=6)
    keys = [found["key"] for found in read_lines(work.out / "results.jsonl")]
    assert sorted(keys) == sorted(key_text(line_hash(line.strip().encode()), n) for n in range(3))
    work.input.write_text(line * 2)
    assert "1 superseded" in work.run(requests=0).err


def test_dead_letters_stay_dead_until_somebody_asks(work: Work) -> None:
    """A refused record costs money each time; only a person knows that trying again makes sense."""
    work.up.replan({"rules": [{"when": {"stage": "answer", "contains": "[[r-3]]"}, "replies": [REFUSE]}]})
    work.rewrite_input(lambda lines: [*lines, "{broken\n"])
    work.run(status=1)
    dead = (work.out / "dead_letters.jsonl").read_bytes()
    done = work.run(requests=0, status=1)
    assert "2 of them failed" in done.err
    assert (work.out / "dead_letters.jsonl").read_bytes() == dead
    work.up.replan({})
    work.rewrite_input(lambda lines: lines[:-1])
    done = work.run("--retry-failed", requests=1)
    assert "dead_letters.1.jsonl" in done.err
    assert (work.out / "dead_letters.1.jsonl").read_bytes() == dead
    assert work.ids() == list(range(RECORDS))
    assert work.ids("dead_letters.jsonl") == []
    work.run("--retry-failed", requests=0)


def test_a_record_that_fails_again_has_one_dead_letter(work: Work) -> None:
    """Whoever counts the lines of both files must come to the number of records, however often they were tried."""
    work.up.replan({"rules": [{"when": {"stage": "rewrite", "contains": "[[r-3]]"}, "replies": [REFUSE]}]})
    work.run(status=1)
    for n in (1, 2):
        work.run("--retry-failed", requests=1, status=1)
        assert work.ids("dead_letters.jsonl") == work.ids(f"dead_letters.{n}.jsonl") == [3]
    assert work.ids() == [n for n in range(RECORDS) if n != 3]


def test_rewrites_made_first_leave_the_answers_open(work: Work) -> None:
    """Whoever audits the rewrites first decides about the answers after; answers that lie there stay guarded."""
    work.run("--only", "rewrite", requests=RECORDS)
    work.run("--answer", "int", requests=RECORDS)
    work.run("--only", "rewrite", requests=0)
    assert "answer.type" in work.run("--answer", "float", requests=0, status=2).err
    assert "rewrite.preset" in work.run("--only", "rewrite", "--set", "rewrite.preset=unbiased", status=2).err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "other"], 'rewrite.model: "m" -> "other"'),
        (["--answer", "int"], 'answer.type: "text" -> "int"'),
        (["--set", "rewrite.preset=unbiased"], 'rewrite.preset: "relevance" -> "unbiased"'),
        (["--set", "answer.temperature=0.5"], "answer.temperature: null -> 0.5"),
        (["--set", "fields.prompt=id"], 'fields.prompt: "prompt" -> "id"'),
    ],
    ids=["model", "type", "preset", "temperature", "field"],
)
def test_a_job_that_would_answer_otherwise_is_refused_with_what_changed(work: Work, more: list[str], says: str) -> None:
    """Half a file by one model and half by another looks like one result; nobody would find out later."""
    work.run("--limit", "3")
    before = (work.out / "results.jsonl").read_bytes(), (work.out / "run.json").read_bytes()
    done = work.run(*more, requests=0, status=2)
    assert says in done.err
    assert "--accept-changes" in done.err
    assert ((work.out / "results.jsonl").read_bytes(), (work.out / "run.json").read_bytes()) == before
    work.run(requests=2 * (RECORDS - 3))


def test_accepted_changes_go_on_and_mark_each_result(work: Work) -> None:
    """Sometimes the mix is wanted; then each line must say which settings it came from."""
    work.run("--limit", "3")
    work.run("--accept-changes", model="other", requests=2 * (RECORDS - 3))
    marks = [line["fingerprint"] for line in read_lines(work.out / "results.jsonl")]
    assert [marks.count(mark) for mark in dict.fromkeys(marks)] == [3, RECORDS - 3]
    work.run(model="other", requests=0)


def test_fresh_starts_anew_and_keeps_the_old(work: Work) -> None:
    """A new beginning in the same place must not destroy what was paid for."""
    work.run("--limit", "3")
    old = (work.out / "results.jsonl").read_bytes()
    done = work.run("--fresh", model="other", requests=2 * RECORDS)
    assert "old-1" in done.err
    assert (work.out / "old-1" / "results.jsonl").read_bytes() == old
    assert work.ids() == list(range(RECORDS))


@pytest.mark.parametrize("moved", [[], ["run.json"], ["run.json", "results.jsonl"]])
def test_a_new_start_that_was_killed_is_a_new_start(work: Work, moved: list[str]) -> None:
    """A kill in the middle of --fresh must not mix half of the old run into the new one."""
    work.run("--limit", "3")
    half = work.out / "old-1.part"
    half.mkdir()
    for name in moved:
        (work.out / name).rename(half / name)
    done = work.run(requests=2 * RECORDS)
    assert "old-1" in done.err
    assert len(read_lines(work.out / "old-1" / "results.jsonl")) == 3


def manifest_of(work: Work) -> JsonObject:
    found: JsonObject = json.loads((work.out / "run.json").read_text())
    return found


def test_the_fingerprint_is_that_of_the_settings_beside_it(work: Work) -> None:
    """Lines are traced to their settings by it; one that matches nothing makes an audit stop."""
    only, typed = ["--only", "rewrite"], ["--answer", "int"]
    for more in ([], only, [*typed, "--accept-changes"], only, typed, [*only, "--answer", "float"]):
        work.rewrite_input(lambda lines: [*lines, new_line(90 + len(lines))])
        work.run(*more)
        found = manifest_of(work)
        assert found["fingerprint"] == fingerprint(found["settings"]), more
        of_rewrites = {name: value for name, value in found["settings"].items() if not name.startswith("answer.")}
        assert read_lines(work.out / "rewrites.jsonl")[-1]["fingerprint"] == fingerprint(of_rewrites), more
        assert "answer.type" in found["settings"]


def test_an_accepted_change_of_the_rewrite_pays_rewrites_anew(work: Work) -> None:
    """An answer from an old rewrite under the new fingerprint would be a lie in the audit."""
    work.run("--only", "rewrite", requests=RECORDS)
    work.run("--set", "rewrite.preset=unbiased", "--accept-changes", "--limit", "3", requests=6)
    work.run("--set", "rewrite.preset=unbiased", "--accept-changes", "--set", "answer.temperature=0", requests=10)
    results = read_lines(work.out / "results.jsonl")
    systems = {line["stages"]["rewrite"]["messages"][0]["content"] for line in results}
    assert (len(results), len(systems)) == (RECORDS, 1)


def test_a_lost_manifest_lets_the_same_job_go_on_and_no_other(work: Work) -> None:
    """The lines are the checkpoint; but answers of another model must not come among them without a word."""
    work.run("--only", "rewrite", "--limit", "2")
    work.run("--limit", "3")
    (work.out / "run.json").unlink()
    assert "--accept-changes" in work.run(model="other", requests=0, status=2).err
    assert not (work.out / "run.json").exists()
    work.run("--limit", "1", requests=2)
    (work.out / "run.json").unlink()
    work.run("--accept-changes", model="other", requests=2 * (RECORDS - 4))


def test_what_cannot_change_an_answer_may_change(work: Work) -> None:
    """Tuning the speed, a new key or another proxy in the middle of a large job must not cost what is done."""
    work.run("--limit", "3")
    other = work.up.base_url.replace("127.0.0.1", "localhost")
    job = (
        f'input = "in.jsonl"\noutput = "out"\nmodel = "m"\nbase_url = "{other}"\napi_key_env = "OTHER_KEY"\n'
        'fsync_s = 0\nmessages = "hash"\n[limits]\nopen_requests = 2\nrequests_per_minute = 6000\n'
        "[retry]\nattempts = 3\n"
    )
    (work.folder / "job.toml").write_text(job)
    before = work.up.stats().requests
    done = run(work.folder, "run", "job.toml", environ={"OTHER_KEY": "sk-another-key"})
    assert done.status == 0, done.err
    assert work.up.stats().requests - before == 2 * (RECORDS - 3)


def test_rewrites_made_first_are_not_paid_again(work: Work) -> None:
    """Reading the rewrites before a cent goes into answers is the point of stopping after stage 1."""
    done = work.run("--only", "rewrite", requests=RECORDS)
    assert f"{RECORDS} rewritten" in done.err
    assert "nothing to do" in work.run("--only", "rewrite", requests=0).err
    assert work.ids("rewrites.jsonl") == list(range(RECORDS))
    assert work.ids() == []
    work.run(requests=RECORDS)
    assert work.up.stats().by_stage == {"rewrite": RECORDS, "answer": RECORDS}
    assert work.ids() == list(range(RECORDS))


@pytest.mark.parametrize("name", ["results.jsonl", "rewrites.jsonl"])
@pytest.mark.parametrize("damage", ["torn", "zeros", "middle"])
def test_a_damaged_checkpoint_is_repaired_said_and_resumed_to_the_same_set(work: Work, name: str, damage: str) -> None:
    """After a power cut the same command must be all that a person has to do."""
    work.run()
    path = work.out / name
    lines = path.read_bytes().splitlines(keepends=True)
    half = lines[-1][: len(lines[-1]) // 2]
    content = {"torn": [*lines[:-1], half], "zeros": [*lines[:-1], half, b"\0" * 4096]}
    path.write_bytes(b"".join(content.get(damage, [lines[0], half, b"\n", *lines[2:]])))
    done = work.run(requests=name == "results.jsonl")
    assert done.err.startswith(f"{name}: ")
    assert work.ids() == list(range(RECORDS))
    work.run(requests=0)


def test_a_damaged_manifest_is_named_and_fresh_goes_on(work: Work) -> None:
    """Guessing the settings of an earlier run would mix answers; a person must decide, and be told how."""
    work.run()
    (work.out / "run.json").write_bytes(b'{"s2a')
    done = work.run(requests=0, status=2)
    assert "run.json: cannot be read" in done.err
    work.run("--fresh", requests=2 * RECORDS)


@pytest.mark.parametrize("name", FILES)
def test_a_run_never_reads_what_it_writes(work: Work, name: str) -> None:
    """Its own dead letters as input would grow with each line read, for ever."""
    work.run()
    (work.folder / "link").symlink_to(work.out)
    for source in (f"out/{name}", f"link/../out/{name}", f"link/{name}"):
        done = run(work.folder, "run", source, "-o", "out", "--base-url", work.up.base_url, "--model", "m")
        assert done.status == 2
        assert "cannot read what it writes" in done.err


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({}, {}, []),
        ({}, {"limits": {"open_requests": 2}}, []),
        ({}, {"answer": {"type": "int"}}, ["answer.type"]),
        ({}, {"only": "rewrite", "answer": {"type": "int"}}, []),
        ({"only": "rewrite"}, {"answer": {"type": "int"}}, []),
        ({"only": "rewrite"}, {"only": "rewrite", "rewrite": {"seed": 1}}, ["rewrite.seed"]),
        ({"only": "rewrite"}, {"model": "m2"}, ["rewrite.model"]),
        ({}, {"model": "m2"}, ["answer.model", "rewrite.model"]),
        ({}, {"only": "rewrite", "fields": {"prompt": "p"}}, ["fields.prompt"]),
    ],
)
def test_what_changed_is_what_can_change_a_result_that_lies_there(
    old: dict[str, object], new: dict[str, object], changed: list[str]
) -> None:
    """A run and its dry run must come to one verdict; one too strict costs a night, one too lax its results."""
    job = a_job(**new)
    manifest: dict[str, JsonValue] = {"settings": settings_of(a_job(**old))}
    found = compare(manifest, settings_of(job), job.only)
    assert [line.partition(":")[0] for line in found] == changed
    assert compare(None, settings_of(job), job.only) == []


def test_memory_does_not_grow_with_what_is_done(work: Work) -> None:
    """The tenth night of a huge job resumes on the same small machine as the first."""
    template = ""
    peaks = []
    for count in (2_000, 20_000):
        write_input(work.input, range(count))
        if not template:
            work.run("--limit", "1")
            (first,) = (work.out / "results.jsonl").read_text().splitlines(keepends=True)
            template = first.replace(json.loads(first)["key"], "KEY").replace("[[r-0]]", "[[r-N]]")
        keys = [line_hash(line).hex() for line in work.input.read_bytes().splitlines()]
        done = "".join(template.replace("KEY", key) for key in keys[:-200])
        for name in ("results.jsonl", "rewrites.jsonl"):
            (work.out / name).write_text(done)
        peaks.append(work.run(requests=400).peak_kib)
        assert len((work.out / "results.jsonl").read_bytes().splitlines()) == count
    assert peaks[1] < 1.1 * peaks[0]
