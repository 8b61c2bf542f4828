"""Rewrites that need not be asked for: of this run, and of another one that the job names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch.errors import JobError
from s2a_batch.keys import KeyIndex
from s2a_batch.rewrites import FinishedRewrites
from tests.processes import RUN, read_lines, run

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
    again = run(folder, *first)
    assert (again.status, up.stats().requests) == (0, 2 * RECORDS)


def test_what_the_other_run_lacks_is_asked_for(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The input may have grown since."""
    up = upstream({})
    url = ("--base-url", up.base_url)
    assert run(folder, *RUN, *url, "--only", "rewrite", "--limit", "5").status == 0
    assert run(folder, *RUN[:3], "other", *RUN[4:], *url, "--set", "rewrites=out").status == 0
    assert up.stats().by_stage == {"rewrite": RECORDS, "answer": RECORDS}
    assert len(read_lines(folder / "other" / "rewrites.jsonl")) == RECORDS - 5


def test_a_directory_without_rewrites_is_refused(tmp_path: Path) -> None:
    """A typo in its name would pay for all of them again."""
    with (
        KeyIndex() as keys,
        pytest.raises(JobError, match="'rewrites' names the directory of another run"),
        FinishedRewrites(tmp_path, keys, tmp_path / "typo"),
    ):
        pass


def test_a_rewrite_of_other_settings_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    """A changed prompt must show in the answers."""
    line = b'{"schema":1,"key":"k","fingerprint":"old","rewrite":{"relevant_context":"c","user_query":"q","raw":"r"},'
    line += b'"checks":[],"stages":{"rewrite":null}}\n'
    (tmp_path / "rewrites.jsonl").write_bytes(line)

    async def find(other: Path | None, fingerprint: str) -> bool:
        with KeyIndex() as keys, FinishedRewrites(tmp_path, keys, other) as rewrites:
            keys.add_rewrites([(b"k", 0)])
            return await rewrites.find("k", fingerprint) is not None

    assert anyio.run(find, None, "old")
    assert not anyio.run(find, None, "new")
    assert anyio.run(find, tmp_path, "new")
