"""Files that several processes append to hold whole lines only, whoever is killed in the middle of a write."""

from __future__ import annotations

import fcntl
import os
import random
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.errors import OutputError
from s2a_batch.sharedsink import SharedFile, SharedSink
from tests.test_ledger import forked, status_of, waits_for_a_lock
from tests.test_sink import fault_of, full_disk

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("a.jsonl", "b.jsonl")


@settings(max_examples=40)
@given(
    whole=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b" ") + b"\n"), max_size=4),
    torn=st.binary(min_size=1, max_size=300_000).map(lambda b: b.replace(b"\n", b" ")),
)
def test_a_torn_tail_is_cut_before_the_next_line(
    tmp_path_factory: pytest.TempPathFactory, whole: list[bytes], torn: bytes
) -> None:
    """A sibling that was killed in its write leaves half a line; glued to the next one both would be lost."""
    path = tmp_path_factory.mktemp("run") / "a.jsonl"
    path.write_bytes(b"".join(whole) + torn)
    file = SharedFile(path)
    file.append(b"new\n")
    assert path.read_bytes() == b"".join(whole) + b"new\n"
    with path.open("ab") as other:
        other.write(torn)
    assert file.sync() == len(path.read_bytes()) == len(b"".join(whole)) + 4, "what is told as synced ends on a line"
    file.close()


@pytest.mark.parametrize("room", [25, 20, 7, 3])
def test_what_a_full_disk_cuts_off_is_taken_back_to_the_last_whole_line(tmp_path: Path, room: int) -> None:
    """Half a line would stand between two processes' lines; a whole one is paid for, and stays."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old\n"[:room])
    with full_disk(room):
        file = SharedFile(path)
        with pytest.raises(OSError, match="too large"):
            file.append(b"one\n" * 10)
    file.close()
    content = path.read_bytes()
    assert content == (b"old\n" + b"one\n" * 10)[: room // 4 * 4]


def test_nobody_writes_or_cuts_while_another_is_in_its_write(tmp_path: Path) -> None:
    """Half a line of a sibling that lives is no torn tail: to cut it would lose an answer that is paid for."""
    path = tmp_path / "a.jsonl"

    def write() -> int:
        SharedFile(path).append(b"new\n")
        return 0

    with path.open("ab", buffering=0) as sibling:
        fcntl.flock(sibling, fcntl.LOCK_EX)
        sibling.write(b"half a ")
        pid = forked(write)
        assert waits_for_a_lock(pid)
        sibling.write(b"line\n")
        fcntl.flock(sibling, fcntl.LOCK_UN)  # the process that was forked holds the file too
    assert status_of(pid) == 0
    assert path.read_bytes() == b"half a line\nnew\n"


def lines_of(number: int, draw: random.Random) -> list[bytes]:
    """A process's lines: each says whose it is, how long it is, and which one."""
    sizes = [draw.choice((1, 50, 5_000, 200_000)) for _ in range(40)]
    return [b"%d %d %d %s\n" % (number, n, size, b"x" * size) for n, size in enumerate(sizes)]


@pytest.mark.parametrize("seed", range(4))
def test_lines_of_processes_that_are_killed_at_any_moment_stay_whole(tmp_path: Path, seed: int) -> None:
    """Group writes of megabytes from several processes, some of which die: no line glued, torn, lost or doubled."""
    path, draw = tmp_path / "a.jsonl", random.Random(seed)  # noqa: S311  no secret
    lines = {number: lines_of(number, draw) for number in range(4)}

    def write(number: int) -> int:
        file = SharedFile(path)
        for n in range(0, 40, 4):
            file.append(b"".join(lines[number][n : n + 4]))
        return 0

    pids = [forked(lambda number=number: write(number)) for number in lines]  # type: ignore[misc]
    victims, size = pids[:2], draw.randint(1, 3_000_000)
    while not path.exists() or path.stat().st_size < size:
        if os.waitpid(pids[3], os.WNOHANG)[0]:
            break
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    for pid in pids[:3]:
        status_of(pid)
    with suppress(ChildProcessError):  # it was waited for above
        status_of(pids[3])
    SharedFile(path).append(b"end\n")
    *found, end = path.read_bytes().splitlines(keepends=True)
    assert end == b"end\n"
    for number, own in lines.items():
        mine = [line for line in found if line.startswith(b"%d " % number)]
        assert mine == own[: len(mine)], "its lines, in order, whole"
        assert len(mine) == 40 or number < 2
    assert len(found) == sum(line.split(b" ", 1)[0].isdigit() for line in found)


@pytest.mark.anyio
async def test_two_sinks_on_one_directory_tell_only_what_is_whole_and_synced(tmp_path: Path) -> None:
    """What is told is not parsed by the next run: it must be on the disk, and end on a line."""
    told: list[dict[str, int]] = []

    def hear(sizes: dict[str, int]) -> None:
        for name, size in sizes.items():
            content = (tmp_path / name).read_bytes()[:size]
            assert len(content) == size
            assert content.endswith(b"\n")
        told.append(sizes)

    sinks = [SharedSink(tmp_path, NAMES, fsync_s=0, told=hear) for _ in range(2)]
    async with anyio.create_task_group() as running:
        for sink in sinks:
            running.start_soon(sink.run)
        async with anyio.create_task_group() as callers:
            for n in range(40):
                callers.start_soon(sinks[n % 2].append, NAMES[n % 3 % 2], b"%d\n" % n)
        for sink in sinks:
            sink.close()
    lines = [line for name in NAMES for line in (tmp_path / name).read_bytes().splitlines()]
    assert sorted(map(int, lines)) == list(range(40))
    assert {name: max(sizes.get(name, 0) for sizes in told) for name in NAMES} == {
        name: (tmp_path / name).stat().st_size for name in NAMES
    }


@pytest.mark.anyio
async def test_a_full_disk_ends_a_shared_sink_with_our_error(tmp_path: Path) -> None:
    """Every process must stop at once and say why; who waits for its line is told, not left waiting."""
    sink = SharedSink(tmp_path, NAMES, fsync_s=60, told=print)

    async def fill() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.run)
            with anyio.fail_after(5):
                await sink.append("a.jsonl", b"x" * 99 + b"\n")
                with pytest.raises(OutputError, match="cannot write"):
                    await sink.append("a.jsonl", b"y" * 99 + b"\n")

    with full_disk(150), pytest.raises(BaseExceptionGroup) as caught:
        await fill()
    assert isinstance(fault_of(caught.value), OutputError)
    assert (tmp_path / "a.jsonl").read_bytes() == b"x" * 99 + b"\n"


@pytest.mark.anyio
async def test_a_file_that_was_removed_ends_a_shared_sink(tmp_path: Path) -> None:
    """What is written to a file without a name is gone at the end of the night."""
    sink = SharedSink(tmp_path, NAMES, fsync_s=0, told=print)

    async def write() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.run)
            await sink.append("a.jsonl", b"1\n")
            (tmp_path / "a.jsonl").unlink()
            with pytest.raises(OutputError, match="cannot write"):
                await sink.append("a.jsonl", b"2\n")

    with pytest.raises(BaseExceptionGroup) as caught:
        await write()
    assert isinstance(fault_of(caught.value), OutputError)
