"""A run's directory survives what a kill, a power cut, a second run and a stranger's file do to it."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.errors import JobError, LockedError, OutputError
from s2a_batch.keys import KeyIndex, key_text, line_hash
from s2a_batch.linefiles import DAMAGED, DamagedLineError, scan
from s2a_batch.lock import is_locked
from s2a_batch.records import BadLine, Outcome, RecordFault, result_line
from s2a_batch.rundir import (
    DEAD_LETTERS,
    LINE_FILES,
    MANIFEST,
    RESULTS,
    REWRITES,
    RunDirectory,
    read_manifest,
)

if TYPE_CHECKING:
    from pathlib import Path


def made_line(n: int) -> bytes:
    """A line as a run writes it, with brackets, escapes and text of several bytes a character in it."""
    key = key_text(line_hash(b"%d" % n), n % 2)
    fault = RecordFault(kind="bad_json", message=f'no {{"[n]"}}: é好 {n}', stage="input", line=n + 1)
    outcome = Outcome(status="failed", error=fault, fingerprint="f", started_at="2026-01-01T00:00:00+00:00", seconds=1)
    return result_line(BadLine(key, n + 1, b'"\\u00e9"', b'{"a":{"b":[1]}}', None, "bad_json", "m"), outcome)


LINES = [made_line(n) for n in range(3)]
KEYS = [json.loads(line)["key"].encode() for line in LINES]
WHOLE = b"".join(LINES)


def repaired(directory: Path, content: bytes) -> tuple[bytes, list[str]]:
    """What is left of a results file, and what the repair said."""
    (directory / RESULTS).write_bytes(content)
    with RunDirectory(directory) as run:
        notes = run.repair()
        assert run.repair() == [], "a second look finds nothing to do"
    return (directory / RESULTS).read_bytes(), notes


@pytest.mark.parametrize("tail", [b"", b"\0", b"\0" * 5000], ids=["cut", "a zero", "zeros"])
def test_a_file_torn_at_any_byte_keeps_all_whole_lines_and_nothing_else(tmp_path: Path, tail: bytes) -> None:
    """A kill or a power cut can stop a write after any byte; what was whole before it is paid for."""
    for cut in range(len(WHOLE) + 1):
        left, notes = repaired(tmp_path, WHOLE[:cut] + tail)
        whole = WHOLE[:cut].count(b"\n")
        assert left == b"".join(LINES[:whole]), cut
        assert len(notes) == (left != WHOLE[:cut] + tail), cut
        assert all("pending again" in note for note in notes)
        assert [key for key, _ in scan(tmp_path / RESULTS)] == KEYS[:whole]


@pytest.mark.parametrize("name", LINE_FILES)
def test_a_damaged_line_in_the_middle_goes_and_its_neighbours_stay(tmp_path: Path, name: str) -> None:
    """A bad sector costs one record a second asking, not the file, and never a wrong line among the results."""
    damaged = [
        LINES[1][:cut] + b"\n" for cut in range(1, len(LINES[1]) - 1)
    ]  # half a line that got its newline later: some halves end in } too
    damaged += [LINES[1][:40] + b"\0" * 20 + LINES[1][60:], b"\n", b"rubbish\n", b"{}\n", b"\xff" + LINES[1]]
    damaged += [LINES[1].replace(b":", b"=", 9), LINES[1].replace("é".encode(), b"\xe9"), b"[" * 9000 + b"}\n"]
    for middle in damaged:
        (tmp_path / name).write_bytes(LINES[0] + middle + LINES[2])
        with RunDirectory(tmp_path) as run:
            (note,) = run.repair()
        assert note.startswith(f"{name}: moved 1 damaged lines"), middle
        assert middle in (tmp_path / DAMAGED).read_bytes()
        assert (tmp_path / name).read_bytes() == LINES[0] + LINES[2], middle


def test_two_lines_in_one_are_damaged(tmp_path: Path) -> None:
    """Something appended after half a line begins and ends like one of ours, and is no JSON."""
    left, notes = repaired(tmp_path, LINES[0] + LINES[1][:100] + LINES[2] + LINES[1])
    assert left == LINES[0] + LINES[1]
    assert len(notes) == 1


def test_a_damaged_first_line_does_not_make_the_file_a_strangers(tmp_path: Path) -> None:
    """The first line is as likely to be hit as any other; the night's work behind it must stay usable."""
    left, _ = repaired(tmp_path, b"#" * 30 + LINES[0][30:] + LINES[1])
    assert left == LINES[1]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(WHOLE) - 1), junk=st.binary(min_size=1, max_size=60))
