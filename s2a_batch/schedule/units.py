"""What has another scheduler run a job: what its units need to know, and the files that are written for each.

Invariants: a unit says the job's times exactly or is refused with the reason; a path stands in it as that program reads
paths, whatever signs it holds; no key is in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from zoneinfo import ZoneInfo

from s2a_batch import jobfile
from s2a_batch.cron import parse
from s2a_batch.errors import JobError
from s2a_batch.schedule.children import MARGIN_S, command
from s2a_batch.schedule.roster import check_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.cron import Cron
    from s2a_batch.job import Job

Form = Literal["systemd", "cron", "kubernetes"]
_NAME_CHARS: Final = 40
_DIGEST_CHARS: Final = 8


@dataclass(frozen=True)
class Unit:
    """One job, and where it lies on the machine that runs it.

    Attributes:
        name: Of the units; letters, digits and hyphens.
        file: The job file.
        folder: The working directory.
        local: The same, on this machine.
        python: The interpreter that has this package.
        text: What the job file says.
        image: The container's image, where one is named.
    """

    name: str
    job: Job
    cron: Cron
    file: Path
    folder: Path
    local: Path
    python: Path
    text: str
    image: str | None = None

    @property
    def stop_s(self) -> int:
        """How long a stopped run may take."""
        return int(-(-self.job.retry.drain_s // 1)) + int(MARGIN_S)

    @property
    def command(self) -> list[str]:
        """What runs the job."""
        return command(self.file, self.python)


def files(form: Form, path: Path, root: Path | None, image: str | None) -> dict[str, str]:
    """The units of a job by file name.

    Args:
        form: For which scheduler.
        path: The job file.
        root: Where the working directory lies on the machine that runs the job; None for this machine, as it is.
        image: Of the container.

    Raises:
        JobError: The job has no schedule, or one that cannot be said there.
    """
    from s2a_batch.schedule import crontab, kubernetes, systemd  # noqa: PLC0415  they need `Unit`

    unit = _unit(path, root, image)
    write = {"systemd": systemd.files, "cron": crontab.files, "kubernetes": kubernetes.files}[form]
    return write(unit)


def printed(found: dict[str, str]) -> str:
    """The files as one text, each under its name."""
    return "\n".join(f"# file: {name}\n{text}" for name, text in found.items()).removesuffix("\n")


def written(found: dict[str, str], folder: Path, *, force: bool = False) -> str:
    """Write the files into a directory, and return their paths, one a line.

    Raises:
        JobError: A file of other content is there, which may be another job's; nothing is written. Not with `force`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in ((folder / name, text) for name, text in found.items()):
        if not force and path.exists() and path.read_bytes() != text.encode():
            raise JobError(
                f"{path}: is there with other content; if it is another job's give this one a name of its own"
                ' (name = ".."), else replace it by --force'
            )
    for name, text in found.items():
        (folder / name).write_text(text, encoding="utf-8")
    return "\n".join(str(folder / name) for name in found)


def _unit(path: Path, root: Path | None, image: str | None) -> Unit:
    job = jobfile.load(path)
    if job.schedule.cron is None:
        raise JobError(f"{path}: schedule.cron is missing, so there is no time to print")
    check_input(path, job)
    here, file = Path.cwd(), Path(os.path.abspath(path))  # noqa: PTH100  a link keeps its name
    folder, python = here, Path(sys.executable)
    if root is not None:
        if not file.is_relative_to(here):
            raise JobError(f"{path}: --root stands for the working directory, and the job file is not below it")
        folder, file, python = root, root / file.relative_to(here), root / ".venv/bin/python"
    for place in (file, folder, python):
        if not str(place).isprintable():
            raise JobError(f"{str(place)!r}: a path with a line end or a control sign cannot be said in a unit")
        if not place.is_absolute():
            raise JobError(f"{place}: --root must be an absolute path")
    text = path.read_text("utf-8-sig")
    return Unit(called(job.name or path.stem), job, parse(job.schedule.cron), file, folder, here, python, text, image)


def called(text: str) -> str:
    """What the units of a job of this name are called; a digest stands for letters that are left out."""
    found = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not found or not text.isascii() or len(found) > _NAME_CHARS:
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_CHARS]
        found = f"{found[: _NAME_CHARS - _DIGEST_CHARS - 1].strip('-') or 'job'}-{digest}"
    return f"s2a-batch-{found}"


def listed(values: tuple[int, ...], whole: int, digits: int = 1) -> str:
    """The values of one field, `*` for all of them."""
    return "*" if len(values) == whole else ",".join(f"{value:0{digits}}" for value in values)


def days(cron: Cron) -> list[tuple[tuple[int, ...] | None, tuple[int, ...] | None]]:
    """Alternatives of days and weekdays that must both fit; None for all."""
    in_month = None if len(cron.days) == 31 else cron.days  # noqa: PLR2004  of a month
    in_week = None if len(cron.weekdays) == 7 else cron.weekdays  # noqa: PLR2004  of a week
    if not cron.either:
        return [(in_month, in_week)]
    return [(None, None)] if in_month is None or in_week is None else [(in_month, None), (None, in_week)]


def left_out(unit: Unit, scheduler: str) -> str:
    """A comment where a time of day comes at an hour that the clocks of its zone leave out, which this one skips."""
    zone = ZoneInfo(unit.job.schedule.timezone)
    for wall in _changing(unit, zone):
        if not unit.cron.flowing and wall != _there(wall, zone):
            return (
                f"# In spring the clocks leave out {wall:%H:%M}, and {scheduler} then runs nothing;"
                " the next run takes up all.\n"
            )
    return ""


def comes_twice(unit: Unit, scheduler: str) -> str:
    """A comment where a job that follows the clock has a time that comes twice, which this one runs once."""
    zone = ZoneInfo(unit.job.schedule.timezone)
    for wall in _changing(unit, zone):
        if unit.cron.flowing and _offset(wall, zone) > _offset(wall.replace(fold=1), zone):
            return (
                f"# In autumn the clocks show {wall:%H:%M} twice, and {scheduler} then runs nothing the second time;"
                " the next run takes up all.\n"
            )
    return ""


def _changing(unit: Unit, zone: ZoneInfo) -> Iterator[datetime]:
    """The times of day on those days of the coming year on which the clocks change."""
    day = datetime.now(UTC).date()
    for start in (datetime(day.year, day.month, day.day) + timedelta(days=n) for n in range(366)):  # noqa: DTZ001
        if _offset(start, zone) != _offset(start + timedelta(days=1), zone):
            for hour, minute in product(unit.cron.hours, unit.cron.minutes):
                yield start.replace(hour=hour, minute=minute)


def _offset(wall: datetime, zone: ZoneInfo) -> timedelta:
    return wall.replace(tzinfo=zone).utcoffset() or timedelta()


def _there(wall: datetime, zone: ZoneInfo) -> datetime:
    """What a clock shows at the instant that the wall time stands for."""
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None)


def seconds(value: float) -> str:
    """Whole seconds, rounded up."""
    return str(int(-(-value // 1)))
