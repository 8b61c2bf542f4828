"""Looks without touching: what a job would do, how a run stands, one record of it. Sends nothing, loads no SDK.

Invariant: reads only; needs no lock, so it works beside a run that goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from s2a_batch import linefiles, resume, rundir, setup, source
from s2a_batch.account import Totals
from s2a_batch.done import DoneIndex
from s2a_batch.errors import InputError, JobError
from s2a_batch.keys import KeyIndex
from s2a_batch.lock import is_locked
from s2a_batch.records import BadLine, Known, Waiting, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.job import Job
    from s2a_batch.resume import Options

_SCHEMA: Final = 1
_SHOWN_BAD_LINES: Final = 20
_CHARS_PER_TOKEN: Final = 3.5


@dataclass(slots=True)
class Preview:
    """What a dry run found.

    Attributes:
        lines: Non-blank lines.
        pending: Records that a run would take up.
        done: Records that an earlier run of the same directory finished.
        bad: Faulty lines by reason.
        samples: The first faulty lines: place and message.
        waiting: Half last lines, as if still being written.
        requests: About how many a run would send now: without retries, and no more records than its limit.
        prompt_tokens: About how many the prompts of those records have.
        cut_short: Why the input could not be read to its end.
        without_id: Pending records without one.
        same_id: Pending records whose id an earlier one has.
    """

    lines: int = 0
    pending: int = 0
    done: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[str, str]] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    requests: int = 0
    prompt_tokens: int = 0
    cut_short: str | None = None
    without_id: int = 0
    same_id: int = 0

    def note_bad(self, bad: BadLine) -> None:
        """Count a faulty line; the first ones are kept."""
        self.bad[bad.kind] += 1
        if len(self.samples) < _SHOWN_BAD_LINES:
            self.samples.append((place_of(bad.line, bad.file), bad.message))

    def told(self, name: str) -> list[str]:
        """The faulty and unfinished lines of the input of this name, each in one line for a person."""
        rows = [
            f"{name} line {place}: {said}" if place.isdigit() else f"{place}: {said}" for place, said in self.samples
        ]
        more = self.bad.total() - len(self.samples)
        return [*rows, *([f"and {more} more"] if more else []), *map(str, self.waiting)]


async def dry_run(job: Job, options: Options, environ: Mapping[str, str]) -> Preview:
    """Check what a run would check and read the whole input; nothing is sent and nothing is written.

    Raises:
        JobError: As a run would raise it.
    """
    setup.check_setup(job, environ)
    setup.check_directory(job, options)
    return await preview(job, options)


async def preview(job: Job, options: Options) -> Preview:
    """Read the whole input as a run would.

    Raises:
        JobError: There are no rewrites where the job borrows them.
    """
    found, chars, taken = Preview(), 0, 0
    with setup.Outlook(job, options) as outlook, closing(DoneIndex()) as ids:
        try:
            async with aclosing(source.records(job.input, job.fields, outlook.keys)) as records:
                async for record in records:
                    if isinstance(record, Known):
                        found.lines += record.lines
                        found.done += record.lines
                        continue
                    found.lines += 1
                    if isinstance(record, Waiting):
                        found.waiting.append(record)
                        continue
                    now = options.limit is None or taken < options.limit
                    taken += now
                    if isinstance(record, BadLine):
                        found.note_bad(record)
                        continue
                    found.pending += 1
                    if record.id_json == b"null":
                        found.without_id += 1
                    else:
                        ids.add([record.id_json], "answered")
                    if now:
                        chars += len(record.prompt)
                        found.requests += len(outlook.requests(record))
        except InputError as error:
            found.cut_short = str(error)
        ids.sealed()
        found.same_id = ids.added - ids.counts.total()
    found.prompt_tokens = round(chars / _CHARS_PER_TOKEN)
    return found


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run's directory stands.

    Attributes:
        running: Whether a run holds it now.
        waiting: Finished rewrites that have no answer yet.
        manifest: What `run.json` says, of the last execution that came to an end.
        totals: What all executions used that are over, killed ones but counted; None when `run.json` cannot tell.
    """

    running: bool
    answered: int
    failed: int
    waiting: int
    manifest: dict[str, JsonValue]
    totals: Totals | None


