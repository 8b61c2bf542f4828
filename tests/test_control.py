"""A run that goes on is looked at and steered from another terminal, and nobody who connects can hurt it."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from s2a_batch import steering
from tests.processes import RUN, Program, manifest, read_lines, run, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Rule, Upstream

RECORDS = 60
SLOW: Plan = {"latency_s": 0.15}


def until(true: Callable[[], bool], within_s: float = 10) -> None:
    """Look until it is so."""
    end = time.monotonic() + within_s
    while not true():
        os.sched_yield()
        assert time.monotonic() < end, "it never came true"


def ready(folder: Path, up: Upstream, requests: int = 6) -> Path:
    """The socket of a run that has answers."""
    up.wait_until(lambda stats: stats.requests >= requests)
    until((folder / "out" / steering.SOCKET).exists)
    return folder / "out" / steering.SOCKET


def call(*words: str, up: Upstream, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    return (*RUN, "--base-url", up.base_url, *more, *words)


def live(folder: Path) -> dict[str, Any]:
    """What `status --json` says of a run that goes on."""
    found: dict[str, Any] = json.loads(run(folder, "status", "out", "--json").out)
    assert found["running"]
    told: dict[str, Any] = found["live"]
    return told


def raw(path: Path, data: bytes, *, end: bool = True) -> bytes:
    """What the socket answers to these bytes."""
    with closing(socket.socket(socket.AF_UNIX)) as peer:
        peer.settimeout(20)
        peer.connect(str(path))
        with suppress(OSError):
            peer.sendall(data)
            if end:
                peer.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            return peer.recv(1 << 16)
        return b""


def test_status_tells_live_numbers_while_a_run_goes(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Whoever looks at midnight wants counts, pace, cost and what holds it up, without a scan of the files."""
    up = upstream(SLOW)
    with running(
        folder,
        *call(up=up, more=("--set", "price.usd_per_million_input=1000", "--set", "price.usd_per_million_output=2000")),
    ):
        path = ready(folder, up, 20)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        found = live(folder)
        text = run(folder, "status", "out").out
    assert found["stages"]["rewrite"]["requests"] >= 4
    assert 0 < found["answered"] + found["left"] <= RECORDS
    assert found["cost_usd"] > 0
    assert found["requests_per_second"] >= 0
    assert found["accounts"][0]["open_requests"] == 4
    assert found["accounts"][0]["stages"] == ["answer", "rewrite"]
    assert [held["what"] for held in found["held_up"]] == ["limits.open_requests"]
    assert "limits of answer, rewrite: open requests 4; 4 open" in text
    assert "held up: limits.open_requests since 20" in text


