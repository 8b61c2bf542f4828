"""Looks without touching: what a job would do, how a run stands, one record of it. Sends nothing, loads no SDK.

Invariant: reads only; needs no lock, so it works beside a run that goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from s2a_batch import rundir, source
from s2a_batch.answers import answer_model
from s2a_batch.errors import InputError, JobError
from s2a_batch.job import is_embedded
from s2a_batch.jobfile import secrets_of
from s2a_batch.keys import KeyIndex
from s2a_batch.records import BadLine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.job import Job

_SHOWN_BAD_LINES: Final = 20


@dataclass(slots=True)
class Preview:
    """What a dry run found.

    Attributes:
        lines: Non-blank lines.
        pending: Records that a run would take up.
        done: Records that an earlier run of the same directory finished.
        bad: Faulty lines by reason.
        samples: The first faulty lines: number and message.
        prompt_chars: Sum over the pending prompts.
        cut_short: Why the input could not be read to its end.
    """

    lines: int = 0
    pending: int = 0
    done: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, str]] = field(default_factory=list)
    prompt_chars: int = 0
    cut_short: str | None = None


async def dry_run(job: Job, environ: Mapping[str, str]) -> Preview:
    """Check the job and read the whole input; nothing is sent and nothing is written.

    Raises:
        JobError: As a run would raise it.
    """
    answer_model(job.answer)
    for name, stage in job.stages().items():
        if not is_embedded(stage):
            secrets_of(job, name, environ)
    found = Preview()
    with KeyIndex() as keys:
        for name in (rundir.RESULTS, rundir.DEAD_LETTERS, *((rundir.REWRITES,) if job.only else ())):
            keys.add_done((key for key, _ in rundir.scan(job.output / name)), "answered")
        try:
            async with aclosing(source.records(job.input, job.fields, keys)) as records:
                async for record in records:
                    found.lines += 1
                    if isinstance(record, BadLine):
                        found.bad[record.kind] += 1
                        if len(found.samples) < _SHOWN_BAD_LINES:
                            found.samples.append((record.line, record.message))
                    elif keys.done_as(record.key) is not None:
                        found.done += 1
                    else:
                        found.pending += 1
                        found.prompt_chars += len(record.prompt)
        except InputError as error:
            found.cut_short = str(error)
    return found


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run's directory stands.

    Attributes:
        running: Whether a run holds it now.
        waiting: Finished rewrites that have no answer yet.
        manifest: What `run.json` says, of the last execution that came to an end.
    """

    running: bool
    answered: int
    failed: int
    waiting: int
    manifest: dict[str, JsonValue]


def standing(directory: Path) -> Standing:
    """Count what is in a run's directory; `JobError` when it is none."""
    manifest = rundir.read_manifest(directory)
    if manifest is None:
        raise JobError(f"{directory}: no run here (it has no {rundir.MANIFEST}); give the directory that -o named")
    with KeyIndex() as keys:
        answered = keys.add_done((key for key, _ in rundir.scan(directory / rundir.RESULTS)), "answered")
        failed = keys.add_done((key for key, _ in rundir.scan(directory / rundir.DEAD_LETTERS)), "failed")
        keys.add_rewrites(rundir.scan(directory / rundir.REWRITES))
        waiting = keys.rewrite_count()
    return Standing(rundir.is_locked(directory), answered, failed, waiting, manifest)


def find(directory: Path, wanted: str) -> list[bytes]:
    """The result lines of the records with this id, key or `line:N`; results first, a bare rewrite only without one.

    Raises:
        JobError: There is none.
    """
    rundir.read_manifest(directory)
    needles = _needles(wanted)
    for names in ((rundir.RESULTS, rundir.DEAD_LETTERS), (rundir.REWRITES,)):
        found = [
            line
            for name in names
            for _, line in rundir.lines(directory / name)
            if any(needle in line[: len(needle) + 200] for needle in needles)
        ]
        if found:
            return found
    raise JobError(f"{directory}: no record '{wanted}'; give an id of the input, a key, or line:N")


def _needles(wanted: str) -> list[bytes]:
    """How a wanted record shows at the head of its line; an id may be a text or a number."""
    raw = wanted.encode(errors="replace")
    ids = [b'"id":' + json.dumps(wanted).encode() + b',"status":', b'"id":' + raw + b',"status":']
    kind, _, number = wanted.partition(":")
    if kind == "line" and number.isascii() and number.isdigit():
        return [b'"line":%d,"id":' % int(number), *ids]
    return [b'"key":"' + raw + b'","line":', *ids]
