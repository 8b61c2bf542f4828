"""The scheduler's judgement, on a simulated clock: what is begun, what waits, what is skipped, what outlives it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch.errors import LockedError
from s2a_batch.schedule.memory import Memo
from s2a_batch.schedule.roster import Roster
from tests.scheduling import NOON, World, write

if TYPE_CHECKING:
    from pathlib import Path

    from s2a_batch.schedule.keeper import Keeper

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_a_job_begins_at_its_times_and_not_when_the_scheduler_does(tmp_path: Path) -> None:
    """To begin with a run that nobody asked for would spend money at every deployment."""
    write(tmp_path, "quarter", "*/15 * * * *")
    world = World(tmp_path)
    await world.keep(3_700)
    assert world.begins("quarter") == [900, 1_800, 2_700, 3_600]


async def test_the_jitter_comes_after_the_time_and_within_its_bound(tmp_path: Path) -> None:
    """A hundred machines with one job file must not knock at the same second, nor one of them before its time."""
    write(tmp_path, "hourly", "0 * * * *", jitter_s=600)
    world = World(tmp_path)
    await world.keep(10 * 3_600 + 1_000)
    late = [begin % 3_600 for begin in world.begins("hourly")]
    assert len(late) == 10
    assert all(0 <= value <= 600 for value in late)
    assert len(set(late)) == 10


async def test_a_jitter_longer_than_the_period_starves_no_job(tmp_path: Path) -> None:
    """A time whose delay reaches the next one still comes to its run."""
    write(tmp_path, "often", "*/5 * * * *", jitter_s=1_200)
    world = World(tmp_path)
    await world.keep(4 * 3_600)
    assert len(world.runs) >= 10


async def test_times_that_pass_while_a_job_runs_are_made_up_once_when_it_ends(tmp_path: Path) -> None:
    """One run of a job at a time, and what came in meanwhile does not wait for tomorrow."""
    write(tmp_path, "slow", "*/10 * * * *")
    world = World(tmp_path, takes={"slow": 1_500})
    await world.keep(3_700)
    assert [(begin, end) for _, begin, end in world.runs][:2] == [(600, 2_100), (2_100, 3_600)]
    assert world.events().count("late") == 2, "each run's wait is said once"


async def test_a_job_that_skips_what_it_missed_waits_for_its_next_time(tmp_path: Path) -> None:
    """Whoever says skip wants the times as they are, or none."""
    write(tmp_path, "slow", "*/10 * * * *", misfire="skip")
    world = World(tmp_path, takes={"slow": 1_500})
    await world.keep(3_700)
    assert world.begins("slow") == [600, 2_400]
    assert [text for event, _, text in world.said if event == "skip"] == [
        "skipped the time Mon 2026-06-01 12:20 UTC: its earlier run still goes",
        "skipped the time Mon 2026-06-01 12:30 UTC, too: its earlier run still went",
        "skipped the time Mon 2026-06-01 12:50 UTC: its earlier run still goes",
        "skipped the time Mon 2026-06-01 13:00 UTC, too: its earlier run still went",
    ]


@pytest.mark.parametrize(
    ("more", "off_s", "begins"),
    [
        ({}, 3 * 3_600, 1),
        ({"misfire": "skip"}, 3 * 3_600, 0),
        ({"misfire": "skip"}, 1_230, 1),  # half a minute late is not missed
        ({"misfire": "skip", "misfire_grace_s": 10_000}, 3 * 3_600, 1),
        ({"misfire_grace_s": 600}, 3 * 3_600, 0),
        ({"misfire_grace_s": 10_000}, 3 * 3_600, 1),
    ],
)
async def test_what_was_missed_while_the_scheduler_was_off(
    tmp_path: Path, more: dict[str, str | float], off_s: float, begins: int
) -> None:
    """A machine that was off at two o'clock runs its nightly job in the morning, once, if the job says so."""
    write(tmp_path, "nightly", "20 12 * * *", **more)
    world = World(tmp_path)
    await world.keep(60)
    await anyio.sleep(off_s - 60)
    await world.keep(120)
    assert len(world.runs) == begins
    assert world.events().count("skip") == 1 - begins
    await world.keep(120)
    assert len(world.runs) == begins, "and it is not made up again"


async def test_a_run_that_the_stop_of_the_scheduler_cut_short_goes_on_when_that_is_back(tmp_path: Path) -> None:
    """A reboot in the night must not put the night's work off until the next."""
    write(tmp_path, "nightly", "5 12 * * *")
    world = World(tmp_path, takes={"nightly": 3_000})
    await world.keep(400)
    assert world.runs == [("nightly", 300, 405)], "it had its drain"
    await anyio.sleep(600)
    await world.keep(3_600)
    assert world.runs[1:] == [("nightly", 1_005, 4_005)]
    await world.keep(600)
    assert len(world.runs) == 2