def test_the_socket_goes_with_the_run(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A socket that stays behind would be taken for a run; one that a kill left must not keep the next from its own."""
    up = upstream(SLOW)
    with running(folder, *call(up=up)) as program:
        path = ready(folder, up)
        program.kill()
    assert path.exists()
    done = run(folder, "pause", "out")
    assert (done.status, done.err) == (2, "error: out: no run goes on here\n")
    assert json.loads(run(folder, "status", "out", "--json").out)["live"] is None
    up = upstream(SLOW)
    with running(folder, *call(up=up)) as program:
        ready(folder, up)
        assert live(folder)["pid"] == program.pid
        up.replan({})
        assert program.wait().status == 0
    assert not path.exists()
    assert "socket" not in program.err()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_pause_sends_nothing_and_costs_no_record(
    folder: Path, upstream: Callable[[Plan], Upstream], processes: str
) -> None:
    """A person who pauses for lunch must find every record as it was: none failed, none asked twice, the run whole."""
    faults: list[Rule] = [{"when": {"every": 5}, "replies": [{"status": 500}], "per_record": False}]
    up = upstream({"latency_s": 0.05, "rules": faults})
    words = (
        "--processes",
        processes,
        "--set",
        "retry.max_s=1.5",
        "--set",
        "retry.backoff_s=0.01",
        "--set",
        "retry.attempts=20",
        "--set",
        "retry.max_wait_s=1",
    )
    with running(folder, *call(*words, up=up)) as program:
        ready(folder, up, 20)
        said = run(folder, "pause", "out")
        assert said.status == 0
        assert "nothing new is sent" in said.out
        up.wait_until(lambda stats: stats.in_flight == 0)
        up.replan({"latency_s": 0.005, "rules": faults})  # what comes after the pause takes no time of its own
        before, began = up.stats().requests, time.monotonic()
        assert "was paused already" in run(folder, "pause", "out").out
        found = live(folder)
        assert found["paused"]
        assert [held["what"] for held in found["held_up"]] == ["paused by a person"]
        until(lambda: time.monotonic() > began + 2)
        assert up.stats().requests == before
        assert program.process.exitcode is None
        assert "goes on after 0:0" in run(folder, "resume", "out").out
        assert "was not paused" in run(folder, "resume", "out").out
        done = program.wait()
    assert done.status == 0
    assert sorted(line["id"] for line in read_lines(folder / "out" / "results.jsonl")) == list(range(RECORDS))
    assert done.err.count("paused") == 1
    assert done.err.count("goes on after") == 1
    assert manifest(folder)["summary"]["failed"] == 0


def test_a_paused_run_heeds_signals_and_its_time(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A pause that swallowed SIGTERM would be killed by the machine; `max_runtime_s` is about the day's price."""
    up = upstream(SLOW)
    for number, words, status in ((15, (), 143), (None, ("--set", "budget.max_runtime_s=3"), 3)):
        with running(folder, *call(*words, up=up)) as program:
            ready(folder, up)
            assert run(folder, "pause", "out").status == 0
            if number is not None:
                program.send(number)
            done = program.wait(15)
        assert done.status == status
        up = upstream(SLOW)
    assert run(folder, *call(up=up)).status == 0


@pytest.mark.parametrize(("processes", "most"), [("1", 30), ("2", 30)])
def test_a_higher_cap_opens_more_at_once_and_a_lower_one_fewer(
    folder: Path, upstream: Callable[[Plan], Upstream], processes: str, most: int
) -> None:
    """Tuning is for the night that is too slow, or that is throttled: without an effect at once it is a lie."""
    up = upstream({"latency_s": 0.4})
    with running(folder, *call("--processes", processes, up=up)) as program:
        ready(folder, up, 8)
        said = run(folder, "tune", "out", "--open-requests", str(most))
        assert (said.status, said.out) == (0, f"answer, rewrite: open requests 4 -> {most}\n")
        up.wait_until(lambda stats: stats.in_flight == most)
        assert f"tuned: answer, rewrite: open requests 4 -> {most}" in program.err()
        while (now := live(folder)["accounts"][0]["open_requests"]) != most:  # each member tells it in its own time
            assert now < most
            assert program.process.exitcode is None
        assert run(folder, "tune", "out", "--open-requests", "2").status == 0
        up.wait_until(lambda stats: stats.in_flight <= 2)
        assert run(folder, "tune", "out", "--open-requests", "auto").out == "answer, rewrite: open requests 2 -> auto\n"
        up.wait_until(lambda stats: stats.in_flight >= 4)
        assert program.wait().status == 0
    assert up.stats().max_in_flight == most
    assert up.stats().requests == 2 * RECORDS


def test_a_limit_holds_and_is_lifted_at_once(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A wrong limit in the job of a night is found at ten; the night must not be lost for it."""
    up = upstream({})
    with running(folder, *call("--set", "limits.requests_per_minute=60", up=up)) as program:
        ready(folder, up, 2)
        assert live(folder)["held_up"][0]["what"] == "limits.requests_per_minute"
        said = run(folder, "tune", "out", "--requests-per-minute", "6e3", "--tokens-per-minute", "9e6")
        assert said.out == "answer, rewrite: requests a minute 60 -> 6000, tokens a minute none -> 9000000\n"
        said = run(folder, "tune", "out", "--requests-per-minute", "none", "--stage", "rewrite")
        assert said.out == "answer, rewrite: requests a minute 6000 -> none\n"
        assert program.wait(20).status == 0
    assert manifest(folder)["job"]["limits"]["requests_per_minute"] == 60


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--open-requests", "0"), "expected a whole number from 2 to 10000, or 'auto'; 2 processes share it"),
        (("--open-requests", "1"), "expected a whole number from 2"),
        (("--open-requests", "many"), "expected a whole number"),
        (("--open-requests", "10000"), None),
        (("--requests-per-minute", "nan"), "expected a number from 2, or 'none'"),
        (("--requests-per-minute", "inf"), "expected a number"),
        (("--requests-per-minute=-1",), "expected a number"),
        (("--tokens-per-minute", "39999"), "expected a number from 40000"),
        ((), "nothing to change"),
        (("--stage", "answer"), "nothing to change"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    folder: Path, upstream: Callable[[Plan], Upstream], words: tuple[str, ...], why: str | None
) -> None:
    """A slip of the finger at night must not stop a member for good, nor the run for want of files."""
    up = upstream({"latency_s": 1})
    with running(folder, *call("--processes", "2", up=up)):
        ready(folder, up, 2)
        until(lambda: live(folder)["accounts"][0]["open_requests"] == 4)  # both processes have told
        done = run(folder, "tune", "out", *words)
        if why is None:
            assert done.status in (0, 2)
            return
        assert done.status == 2
        assert why in done.err
        assert live(folder)["accounts"][0]["open_requests"] == 4


def hang(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(5)
    peer.connect(str(path))
    peer.send(b'{"comm')
    return peer


def test_peers_that_hang_flood_or_talk_nonsense_hurt_nobody(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A socket is open to every program of the user, also to the broken ones; the run behind it costs money."""
    up = upstream({"latency_s": 0.3})
    with running(folder, *call(up=up)) as program:
        path = ready(folder, up)
        for nonsense in (
            b"",
            b"\n",
            b"[1]\n",
            b"[" * 60_000,
            b'{"command": "status"',
            b'{"command": []}\n',
            b"\xff\xfe\n",
            b'{"command": "tune", "open_requests": [1]}\n',
            b'{"command": "tune", "stage": {}}\n',
            b'{"command": "tune", "open_requests": true}\n',
            b'{"command": "quit"}\n',
            b'{"command": "tune", "requests_per_minute": 1' + b"0" * 400 + b"}\n",
            b"9" * 50_000 + b"\n",
            b"x" * (1 << 20),
        ):
            answer = raw(path, nonsense)
            assert not answer or "error" in json.loads(answer)
        peers = [hang(path) for _ in range(20)]
        stop, count = threading.Event(), [0]

        def flood() -> None:
            while not stop.is_set():
                with suppress(OSError), closing(socket.socket(socket.AF_UNIX)) as peer:
                    peer.settimeout(1)
                    peer.connect(str(path))
                    peer.send(b'{"command": "status"}\n')
                    count[0] += 1

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            assert run(folder, "pause", "out").status == 0
            assert run(folder, "resume", "out").status == 0
            done = program.wait(40)
        finally:
            stop.set()
            flooding.join()
        for peer in peers:
            peer.close()
    assert done.status == 0
    assert count[0] > 50
    assert manifest(folder)["summary"]["answered"] == RECORDS
    # 120 requests of 0.3 s, 4 at a time, take 9 s
    assert manifest(folder)["summary"]["seconds"] < 15


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be played by root")
def test_another_user_is_refused(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A directory that somebody opened to a group must not open the run's controls to it."""
    up = upstream(SLOW)
    with running(folder, *call(up=up)):
        path = ready(folder, up)
        path.chmod(0o666)
        for place in path.parents:
            with suppress(OSError):
                place.chmod(place.stat().st_mode | 0o055)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                os.setgroups([])
                os.setuid(65534)
                os.write(writer, raw(path, b'{"command": "pause"}\n') or b"nothing")
            os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        said = os.read(reader, 1 << 16)
        os.close(reader)
        assert b"not your run" in said
        assert not live(folder)["paused"]


def test_a_path_longer_than_a_sockets_address_does(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Runs lie deep in dated directories; 108 bytes are soon over, and must not cost the controls."""
    up = upstream(SLOW)
    deep = folder / ("d" * 100) / ("ü" * 60)
    deep.mkdir(parents=True)
    (deep / "in.jsonl").write_bytes((folder / "in.jsonl").read_bytes())
    with running(folder, "run", deep / "in.jsonl", "-o", deep / "out", "--model", "m", "--base-url", up.base_url):
        up.wait_until(lambda stats: stats.requests >= 4)
        assert run(folder, "pause", deep / "out").status == 0
        assert json.loads(run(folder, "status", deep / "out", "--json").out)["live"]["paused"]


@pytest.mark.parametrize("in_the_way", ["directory", "none"])
def test_where_no_socket_can_be_the_run_goes_on(
    folder: Path, upstream: Callable[[Plan], Upstream], in_the_way: str
) -> None:
    """Some file systems have no sockets; that costs the controls and never the night."""
    up = upstream({"latency_s": 0.3})
    (folder / "out").mkdir()
    if in_the_way == "directory":
        (folder / "out" / steering.SOCKET).mkdir()
    with running(folder, *call(up=up)) as program:
        up.wait_until(lambda stats: stats.requests >= 4)
        if in_the_way == "none":
            ready(folder, up).unlink()
        said = run(folder, "status", "out").out
        assert "running" in said
        began = time.monotonic()
        done = run(folder, "pause", "out")
        assert done.status == 3
        assert "out: a run goes on here and has no .control socket" in done.err
        assert time.monotonic() - began < 4
        up.replan({})
        assert program.wait(30).status == 0
    assert program.err().count("no control socket in out") == (in_the_way == "directory")


def hold(program: Program) -> None:
    """Stop a process as a swap storm would."""
    program.send(19)


def test_a_run_that_does_not_answer_is_told_within_a_bound(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A command that hangs with the run it asks would hang the script that calls it."""
    up = upstream(SLOW)
    with running(folder, *call(up=up)) as program:
        ready(folder, up)
        hold(program)
        began = time.monotonic()
        assert "running" in run(folder, "status", "out").out
        assert time.monotonic() - began < 6
        assert run(folder, "tune", "out", "--open-requests", "8").status == 3
        program.send(18)
        up.replan({})
        assert program.wait().status == 0
