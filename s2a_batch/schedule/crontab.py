"""A job as lines of a crontab.

Invariants: what the shell gets is quoted for it, and then for cron, to which `%` is a line end; nothing is printed when
all is well, so that no mail is sent.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import JobError
from s2a_batch.schedule.units import seconds

if TYPE_CHECKING:
    from s2a_batch.schedule.units import Unit

_MOST_CHARS: Final = 990  # Debian's cron takes 998 for a command


def files(unit: Unit) -> dict[str, str]:
    """The lines under one name."""
    return {f"{unit.name}.crontab": _lines(unit)}


def _lines(unit: Unit) -> str:
    schedule = unit.job.schedule
    words = unit.command
    if schedule.timeout_s is not None:  # SIGTERM drains; the kill is for a run that does not end
        words = ["timeout", f"--kill-after={unit.stop_s}", seconds(schedule.timeout_s), *words]
    wait = ""
    if schedule.jitter_s:
        code = f"import random, time; time.sleep(random.uniform(0, {schedule.jitter_s:g}))"
        wait = shlex.join([str(unit.python), "-P", "-c", code]) + " && "
    command = f"cd {shlex.quote(str(unit.folder))} && {wait}exec {shlex.join(words)}".replace("%", "\\%")
    if len(command.encode()) > _MOST_CHARS:
        raise JobError(f"{unit.file}: the command is too long for cron (over {_MOST_CHARS} bytes); use shorter paths")
    missed = "" if schedule.misfire == "skip" else "# cron makes up for no missed time; the next run takes up all.\n"
    return f"""\
# Times are meant in {schedule.timezone}. cronie reads that from CRON_TZ; Debian's cron has only the machine's own zone,
# which must then be the same (timedatectl, /etc/localtime).
# Keys: the job's api_key_file, or lines NAME=value here. Exit 4 (an earlier run goes on) and faults come by mail.
{missed}SHELL=/bin/sh
PATH=/usr/local/bin:/usr/bin:/bin
LC_ALL=C.UTF-8
CRON_TZ={schedule.timezone}
{" ".join(unit.cron.fields)} {command}
"""
