"""A job as a Kubernetes CronJob, with the job file as a ConfigMap and a volume for what it reads and writes.

Invariant: texts stand as JSON strings, which YAML reads as they are.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from s2a_batch import __version__
from s2a_batch.bounds import Table
from s2a_batch.errors import JobError
from s2a_batch.inputs.stores import is_url
from s2a_batch.schedule.children import arguments
from s2a_batch.schedule.units import days, left_out, listed, seconds
from s2a_batch.stagejob import EMBEDDED, is_local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.cron import Cron
    from s2a_batch.schedule.units import Unit

_HIDDEN: Final = re.compile(r"://[^/\s\"']*@|://[^\s\"']*\?[^\s\"']*(key|token|secret|sig|pass)", re.IGNORECASE)
_A_DAY: Final = 86_400
_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}")
_LEAST_S: Final = 60  # the controller looks every 10 s


def files(unit: Unit) -> dict[str, str]:
    """All objects in one file."""
    return {f"{unit.name}.yaml": "---\n".join((_config(unit), _claim(unit), _cronjob(unit)))}


def fields(cron: Cron, file: Path) -> str:
    """The five fields as numbers: Kubernetes knows no weekday 7, and has `*/2` and a weekday as alternatives."""
    alternatives = days(cron)
    in_month, in_week = alternatives[0]
    if len(alternatives) > 1:
        in_week = alternatives[1][1]
    elif in_month is not None and in_week is not None:
        raise JobError(
            f"{file}: in schedule.cron day and weekday must both fit, as one of them begins with *;"
            " Kubernetes runs a job where either fits, so it cannot be said there"
        )
    times = (listed(cron.minutes, 60), listed(cron.hours, 24))
    dates = ("*" if in_month is None else listed(in_month, 31), listed(cron.months, 12))
    return " ".join((*times, *dates, "*" if in_week is None else listed(in_week, 7)))


def _quoted(value: str | list[str]) -> str:
    """As JSON, which YAML reads as it is, but for pairs of escapes: what cannot stand there has one of YAML's own."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in text)


def _key(unit: Unit) -> str:
    """The job file's name in the ConfigMap."""
    return unit.file.name if _KEY.fullmatch(unit.file.name) else "job.toml"


def _config(unit: Unit) -> str:
    lines = unit.text.rstrip("\n").split("\n")
    body = _quoted(unit.text)
    if all(line.isprintable() for line in lines) and any(lines):
        first = next(line for line in lines if line)
        mark = "|2" if first.startswith(" ") else "|"  # else what the first line is indented by is taken off all
        body = "\n".join([mark, *(f"    {line}" if line else "" for line in lines)])
    return f"""\
# The job file. What it names by relative paths lies in the volume, as do its results.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {unit.name}
data:
  {_quoted(_key(unit))}: {body}
"""


def _claim(unit: Unit) -> str:
    return f"""\
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {unit.name}
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 10Gi
"""


def _cronjob(unit: Unit) -> str:
    schedule, job = unit.job.schedule, unit.job
    if _HIDDEN.search(unit.text):
        raise JobError(f"{unit.file}: an address in it holds a password or a key, which the ConfigMap would show")
    if len(job.files) > 1:
        raise JobError(f"{unit.file}: extends other files, which the ConfigMap has no place for; put them into one")
    if ":" in str(unit.folder) + str(unit.file):
        raise JobError(f"{unit.file}: Kubernetes mounts nothing where a path has a colon")
    for name, place in (*(("input", place) for place in job.input if not is_url(place)), *_places(job)):
        if not _is_inside(unit, place):
            raise JobError(f"{name}: {place}: lies outside of {unit.local}, which becomes the volume; move it there")
    late_s = schedule.misfire_grace_s or (_LEAST_S if schedule.misfire == "skip" else _A_DAY)
    limit = "" if schedule.timeout_s is None else f"      activeDeadlineSeconds: {seconds(schedule.timeout_s)}\n"
    jitter = "# A CronJob has no jitter: schedule.jitter_s is left out.\n" if schedule.jitter_s else ""
    return f"""\
{left_out(unit, "Kubernetes")}{jitter}{_programs(unit)}apiVersion: batch/v1
kind: CronJob
metadata:
  name: {unit.name}
spec:
  schedule: {_quoted(fields(unit.cron, unit.file))}
  timeZone: {_quoted(schedule.timezone)}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {max(_LEAST_S, int(seconds(late_s)))}
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 7
  jobTemplate:
    spec:
      # No second try by Kubernetes: after exit 3 it would spend a budget again. The next run goes on.
      backoffLimit: 0
{limit}{_pod(unit)}"""


def _places(table: Table, above: str = "") -> Iterator[tuple[str, str | Path]]:
    """All files and directories that a job names, by key."""
    for name, value in table:
        if isinstance(value, Table):
            yield from _places(value, f"{above}{name}.")
        elif isinstance(value, Path) or (name == "model" and value != EMBEDDED and is_local(value)):
            yield f"{above}{name}", value


def _is_inside(unit: Unit, place: str | Path) -> bool:
    return Path(os.path.normpath(unit.local / place)).is_relative_to(unit.local)


def _programs(unit: Unit) -> str:
    """A comment on the commands of hooks that the volume does not hold."""
    hooks = (unit.job.hooks.on_success, unit.job.hooks.on_failure)
    found = dict.fromkeys(hook.command[0] for hook in hooks if hook is not None and hook.command)
    return "".join(
        f"# The image must hold {_quoted(program)}, which a hook runs.\n"
        for program in found
        if "/" not in program or not _is_inside(unit, program)
    )


def _pod(unit: Unit) -> str:
    image = unit.image or f"s2a-batch:{__version__}"
    to_set = "" if unit.image else "  # to be set: an image of yours that has s2a-batch installed; or --image"
    command = ["s2a-batch", *arguments(unit.file)]
    return f"""\
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: {unit.stop_s}
          automountServiceAccountToken: false
          securityContext:
            runAsNonRoot: true
            runAsUser: 10001
            runAsGroup: 10001
            fsGroup: 10001
            seccompProfile: {{type: RuntimeDefault}}
          containers:
            - name: run
              image: {_quoted(image)}{to_set}
              command: {_quoted(command)}
              workingDir: {_quoted(str(unit.folder))}
              env:
                - {{name: HOME, value: /tmp}}
                - {{name: LC_ALL, value: C.UTF-8}}
              # Keys: kubectl create secret generic {unit.name} --from-literal=OPENAI_API_KEY=..
              envFrom:
                - secretRef: {{name: {unit.name}, optional: true}}
              securityContext:
                allowPrivilegeEscalation: false
                readOnlyRootFilesystem: true
                capabilities: {{drop: [ALL]}}
              volumeMounts:
                - name: data
                  mountPath: {_quoted(str(unit.folder))}
                - name: job
                  mountPath: {_quoted(str(unit.file))}
                  subPath: {_quoted(_key(unit))}
                  readOnly: true
                - name: tmp
                  mountPath: /tmp
          volumes:
            - name: data
              persistentVolumeClaim: {{claimName: {unit.name}}}
            - name: job
              configMap: {{name: {unit.name}}}
            - name: tmp
              emptyDir: {{}}
"""
