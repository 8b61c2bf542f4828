"""What becomes of times that could not be begun when they came: none is lost without a word, or in time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.scheduling import World, write

if TYPE_CHECKING:
    from pathlib import Path

    from s2a_batch.schedule.keeper import Keeper

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.mark.parametrize(
    ("more", "takes", "begins", "skipped"),
    [
        ({"cron": "*/15 * * * *", "misfire_grace_s": 1_200}, 2_200, [900, 3_100], ["12:30"]),
        ({"cron": "* * * * *", "misfire": "skip"}, 125, [60, 185, 310], ["12:02", "12:04"]),
    ],
)
async def test_a_time_within_its_grace_is_not_lost_with_one_that_is_beyond(
    tmp_path: Path, more: dict[str, Any], takes: float, begins: list[float], skipped: list[str]
) -> None:
    """A run that is six minutes late where twenty are allowed is what the owner asked for; none is a quarter lost."""
    write(tmp_path, "job", **more)
    world = World(tmp_path, takes={"job": takes})
    await world.keep(begins[-1] + 1)
    assert world.begins("job") == begins
    told = [text.split(" UTC: ")[0] for event, _, text in world.said if event == "skip"]
    assert told == [f"skipped the time Mon 2026-06-01 {time}" for time in skipped]


async def test_each_time_that_a_long_run_costs_is_told_in_two_lines(tmp_path: Path) -> None:
    """Whoever counts the nights in the log finds all; one line a minute would hide the rest of it."""
    write(tmp_path, "job", "* * * * *", misfire="skip")
    world = World(tmp_path, takes={"job": 890})
    await world.keep(1_000)
    assert world.begins("job") == [60, 950]
    assert [text for event, _, text in world.said if event == "skip"] == [
        "skipped the time Mon 2026-06-01 12:02 UTC: its earlier run still goes",
        "skipped the times from Mon 2026-06-01 12:03 to Mon 2026-06-01 12:14 UTC, too: its earlier run still went",
    ]


async def test_a_clock_that_is_set_back_by_hours_silences_no_job(tmp_path: Path) -> None:
    """A job of every minute that stands still for three hours, without a word, is found out by its users."""
    write(tmp_path, "job", "* * * * *")
    world = World(tmp_path)

    async def meanwhile(_: Keeper) -> None:
        await anyio.sleep(100)
        world.shift = -timedelta(hours=3)
        await anyio.sleep(190)

    await world.keep(0, meanwhile)
    assert world.begins("job") == [60, 180, 240], "half a minute went by before it was seen"
    (told,) = [text for event, _, text in world.said if event == "state"]
    assert "2026-06-01T12:01:00Z" in told


async def test_a_time_that_waits_when_the_clock_is_set_back_does_not_hold_up_the_job(tmp_path: Path) -> None:
    """What waits for its jitter would else wait for the old time of day."""
    write(tmp_path, "job", "*/30 * * * *", jitter_s=1_500)
    world = World(tmp_path)

    async def meanwhile(_: Keeper) -> None:
        await anyio.sleep(1_801)
        assert not world.runs
        world.shift = -timedelta(hours=6)
        await anyio.sleep(4 * 3_600)

    await world.keep(0, meanwhile)
    assert len(world.runs) >= 6


async def test_a_waiting_time_is_told_to_be_dropped_when_its_rule_changes(tmp_path: Path) -> None:
    """The log said that it waits; an edit must not make it vanish."""
    write(tmp_path, "a", "1 12 * * *")
    write(tmp_path, "b", "2 12 * * *")
    world = World(tmp_path, takes={"a": 600})

    async def meanwhile(keeper: Keeper) -> None:
        await anyio.sleep(200)
        write(tmp_path, "b", "30 12 * * *")
        keeper.reread()
        await anyio.sleep(2_000)

    await world.keep(0, meanwhile)
    assert world.begins("b") == [1_800]
    assert [text for event, _, text in world.said if event == "skip"] == [
        "skipped the time Mon 2026-06-01 12:02 UTC: its schedule was changed"
    ]


async def test_a_change_in_what_a_job_extends_is_noticed(tmp_path: Path) -> None:
    """The time may stand there, or the zone: whoever edits it has no other file to touch."""
    base = tmp_path / "shared" / "base.toml"
    base.parent.mkdir()
    base.write_text('[schedule]\ncron = "0 15 * * *"\n')
    (tmp_path / "job.toml").write_text('extends = "shared/base.toml"\ninput = "i"\noutput = "o"\n')
    world = World(tmp_path)

    async def meanwhile(_: Keeper) -> None:
        await anyio.sleep(100)
        assert world.events() == []
        base.write_text('[schedule]\ncron = "*/5 * * * *"\n')
        await anyio.sleep(250)

    await world.keep(0, meanwhile)
    assert world.begins("job") == [300]