async def test_a_run_that_a_kill_of_the_scheduler_left_open_goes_on_too(tmp_path: Path) -> None:
    """After a power cut nobody was there to write down how the run ended: that it was begun is on disk before it."""
    path = write(tmp_path, "nightly", "5 12 * * *")
    world = World(tmp_path, takes={"nightly": 3_000})
    with world.memory() as memory:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.keeper(memory).serve)
            await anyio.sleep(400)
            saved = (tmp_path / "state.json").read_bytes()
            tasks.cancel_scope.cancel()
    (tmp_path / "state.json").write_bytes(saved)
    with world.memory() as memory:
        assert memory.get(path) == Memo("5 12 * * * UTC", NOON + timedelta(seconds=300), open=True)
    world.runs.clear()
    await world.keep(3_600)
    assert world.runs == [("nightly", 400, 3_400)]


async def test_a_failed_or_killed_run_waits_for_its_next_time(tmp_path: Path) -> None:
    """Exit 3 is a budget or an outage: to begin again at once would spend it again, and a crash would go round."""
    write(tmp_path, "hourly", "0 * * * *")
    for status in (1, 2, 3, -9):
        world = World(tmp_path, ends={"hourly": status}, saved=tmp_path / f"{status}.json")
        world.shift = -timedelta(seconds=world.now())
        await world.keep(3_900)
        await world.keep(900)
        assert len(world.runs) == 1
        assert any(event == "end" and f"ended with {status}: " in text for event, _, text in world.said)


@pytest.mark.parametrize(("at_most", "ends"), [(1, [660, 720]), (2, [660, 660])])
async def test_as_many_jobs_run_side_by_side_as_are_allowed(tmp_path: Path, at_most: int, ends: list[float]) -> None:
    """Jobs of one account share its limits, so one after the other is what is safe; all are run in any case."""
    for name in ("a", "b"):
        write(tmp_path, name, "10 12 * * *")
    world = World(tmp_path, takes={"a": 60, "b": 60}, at_most=at_most)
    await world.keep(3_000)
    assert sorted(end for _, _, end in world.runs) == ends
    assert ("wait" in world.events()) == (at_most == 1)


async def test_a_bad_job_file_is_said_once_and_again_when_it_changes(tmp_path: Path) -> None:
    """One typo must not stop the others' nights, nor fill the log until somebody looks."""
    write(tmp_path, "good", "*/10 * * * *")
    bad = tmp_path / "bad.toml"
    bad.write_text("[schedule]\ncron = '0 2 * * 9'\n")
    (tmp_path / "base.toml").write_text("model = 'm'\nodd = 1\n")  # of which other jobs are made
    world = World(tmp_path)

    async def meanwhile(_: Keeper) -> None:
        await anyio.sleep(1_000)
        bad.write_text("cron = ")
        await anyio.sleep(1_000)
        write(tmp_path, "bad", "*/40 * * * *")
        await anyio.sleep(900)

    await world.keep(0, meanwhile)
    told = [text for event, _, text in world.said if event == "bad_file"]
    assert len(told) == 2
    assert "schedule.cron: weekday '9'" in told[0]
    assert "not TOML" in told[1]
    assert world.begins("good") == pytest.approx([600, 1_200, 1_800, 2_400], abs=2)
    assert world.begins("bad") == pytest.approx([2_400], abs=2), "mended, it runs"


async def test_job_files_are_reread_and_a_run_goes_on_without_its_file(tmp_path: Path) -> None:
    """Jobs come and go without a restart, and what runs is never cut off by an editor."""
    old = write(tmp_path, "old", "10 * * * *")
    world = World(tmp_path, takes={"old": 600})

    async def meanwhile(keeper: Keeper) -> None:
        await anyio.sleep(700)
        old.unlink()
        write(tmp_path, "new", "30 * * * *")
        keeper.reread()
        await anyio.sleep(2 * 3_600)

    await world.keep(0, meanwhile)
    assert world.runs == [("old", 600, 1_200), ("new", 1_800, 1_801), ("new", 5_400, 5_401)]
    assert "reread" in world.events()


async def test_a_changed_time_begins_nothing_that_its_new_rule_would_have_begun_before(tmp_path: Path) -> None:
    """Whoever moves a job to nine o'clock at noon means tomorrow's nine o'clock."""
    write(tmp_path, "job", "30 13 * * *")
    world = World(tmp_path)

    async def meanwhile(_: Keeper) -> None:
        await anyio.sleep(3_600)
        write(tmp_path, "job", "15 12 * * *")
        await anyio.sleep(3_600)

    await world.keep(0, meanwhile)
    assert not world.runs
    write(tmp_path, "job", "15 13 * * *")  # while it is off
    await world.keep(600)
    assert not world.runs


