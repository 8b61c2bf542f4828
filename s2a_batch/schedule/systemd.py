"""A job as a systemd service and timer.

Invariant: a path stands as systemd reads it: `%` is a specifier, `$` a variable, quotes only where it takes them; one
that it would misread is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import JobError
from s2a_batch.schedule.units import comes_twice, days, left_out, listed, seconds

if TYPE_CHECKING:
    from s2a_batch.cron import Cron
    from s2a_batch.schedule.units import Unit

_NO_PROGRAM: Final = re.compile(r"[\"'\\]")
_WEEKDAYS: Final = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def files(unit: Unit) -> dict[str, str]:
    """The service and its timer by file name."""
    _check(unit)
    return {f"{unit.name}.service": _service(unit), f"{unit.name}.timer": _timer(unit)}


def _check(unit: Unit) -> None:
    if _NO_PROGRAM.search(str(unit.python)):
        raise JobError(f"{unit.python}: systemd runs no program with a quote or a backslash in its path")
    for place in (str(unit.folder), unit.file.name):
        if place.endswith(("\\", " ")):
            raise JobError(f"{place!r}: systemd misreads a path that ends in a backslash or a space")


def _service(unit: Unit) -> str:
    schedule = unit.job.schedule
    limit = "infinity" if schedule.timeout_s is None else seconds(schedule.timeout_s)
    command = " ".join([_quoted(unit.command[0]), *(_quoted(word).replace("$", "$$") for word in unit.command[1:])])
    return f"""\
[Unit]
Description=s2a-batch run {_plain(unit.file.name)}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
# Whose files these are; without it the job runs as root.
#User=s2a
WorkingDirectory={_plain(str(unit.folder))}
ExecStart={command}
# Keys: lines NAME=value, a file of mode 0600. Or LoadCredential=key:/etc/{unit.name}.key
# and in the job api_key_file = "/run/credentials/{unit.name}.service/key"
EnvironmentFile=-/etc/{unit.name}.env
UMask=0077
# SIGTERM drains: what is open is finished and written, the rest stays pending for the next run.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStartSec={limit}
TimeoutStopSec={unit.stop_s}
# 4: another run of it goes on. 143: it was told to stop. Exit 3 must not restart: a budget would be spent again.
SuccessExitStatus=4 143
Restart=no
NoNewPrivileges=yes
ProtectSystem=full
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
"""


def _timer(unit: Unit) -> str:
    schedule = unit.job.schedule
    calendar = "\n".join(f"OnCalendar={text}" for text in calendars(unit.cron, schedule.timezone))
    grace = "" if schedule.misfire_grace_s is None else "# systemd makes up a missed time however late it is.\n"
    return f"""\
[Unit]
Description=When to run {_plain(unit.file.name)}: {_plain(schedule.cron or "")} {schedule.timezone}

[Timer]
{left_out(unit, "systemd")}{comes_twice(unit, "systemd")}{calendar}
AccuracySec=1s
RandomizedDelaySec={seconds(schedule.jitter_s)}
{grace if schedule.misfire == "run" else ""}Persistent={"true" if schedule.misfire == "run" else "false"}

[Install]
WantedBy=timers.target
"""


def calendars(cron: Cron, zone: str) -> list[str]:
    """The times as systemd's calendar events; more than one where a day or a weekday will do."""
    clock = f"{listed(cron.hours, 24, 2)}:{listed(cron.minutes, 60, 2)}:00"
    found = []
    for in_month, in_week in days(cron):
        weekdays = "" if in_week is None else ",".join(_WEEKDAYS[n] for n in in_week) + " "
        date = f"*-{listed(cron.months, 12, 2)}-{'*' if in_month is None else listed(in_month, 31, 2)}"
        found.append(f"{weekdays}{date} {clock} {zone}")
    return found


def _plain(text: str) -> str:
    """A text outside of quotes, where quotes and spaces are themselves."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """One argument of a command."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
