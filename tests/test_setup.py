"""A look ahead refuses what the run would refuse, in the same words, and costs no second."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from s2a_batch.errors import JobError
from s2a_batch.resume import Options
from s2a_batch.setup import check_directory
from tests.fakes import a_job
from tests.processes import RUN, read_lines, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Upstream

RECORDS = 3
HERE = ("--base-url", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "answer.limits.open_requests=2"], "answer.limits: both stages use one account and model"),
        (["--set", "rewrite.limits.tokens_per_minute=9"], "share [limits]"),
        (["--set", "budget.max_cost_usd=1"], "budget.max_cost_usd: no price is known"),
        (["--set", "api_key_file=missing"], "rewrite.api_key_file: missing cannot be read"),
        (["--set", "rewrite.headers_env={X-Gateway='GATEWAY'}"], "the environment has no GATEWAY"),
        (["--set", "answer.class=json:loads"], "not a pydantic model"),
        (["-o", "in.jsonl/out"], "in.jsonl/out: cannot be the run's directory"),
        (["--set", "input=missing.jsonl"], "missing.jsonl: cannot read the input"),
    ],
)
def test_a_dry_run_and_a_run_refuse_alike(folder: Path, more: list[str], says: str) -> None:
    """What only the run finds is found at night, and what only the look finds keeps a good job from running."""
    ahead, real = (run(folder, *RUN, *HERE, *more, *dry) for dry in (["--dry-run"], []))
    assert (ahead.status, real.status) == (2, 2), ahead.err + real.err
    assert says in ahead.err
    assert says in real.err
    assert not (folder / "out").exists()


def test_what_lies_in_the_directory_is_judged_as_a_run_judges_it(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Results without the manifest that says how they were made may be anybody's."""
    where = ("--base-url", upstream({}).base_url)
    assert run(folder, *RUN, *where).status == 0
    (folder / "out" / "run.json").unlink()
    for dry in (["--dry-run"], []):
        changed = run(folder, *RUN, *where, "--set", "rewrite.seed=1", *dry)
        assert changed.status == 2
        assert "which ones is unknown" in changed.err
        own = run(folder, *RUN, "-o", "out", *where, "--set", "input=out/results.jsonl", *dry)
        assert own.status == 2
        assert "a run cannot read what it writes" in own.err
    same = run(folder, *RUN, *where, "--dry-run")
    assert (same.status, same.out) == (0, "3 lines: 0 pending, 3 done; about 0 requests, about 0 tokens of prompts\n")
    assert run(folder, *RUN, *where).status == 0
    assert len(read_lines(folder / "out" / "results.jsonl")) == RECORDS


def test_a_place_where_nothing_can_be_written_is_told_ahead(tmp_path: Path) -> None:
    """A link to a disk that is not mounted is the classic of the night."""
    (tmp_path / "in.jsonl").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere" / "disk")
    job = a_job(input=tmp_path / "in.jsonl", output=tmp_path / "gone" / "out")
    with pytest.raises(JobError, match=r"nothing can be written in .*gone"):
        check_directory(job, Options())
    check_directory(a_job(input=tmp_path / "in.jsonl", output=tmp_path / "new" / "deep" / "out"), Options())


@pytest.mark.parametrize("command", [["run", "--dry-run"], ["estimate"]])
def test_a_look_ahead_loads_no_sdk(folder: Path, command: list[str]) -> None:
    """It is asked for often, and in scripts; a second for nothing each time is why people stop to look."""
    name, *more = command
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "s2a_batch", name, *RUN[1:], *HERE, *more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "s2a_batch.setup" in loaded, "the measure itself"
    assert not loaded & {"openai", "instructor", "httpx2", "aiohttp", "s2a_batch.worker"}