def test_whatever_overwrites_a_part_the_rest_stays_and_all_is_json(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes
) -> None:
    """Damage has any place and shape; after the repair each line is strict JSON and no sound one is lost."""
    content = (WHOLE[:at] + junk + WHOLE[at + len(junk) :])[: len(WHOLE)]
    left, _ = repaired(tmp_path_factory.mktemp("run"), content)
    assert all(json.loads(line)["key"] for line in left.splitlines())
    start = 0
    for line in LINES:
        untouched = start + len(line) <= at or at + len(junk) <= start
        glued = start > 0 and content[start - 1 : start] != b"\n"
        assert line in left or not untouched or glued
        start += len(line)


@pytest.mark.parametrize("name", [*LINE_FILES, MANIFEST])
@pytest.mark.parametrize(
    "content", [b"my notes\n", b'{"id":1,"prompt":"x"}\n', b'{"schema":2}\n', b"\n\n", b"[1]", b"\x89PNG\r\n"]
)
def test_a_strangers_file_is_refused_and_not_touched(tmp_path: Path, name: str, content: bytes) -> None:
    """`-o .` in a directory with a results.jsonl of somebody else must not cost that file."""
    path = tmp_path / name
    path.write_bytes(content)
    before = path.stat()

    def enter() -> None:
        with RunDirectory(tmp_path) as run:
            assert read_manifest(run.path) is None

    with pytest.raises(JobError, match=r"not written by s2a-batch|cannot be read"):
        enter()
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert name == MANIFEST or [*tmp_path.iterdir()] == [path], "nothing of ours beside it either"


@pytest.mark.parametrize("name", LINE_FILES)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, name: str) -> None:
    """A pipe would wait for ever, a device would swallow the results."""
    (tmp_path / name).mkdir()
    with pytest.raises(JobError, match="not written by s2a-batch"), RunDirectory(tmp_path):
        pass
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(JobError, match="not written by s2a-batch"), RunDirectory(tmp_path):
        pass


def test_a_second_run_is_refused_at_once_and_told_who_runs(tmp_path: Path) -> None:
    """Two runs in one directory would ask and pay everything twice."""
    with RunDirectory(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} on"), RunDirectory(tmp_path):
        pass
    with RunDirectory(tmp_path):
        pass


def test_what_a_killed_run_left_in_the_lock_file_bars_nobody(tmp_path: Path) -> None:
    """A process number says nothing: after a reboot it is somebody else's."""
    (tmp_path / ".lock").write_text(f"process {os.getppid()} on here\n")
    assert not is_locked(tmp_path)
    with RunDirectory(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert (tmp_path / ".lock").read_text() == ""


def test_a_look_at_the_lock_does_not_turn_a_run_away(tmp_path: Path) -> None:
    """`status` in a loop beside a cron job must not make the job exit with 'another run holds it'."""
    (tmp_path / ".lock").touch()
    holds = (
        "import fcntl,os,sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_SH); print(flush=True)"
    )
    looker = subprocess.Popen(
        [sys.executable, "-c", holds + "; import select; select.select([], [], [], 0.02)", str(tmp_path / ".lock")],
        stdout=subprocess.PIPE,
    )
    assert looker.stdout
    with looker, looker.stdout:
        looker.stdout.readline()
        with RunDirectory(tmp_path):
            pass


def test_a_refused_directory_is_not_left_locked(tmp_path: Path) -> None:
    """Whoever moves the stranger's file away and tries again in the same program must not be told to wait."""
    (tmp_path / RESULTS).write_text("mine")
    with pytest.raises(JobError), RunDirectory(tmp_path):
        pass
    (tmp_path / RESULTS).unlink()
    with RunDirectory(tmp_path):
        pass


def test_files_set_aside_never_replace_earlier_ones(tmp_path: Path) -> None:
    """The audit of the first night must survive the third --retry-failed and the third --fresh."""
    with RunDirectory(tmp_path) as run:
        assert run.set_dead_letters_aside(None) is None
        assert run.set_all_aside() is None
        for n in range(2):
            (tmp_path / DEAD_LETTERS).write_bytes(LINES[n])
            assert run.set_dead_letters_aside(None) == f"dead_letters.{n + 1}.jsonl"
        for n in range(2):
            (tmp_path / RESULTS).write_bytes(LINES[n])
            (tmp_path / MANIFEST).write_text("{}")
            assert run.set_all_aside() == f"old-{n + 1}"
    assert (tmp_path / "old-1" / "dead_letters.1.jsonl").read_bytes() == LINES[0]
    assert (tmp_path / "old-1" / "dead_letters.2.jsonl").read_bytes() == LINES[1]
    assert (tmp_path / "old-1" / RESULTS).read_bytes() == LINES[0]
    assert (tmp_path / "old-2" / RESULTS).read_bytes() == LINES[1]
    assert not (tmp_path / RESULTS).exists()


OURS = [MANIFEST, *LINE_FILES, DAMAGED, "dead_letters.1.jsonl", "dead_letters.12.jsonl", MANIFEST + ".new"]


def test_all_of_an_old_run_goes_and_nothing_else(tmp_path: Path) -> None:
    """Dead letters of another job beside the new results would be counted and mended with them."""
    theirs = ["notes.txt", "dead_letters.mine.jsonl", "old-plan.part"]
    for name in [*OURS, *theirs]:
        (tmp_path / name).write_bytes(LINES[0])
    (tmp_path / "old-1").mkdir()
    with RunDirectory(tmp_path) as run:
        assert run.set_all_aside() == "old-2"
        assert run.set_all_aside() is None
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "old-1", "old-2", *theirs}
    assert {path.name for path in (tmp_path / "old-2").iterdir()} == set(OURS)