async def test_a_clock_that_is_set_forward_costs_half_a_minute_and_one_set_back_runs_nothing_twice(
    tmp_path: Path,
) -> None:
    """Machines sleep, and clocks are set: the scheduler waits for a time of day and not for so many seconds."""
    write(tmp_path, "job", "0 18 * * *")
    world = World(tmp_path)

    async def meanwhile(_: Keeper) -> None:
        await anyio.sleep(100)
        world.shift = timedelta(hours=7)  # a suspend until past 19:00
        await anyio.sleep(100)
        assert len(world.begins("job")) == 1
        assert world.begins("job")[0] <= 131
        world.shift = timedelta(hours=5, minutes=50)  # 17:53
        await anyio.sleep(3_600)

    await world.keep(0, meanwhile)
    assert len(world.runs) == 1


async def test_a_time_seen_in_the_far_future_is_not_believed(tmp_path: Path) -> None:
    """A clock that once said 2099 must not silence a job until then."""
    path = write(tmp_path, "job", "*/10 * * * *")
    world = World(tmp_path)
    with world.memory() as memory:
        memory.put(path, Memo("*/10 * * * * UTC", datetime(2099, 1, 1, tzinfo=UTC)))
    await world.keep(700)
    assert world.begins("job") == [600]
    assert "state" in world.events()


async def test_once_runs_what_is_due_and_says_the_worst(tmp_path: Path) -> None:
    """Whoever has a timer of their own wants one command with an exit status, that runs nothing before its time."""
    write(tmp_path, "a", "0 2 * * *")
    write(tmp_path, "b", "0 3 * * *")
    write(tmp_path, "old", "0 2 * * *", misfire_grace_s=60)
    world = World(tmp_path, ends={"a": 3, "b": 1})
    assert await world.once() == 3
    assert [name for name, _, _ in world.runs] == ["a", "b"], "the earlier time first; one is too late"
    assert await world.once() == 0
    assert len(world.runs) == 2, "nothing is due"
    await anyio.sleep(15 * 3_600)  # past 3:00
    world.ends = {"a": 4}
    assert await world.once() == 0, "another hand that runs it is no fault"
    assert len(world.runs) == 4
    (tmp_path / "bad.toml").write_text("[schedule")
    assert await world.once() == 2


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"[]", b'{"schema": 9}', b"\0" * 99, b"[" * 9_999),
        *(
            b'{"schema":1,"jobs":{"/a":{"rule":"0 * * * * UTC","open":false,"seen":"%b"}}}' % seen
            for seen in (b"x", b"0001-01-01T00:00:00+14:00", b"0001-01-01T00:00:00+00:00", b"9999-12-31T23:59:59-14:00")
        ),
    ],
)
async def test_a_damaged_memory_is_set_aside_and_stops_nothing(tmp_path: Path, damage: bytes) -> None:
    """A power cut leaves such files; the jobs' times are in their job files, so only what was missed is not known."""
    write(tmp_path, "job", "*/10 * * * *")
    (tmp_path / "state.json").write_bytes(damage)
    world = World(tmp_path)
    await world.keep(700)
    assert world.begins("job") == [600]
    assert next(text for event, _, text in world.said if event == "state").endswith("are not known")
    assert (tmp_path / "state.json.damaged").read_bytes() == damage


async def test_a_memory_that_cannot_be_written_is_said_once_and_stops_no_job(tmp_path: Path) -> None:
    """A full disk is no reason not to run what might mend it."""
    write(tmp_path, "job", "*/10 * * * *")
    (tmp_path / "state.json.new").mkdir()
    world = World(tmp_path)
    await world.keep(2_900)
    assert len(world.runs) == 4
    assert world.events().count("state") == 1


async def test_two_schedulers_do_not_share_a_memory(tmp_path: Path) -> None:
    """Two of them, from a boot script and by hand, would each begin every run."""
    world = World(tmp_path)
    with world.memory(), pytest.raises(LockedError, match="--state"), world.memory():
        pass
    with world.memory():
        pass


async def test_a_wait_that_outlasts_the_grace_is_said_to_be_skipped(tmp_path: Path) -> None:
    """A time that is in the log as waiting, and then nowhere, has whoever reads it search for a bug."""
    write(tmp_path, "slow", "*/10 * * * *", misfire_grace_s=300)
    world = World(tmp_path, takes={"slow": 1_150})
    await world.keep(2_390)
    assert world.begins("slow") == [600, 1_800]
    assert [event for event in world.events() if event in ("late", "skip", "begin")] == [
        "begin",
        "late",
        "skip",
        "begin",
    ]


async def test_a_place_that_answers_with_an_error_takes_no_job_along(tmp_path: Path) -> None:
    """A network disk that is away for an hour has not removed any job, and must not end the scheduler."""
    write(tmp_path, "job", "*/10 * * * *")
    sound = Roster([tmp_path])
    sound.look()
    odd = Roster([tmp_path, tmp_path / ("x" * 300)])  # a name that no file system looks up
    odd.entries = sound.entries
    assert odd.look(anew=True).text == ""
    assert [entry.path.stem for entry in odd.entries.values()] == ["job"]
