"""What `append` returned for is in the file, whole and once, whatever is cancelled or killed or full around it."""

from __future__ import annotations

import os
import resource
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.errors import OutputError
from s2a_batch.sink import Sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
NAMES = ("a.jsonl", "b.jsonl")


@asynccontextmanager
async def running(directory: Path, *, fsync_s: float = 60) -> AsyncIterator[Sink]:
    """A sink that writes while the block lasts."""
    sink = Sink(directory, NAMES, fsync_s=fsync_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sink.run)
        yield sink
        sink.close()


@contextmanager
def full_disk(left_bytes: int) -> Iterator[None]:
    """No file grows beyond this size, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fault_of(group: BaseException) -> BaseException:
    """The one error in nested groups."""
    while isinstance(group, BaseExceptionGroup):
        assert len(group.exceptions) == 1
        group = group.exceptions[0]
    return group


async def test_append_returns_when_the_file_has_the_line(tmp_path: Path) -> None:
    """The caller counts a record as done then; a kill one moment later must find it in the file."""
    async with running(tmp_path) as sink:
        for n in range(3):
            await sink.append("a.jsonl", b'{"n":%d}\n' % n)
            assert (tmp_path / "a.jsonl").read_bytes() == b"".join(b'{"n":%d}\n' % i for i in range(n + 1))


async def test_what_was_there_is_only_added_to(tmp_path: Path) -> None:
    """Append-only is what makes the file a checkpoint; a second run must never write over the first."""
    (tmp_path / "a.jsonl").write_bytes(b"old\n")
    async with running(tmp_path) as sink:
        await sink.append("a.jsonl", b"new\n")
    assert (tmp_path / "a.jsonl").read_bytes() == b"old\nnew\n"


async def test_new_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """They hold prompts; other users of a shared machine have no business in them."""
    before = os.umask(0)
    try:
        async with running(tmp_path):
            pass
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in NAMES} == {0o600}


@settings(max_examples=25, deadline=None)
@given(
    lines=st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(min_value=1, max_value=20_000), st.booleans()), max_size=40
    )
)
def test_the_line_of_a_cancelled_append_is_written_whole_and_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, int, bool]]
) -> None:
    """A second Ctrl-C cancels callers in the middle of an append; half a line or two of one would spoil the file."""
    directory = tmp_path_factory.mktemp("run")

    async def append(sink: Sink, name: str, line: bytes, *, cancelled: bool) -> None:
        with anyio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await sink.append(name, line)

    async def check() -> None:
        async with running(directory, fsync_s=0) as sink, anyio.create_task_group() as callers:
            for n, (name, size, cancelled) in enumerate(lines):
                text = f"{n}:".encode() + b"x" * size + b"\n"

                async def call(name: str = name, text: bytes = text, cancelled: bool = cancelled) -> None:
                    await append(sink, name, text, cancelled=cancelled)

                callers.start_soon(call)

    anyio.run(check)
    for name in NAMES:
        found = (directory / name).read_bytes().splitlines(keepends=True)
        wanted = [f"{n}:".encode() + b"x" * size + b"\n" for n, (to, size, _) in enumerate(lines) if to == name]
        assert found == wanted


async def test_appends_that_come_together_are_written_together(tmp_path: Path) -> None:
    """One write and one sync for many lines is what lets hundreds of records a second be safe on a slow disk."""
    seen: list[int] = []
    async with running(tmp_path, fsync_s=0) as sink, anyio.create_task_group() as callers:

        async def append(n: int) -> None:
            await sink.append("a.jsonl", b"%d\n" % n)
            seen.append((tmp_path / "a.jsonl").read_bytes().count(b"\n"))

        for n in range(200):
            callers.start_soon(append, n)
    assert seen == [200] * 200


async def test_a_full_disk_fails_every_append_from_then_on(tmp_path: Path) -> None:
    """A record whose line is not on the disk must never count as done, and the reason must reach the person."""
    outcomes: list[str] = []

    async def append(sink: Sink, n: int) -> None:
        try:
            await sink.append("a.jsonl", b"%d" % n + b"x" * 1000 + b"\n")
        except OutputError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("written")

    async def fill() -> None:
        sink = Sink(tmp_path, NAMES, fsync_s=0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.run)
            with anyio.CancelScope(shield=True), anyio.fail_after(5):
                for n in range(4):
                    await append(sink, n)

    with full_disk(2500), pytest.raises(BaseExceptionGroup) as caught:
        await fill()
    assert isinstance(fault_of(caught.value), OutputError)
    assert outcomes[:2] == ["written", "written"]
    assert all("cannot write" in outcome and "run the same command again" in outcome for outcome in outcomes[2:])
    assert len(outcomes) == 4
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 2


async def test_a_directory_that_is_gone_ends_the_sink_with_our_error(tmp_path: Path) -> None:
    """A removed or unmounted directory is a fault of the disk, told as such, not a traceback."""
    with pytest.raises(OutputError, match="No such file"):
        await Sink(tmp_path / "gone", NAMES, fsync_s=0).run()


async def test_close_writes_what_still_waits(tmp_path: Path) -> None:
    """The last lines of a drained run are queued when it closes; they were paid for like the others."""
    sink = Sink(tmp_path, NAMES, fsync_s=60)
    async with anyio.create_task_group() as tasks:
        for n in range(5):
            tasks.start_soon(sink.append, "b.jsonl", b"%d\n" % n)
        await anyio.wait_all_tasks_blocked()
        sink.close()
        tasks.start_soon(sink.run)
    assert (tmp_path / "b.jsonl").read_bytes() == b"0\n1\n2\n3\n4\n"