def standing(directory: Path, *, count: bool = True) -> Standing:
    """Count what is in a run's directory, unless the run tells it itself; `JobError` when it is none."""
    manifest = _manifest(directory)
    if not count:
        return Standing(True, 0, 0, 0, manifest, _totals(manifest, running=True))  # noqa: FBT003  it runs
    with KeyIndex() as keys:
        keys.add_done((key for key, _ in linefiles.scan(directory / rundir.RESULTS)), "answered")
        keys.add_done((key for key, _ in linefiles.scan(directory / rundir.DEAD_LETTERS)), "failed")
        keys.add_rewrites(linefiles.scan(directory / rundir.REWRITES))
        done, waiting = keys.done(), keys.rewrite_count()
    running = is_locked(directory)
    answered, failed = done.get("answered", 0), done.get("failed", 0)
    return Standing(running, answered, failed, waiting, manifest, _totals(manifest, running=running))


def standing_json(directory: Path, found: Standing, live: dict[str, JsonValue] | None) -> str:
    """How a run stands as one JSON object: live numbers where the run tells them, else what its files say."""
    return json.dumps(
        {
            "schema": _SCHEMA,
            "directory": str(directory),
            "running": found.running,
            "live": live,
            "files": None if live else {name: getattr(found, name) for name in ("answered", "failed", "waiting")},
            "summary": None if found.running else found.manifest.get("summary"),
            "written_at": found.manifest.get("written_at"),
            "totals": None if found.totals is None else found.totals.model_dump(mode="json"),
        }
    )


def _totals(manifest: dict[str, JsonValue], *, running: bool) -> Totals | None:
    try:
        return Totals.model_validate(manifest["totals"]) if running else resume.totals_in(manifest)
    except (KeyError, ValueError):
        return None


def find(directory: Path, wanted: str) -> list[bytes]:
    """The result lines of the records with this id, key, `line:N` or `FILE:N`; a bare rewrite only without a result.

    Raises:
        JobError: There is none.
    """
    _manifest(directory)
    needles = _needles(wanted)
    for names in ((rundir.RESULTS, rundir.DEAD_LETTERS), (rundir.REWRITES,)):
        found = [
            line
            for name in names
            for _, line in linefiles.lines(directory / name)
            if any(needle in line[: len(needle) + 200] for needle in needles) or _stands_at(line, wanted)
        ]
        if found:
            return found
    raise JobError(f"{directory}: no record '{wanted}'; give an id of the input, a key, line:N or FILE:N")


def input_names(directory: Path) -> Mapping[str, JsonValue]:
    """Under which names the input objects of a run hold their parts: its job's `fields` table."""
    job = _manifest(directory).get("job")
    fields = job.get("fields") if isinstance(job, dict) else None
    return fields if isinstance(fields, dict) else {}


def first_failed(directory: Path) -> str | None:
    """`line:N` or `FILE:N` of the first dead letter; None when there is none, or none to be read."""
    try:
        _, line = next(linefiles.lines(directory / rundir.DEAD_LETTERS))
        found = json.loads(line)
        return place_of(int(found["line"]), str(found.get("file") or "line"))
    except (StopIteration, OSError, ValueError, KeyError, TypeError):
        return None


def _manifest(directory: Path) -> dict[str, JsonValue]:
    manifest = rundir.read_manifest(directory)
    if manifest is None:
        raise JobError(f"{directory}: no run here (it has no {rundir.MANIFEST}); give the directory that -o named")
    return manifest


def _stands_at(line: bytes, wanted: str) -> bool:
    """Whether a record's line stands at a place that is given as `b.jsonl:12`."""
    file, _, number = wanted.rpartition(":")
    if not (file and number.isascii() and number.isdigit() and b'"line":%d,"id":' % int(number) in line[:200]):
        return False
    try:
        return bool(json.loads(line).get("file") == file)
    except ValueError:
        return False


def _needles(wanted: str) -> list[bytes]:
    """How a wanted record shows at the head of its line; an id may be a text or a number."""
    raw = wanted.encode(errors="replace")
    ids = [b'"id":' + json.dumps(wanted).encode() + b',"status":', b'"id":' + raw + b',"status":']
    kind, _, number = wanted.partition(":")
    if kind == "line" and number.isascii() and number.isdigit():
        return [b'"line":%d,"id":' % int(number), *ids]
    return [b'"key":"' + raw + b'","line":', *ids]
