"""Rewrites that need not be asked for: of this run, and of another one that the job names."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch.errors import JobError
from s2a_batch.keys import KeyIndex
from s2a_batch.rewrites import FinishedRewrites
from tests.fakes import a_job
from tests.processes import RUN, read_lines, run, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Upstream

RECORDS = 8


def test_rewrites_of_another_run_are_used_whatever_made_them(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Several kinds of answers can be tried on rewrites that were paid for, and looked at, once."""
    up = upstream({})
    url = ("--base-url", up.base_url)
    assert run(folder, *RUN, *url, "--only", "rewrite", "--set", "rewrite.temperature=1").status == 0
    first = [*RUN[:3], "other", *RUN[4:], *url, "--set", "rewrites=out"]
    assert run(folder, *first).status == 0
    assert up.stats().by_stage == {"rewrite": RECORDS, "answer": RECORDS}
    lent = {line["key"]: line["rewrite"] for line in read_lines(folder / "out" / "rewrites.jsonl")}
    results = read_lines(folder / "other" / "results.jsonl")
    assert {line["key"]: line["rewrite"] for line in results} == lent
    assert all(len(line["stages"]["rewrite"]["attempts"]) == 1 for line in results), "their audit comes with them"
    assert all(line["stages"]["rewrite"]["borrowed"] and not line["stages"]["answer"]["borrowed"] for line in results)
    told = json.loads(run(folder, "report", "other", "--json").out)
    assert [told["stages"][name]["requests"] for name in ("rewrite", "answer")] == [0, RECORDS]
    again = run(folder, *first)
    assert (again.status, up.stats().requests) == (0, 2 * RECORDS)


def test_what_the_other_run_lacks_is_asked_for(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The input may have grown since."""
    up = upstream({})
    url = ("--base-url", up.base_url)
    assert run(folder, *RUN, *url, "--only", "rewrite", "--limit", "5").status == 0
    assert run(folder, *RUN[:3], "other", *RUN[4:], *url, "--set", "rewrites=out").status == 0
    assert up.stats().by_stage == {"rewrite": RECORDS, "answer": RECORDS}
    assert len(read_lines(folder / "other" / "rewrites.jsonl")) == RECORDS, "the other run is needed no more"


def test_a_directory_without_rewrites_is_refused(tmp_path: Path) -> None:
    """A typo in its name would pay for all of them again."""
    with (
        KeyIndex() as keys,
        pytest.raises(JobError, match="'rewrites' names the directory of another run"),
        FinishedRewrites(a_job(output=tmp_path / "out", rewrites=tmp_path / "typo"), keys, sound_only=False),
    ):
        pass


def test_a_rewrite_of_other_settings_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    """A changed prompt must show in the answers."""
    line = b'{"schema":1,"key":"k","fingerprint":"old","rewrite":{"relevant_context":"c","user_query":"q","raw":"r"},'
    line += b'"checks":[{"name":"n","level":"error","message":"m"}],"stages":{"rewrite":null}}\n'
    (tmp_path / "rewrites.jsonl").write_bytes(line)

    async def find(other: Path | None, fingerprint: str, *, sound_only: bool = False) -> bool:
        job = a_job(output=tmp_path, rewrites=other, answer={"on_failed_check": "fail"})
        with KeyIndex() as keys, FinishedRewrites(job, keys, sound_only=sound_only) as rewrites:
            keys.add_rewrites([(b"k", 0), (b"another", 0)])
            assert await rewrites.find("another", fingerprint) is None, "its place holds another record's line now"
            return await rewrites.find("k", fingerprint) is not None

    assert anyio.run(find, None, "old")
    assert not anyio.run(find, None, "new")
    assert not anyio.run(functools.partial(find, None, "old", sound_only=True))
    assert anyio.run(find, tmp_path, "new")


def test_rewrites_alone_can_be_borrowed(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A run that says it is done must hold what it was run for."""
    up = upstream({})
    url = ("--base-url", up.base_url)
    assert run(folder, *RUN, *url, "--only", "rewrite").status == 0
    other = [*RUN[:3], "other", *RUN[4:], *url, "--set", "rewrites=out", "--only", "rewrite"]
    assert run(folder, *other).status == 0
    assert len(read_lines(folder / "other" / "rewrites.jsonl")) == up.stats().requests == RECORDS
    assert run(folder, "verify", "other").status == 0
    assert "nothing to do" in run(folder, *other).err


def test_a_run_cannot_borrow_from_itself(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """It would take rewrites of other settings for its own."""
    url = ("--base-url", upstream({}).base_url)
    assert run(folder, *RUN, *url, "--only", "rewrite").status == 0
    done = run(folder, *RUN, *url, "--set", "rewrites=out")
    assert (done.status, "is this run itself" in done.err) == (2, True)


def test_a_lender_that_goes_away_is_missed_by_nobody(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Its directory may be cleared while another run goes on; what it had is asked for."""
    up = upstream({})
    url = ("--base-url", up.base_url)
    assert run(folder, *RUN, *url, "--only", "rewrite").status == 0
    upstream({"latency_s": 0.1})
    slow = [*RUN[:3], "other", *RUN[4:-1], "1", *url, "--set", "rewrites=out"]
    with running(folder, *slow) as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) >= 2)
        (folder / "out").rename(folder / "gone")
        assert program.wait().status == 0
    assert len(read_lines(folder / "other" / "results.jsonl")) == RECORDS
