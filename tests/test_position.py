"""How far the input has been read: the bytes of the file as it lies on the disk, by which a run tells what is left."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest

from s2a_batch import source
from s2a_batch.forms import Fields
from s2a_batch.job import Job
from s2a_batch.keys import KeyIndex
from s2a_batch.resume import Options
from s2a_batch.worker import run_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s2a_batch.live import Live
    from tests.server import Plan, Upstream

BLOCK = 1 << 20


def ask(text: str, **more: object) -> bytes:
    """One good line without its end."""
    return json.dumps({"prompt": text, **more}).encode()


def positions(path: Path) -> list[int]:
    """Up to which byte of the file each line was read when it came out."""
    reached: list[int] = []
    found: list[int] = []

    async def all_of() -> None:
        with KeyIndex() as keys:
            async with aclosing(source.records(path, Fields(), keys, reached=reached.append)) as records:
                found.extend([reached[-1] async for _ in records])

    asyncio.run(all_of())
    return found


def test_the_position_is_that_in_the_file_whatever_the_lines_hold(tmp_path: Path) -> None:
    """What is left is reckoned from it: long bad lines and blank ones are bytes of the file like all others."""
    lines = [ask("one"), b"", b"x" * 5000, b" " * 300, ask("two"), b"{" * 2 * BLOCK, ask("three")]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    ends = [sum(len(line) + 2 for line in lines[: n + 1]) for n in range(len(lines))]
    ends[-1] = path.stat().st_size
    assert positions(path) == [end for end, line in zip(ends, lines, strict=True) if line.strip()]


def test_the_position_in_a_packed_file_is_that_of_its_packed_bytes(tmp_path: Path) -> None:
    """A packed file's size is known as well; a night on one shows what is left too."""
    members = [b"".join(ask("word " * (n % 50), n=n) + b"\n" for n in range(20_000))] * 3
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(member) for member in members) + b"\0" * 512)
    size = path.stat().st_size
    found = positions(path)
    assert found == sorted(found)
    for n in range(0, len(found), 1000):
        assert found[n] / size == pytest.approx(n / len(found), abs=0.05)
    assert size - 1024 <= found[-1] <= size


@pytest.mark.parametrize(("limit", "expected"), [(6, (6, 6)), (None, (45, 75))])
def test_a_run_knows_from_its_first_answers_how_much_is_left(
    tmp_path: Path, upstream: Callable[[Plan], Upstream], limit: int | None, expected: tuple[int, int]
) -> None:
    """Of a packed file too, and with a limit no more than that: both decide whether somebody waits for the end."""
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b"".join(ask(f"Is [[r-{n}]] so?") + b"\n" for n in range(60))))
    places = {"input": tmp_path / "in.jsonl.gz", "output": tmp_path / "out"}
    job = Job.model_validate({**places, "model": "m", "base_url": upstream({}).base_url})
    seen: list[int] = []

    async def watch(live: Live) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            left = live.tally.left()
            if left is not None and live.tally.answered < 5:
                seen.append(left + live.tally.finished)

    found = run_job(job, Options(limit=limit), say=lambda _: None, watch=watch, environ={})
    assert found.exit_status == 0
    assert expected[0] <= min(seen)
    assert max(seen) <= expected[1]