@pytest.mark.parametrize("stopped_at", OURS)
def test_a_move_that_was_killed_half_way_is_finished(tmp_path: Path, stopped_at: str) -> None:
    """With half of an old run still there, the new one would take its answers for its own."""
    for name in OURS:
        (tmp_path / name).write_text(name if name == MANIFEST else "")
    in_the_way = tmp_path / "old-1.part" / stopped_at
    in_the_way.mkdir(parents=True)
    with RunDirectory(tmp_path) as run:
        with pytest.raises(IsADirectoryError):
            run.finish_setting_aside()
        assert (tmp_path / MANIFEST).exists() == (stopped_at == MANIFEST), "it goes first"
        in_the_way.rmdir()
        assert run.finish_setting_aside() == "old-1"
        assert run.finish_setting_aside() is None
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "old-1"}
    assert {path.name for path in (tmp_path / "old-1").iterdir()} == set(OURS)


def test_lines_tell_which_settings_made_them(tmp_path: Path) -> None:
    """When run.json is lost, this is all that keeps answers of two jobs apart."""
    (tmp_path / RESULTS).write_bytes(b"#" + LINES[0] + LINES[1])
    (tmp_path / REWRITES).write_bytes(LINES[1].replace(b'"fingerprint":"f"', b'"fingerprint":"g"'))
    with RunDirectory(tmp_path) as run:
        assert run.fingerprints() == {"f", "g"}


def test_the_manifest_is_replaced_whole(tmp_path: Path) -> None:
    """A reader beside a run must never see half of it, and a failed write must leave the old one."""
    with RunDirectory(tmp_path) as run:
        run.write_manifest({"s2a_batch": "1", "name": "é好\udce9"})
        assert read_manifest(tmp_path) == {"s2a_batch": "1", "name": "é好\udce9"}
        assert (tmp_path / MANIFEST).stat().st_mode & 0o077 == 0
        (tmp_path / (MANIFEST + ".new")).mkdir()
        with pytest.raises(OutputError, match=os.strerror(errno.EISDIR)):
            run.write_manifest({"s2a_batch": "2"})
    assert read_manifest(tmp_path) == {"s2a_batch": "1", "name": "é好\udce9"}


def test_what_is_done_is_read_back_with_the_rewrites_that_wait(tmp_path: Path) -> None:
    """These numbers decide what is asked and paid for again."""
    (tmp_path / RESULTS).write_bytes(LINES[0])
    (tmp_path / DEAD_LETTERS).write_bytes(LINES[1])
    (tmp_path / REWRITES).write_bytes(WHOLE)
    with RunDirectory(tmp_path) as run, KeyIndex() as keys:
        assert run.read_done(keys, only_rewrite=False) == 2
        assert [keys.done_as(key.decode()) for key in KEYS] == ["answered", "failed", None]
        assert [keys.rewrite_offset(key.decode()) for key in KEYS] == [None, None, len(LINES[0] + LINES[1])]
    with RunDirectory(tmp_path) as run, KeyIndex() as keys:
        assert run.read_done(keys, only_rewrite=True) == 3


def test_only_what_came_after_the_last_sync_is_parsed(tmp_path: Path) -> None:
    """A million finished records must not be read as JSON each night; what nobody vouches for must be."""
    path, long = tmp_path / RESULTS, b'"x":"' + b"y" * 5_000 + b'",'
    lines = [line.replace(b'"line":', long + b'"line":') for line in LINES]
    spoilt = lines[0].replace(b'"line":', b'"line"=')

    def read() -> int:
        with RunDirectory(tmp_path) as run, KeyIndex() as keys:
            assert run.cut_tails() == []
            return run.read_done(keys, only_rewrite=False)

    path.write_bytes(b"".join(lines))
    assert read() == 3
    path.write_bytes(b"".join([spoilt, *lines[1:]]))
    assert read() == 3, "its end is the one that was synced, so it is taken for the same"
    path.write_bytes(b"".join([*lines[:2], spoilt]))
    with pytest.raises(DamagedLineError):
        read()
    path.write_bytes(b"".join([spoilt, lines[1]]))
    with pytest.raises(DamagedLineError):
        read()
    path.write_bytes(b"".join(lines[:2]))
    assert read() == 2
    path.write_bytes(b"".join([*lines[:2], spoilt]))
    with pytest.raises(DamagedLineError):
        read()
    (tmp_path / ".synced").write_bytes(b"[" * 512)
    path.write_bytes(b"".join(lines))
    assert read() == 3


def test_rewrites_that_were_not_parsed_are_not_vouched_for(tmp_path: Path) -> None:
    """Where rewrites are all that is wanted, a damaged one must not count as done because a run passed over it."""
    glued = LINES[0][:60] + LINES[1]
    (tmp_path / REWRITES).write_bytes(glued + LINES[2])
    with RunDirectory(tmp_path) as run, KeyIndex() as keys:
        assert run.read_done(keys, only_rewrite=False) == 0
    with RunDirectory(tmp_path) as run, KeyIndex() as keys, pytest.raises(DamagedLineError):
        run.read_done(keys, only_rewrite=True)
    with RunDirectory(tmp_path) as run, KeyIndex() as keys:
        (note,) = run.repair()
        assert run.read_done(keys, only_rewrite=True) == 1
        assert "moved 1 damaged lines" in note


@pytest.mark.parametrize("line", [b'{"schema":1,"key":"}', b'{"schema":1,"key":"abc}', b'{"schema":1,"key":}'])
def test_a_line_whose_key_has_no_end_is_damaged_and_nothing_else(tmp_path: Path, line: bytes) -> None:
    """It must neither end the program nor swallow the line behind it."""
    content, notes = repaired(tmp_path, LINES[0] + line + b"\n" + LINES[1])
    assert (content, len(notes)) == (LINES[0] + LINES[1], 1)
    (tmp_path / RESULTS).write_bytes(LINES[0] + line + b"\n" + LINES[1])
    assert [key for key, _ in scan(tmp_path / RESULTS)] == KEYS[:2]


def test_what_several_processes_synced_is_remembered_and_never_less(tmp_path: Path) -> None:
    """Their notes come in any order: a later, smaller one must not have half a million lines parsed again."""
    with RunDirectory(tmp_path) as run, KeyIndex() as keys:
        assert run.read_done(keys, only_rewrite=False) == 0
        (tmp_path / RESULTS).write_bytes(WHOLE)
        (tmp_path / REWRITES).write_bytes(WHOLE)
        run.note_synced({RESULTS: len(LINES[0] + LINES[1])})
        run.note_synced({RESULTS: len(LINES[0]), REWRITES: len(LINES[0])})
        marks = json.loads((tmp_path / ".synced").read_text())
    assert {name: size for name, (size, _) in marks.items()} == {
        RESULTS: len(LINES[0] + LINES[1]),
        REWRITES: len(LINES[0]),
    }
    (tmp_path / RESULTS).write_bytes(LINES[0].replace(b'"line":', b'"line"=') + LINES[1] + b'{"schema":1,"key":"a"=}\n')
    with RunDirectory(tmp_path) as run, KeyIndex() as keys, pytest.raises(DamagedLineError):
        run.read_done(keys, only_rewrite=False)


@pytest.mark.parametrize("signer_lives", [False, True])
def test_what_a_killed_run_left_to_end_is_waited_for(tmp_path: Path, signer_lives: bool) -> None:
    """Its children hold the lock until their last write is done: the same command right after a kill must go on."""
    signer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / ".lock").write_text(f"process {signer.pid} on {socket.gethostname()}\n")
    holds = (
        "import fcntl, os, select, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX);"
        "print(flush=True); select.select([], [], [], 0.6)"
    )
    orphan = subprocess.Popen([sys.executable, "-c", holds, str(tmp_path / ".lock")], stdout=subprocess.PIPE)
    assert orphan.stdout
    with signer, orphan, orphan.stdout:
        orphan.stdout.readline()
        if not signer_lives:
            signer.kill()
            os.waitid(os.P_PID, signer.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has asked how it ended
            with RunDirectory(tmp_path):
                assert orphan.wait(5) == 0
        else:
            with pytest.raises(LockedError, match=f"process {signer.pid} on"), RunDirectory(tmp_path):
                pass
            signer.kill()
