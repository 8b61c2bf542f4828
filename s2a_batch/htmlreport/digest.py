"""One pass over a run's files: all numbers of it, in memory that does not grow with it.

Reads only; needs no lock, so it works beside a run that goes on. Invariants: each record is counted once, by its
result, and by its rewrite only when it has no result; each request is counted where its record's line tells of it; what
the files cannot tell is unknown. 1 M lines of 2.3 kB take 47 s of one core and 55 MB.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from s2a_batch import linefiles, prices, rundir
from s2a_batch.errors import JobError
from s2a_batch.htmlreport.gauges import RESOLUTION, Histogram, Least, Timeline
from s2a_batch.htmlreport.ledger import OTHER, StageLedger, count, spread
from s2a_batch.htmlreport.onecall import Bill, OneCall
from s2a_batch.htmlreport.picks import Picks, Spot
from s2a_batch.htmlreport.remedies import REMEDIES
from s2a_batch.htmlreport.resultlines import UnreadableLineError, parsed
from s2a_batch.htmlreport.rows import STAGES, row_of
from s2a_batch.htmlreport.told import Told
from s2a_batch.job import Job
from s2a_batch.keys import KeyIndex
from s2a_batch.lock import is_locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.htmlreport.gauges import Moment
    from s2a_batch.htmlreport.readings import BinReading, CheckReading, FailureReading, Reading
    from s2a_batch.htmlreport.rows import Row

SCHEMA: Final = 1
_SHARE_BINS: Final = 25
_PER_SHARE: Final = 20


def digest(directory: Path) -> Reading:
    """All numbers of the run in a directory; `JobError` when there is none."""
    manifest = rundir.read_manifest(directory)
    if manifest is None:
        raise JobError(f"{directory}: no run here (it has no {rundir.MANIFEST}); give the directory that -o named")
    running = is_locked(directory)
    found = _Digest(_bills(manifest), _fields(manifest))
    with KeyIndex() as keys:
        keys.add_done(found.take(directory, rundir.RESULTS), "answered")
        keys.add_done(found.take(directory, rundir.DEAD_LETTERS), "failed")
        keys.add_rewrites(linefiles.scan(directory / rundir.REWRITES))
        if keys.rewrite_count():
            found.take_waiting(directory, keys)
    return found.reading(Told(directory, manifest, running=running))


def _fields(manifest: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    job = manifest.get("job")
    fields = job.get("fields") if isinstance(job, dict) else None
    return fields if isinstance(fields, dict) else {}


def _bills(manifest: Mapping[str, JsonValue]) -> dict[str, tuple[str, Bill]]:
    """Each stage's model and price, as far as this version understands the job; a baseline is asked as an answer is."""
    table = manifest.get("job")
    try:
        job = Job.model_validate(table if isinstance(table, dict) else {})
        of = prices.prices_of(job.model_copy(update={"budget": type(job.budget)()}))
    except (ValidationError, JobError):
        return {}
    found = {str(name): (str(stage.model), Bill(of.get(name))) for name, stage in job.stages().items()}
    return found | ({"baseline": found["answer"]} if "answer" in found else {})


class _Digest:
    """All that is counted."""

    def __init__(self, bills: dict[str, tuple[str, Bill]], fields: Mapping[str, JsonValue]) -> None:
        self._fields = fields
        self.timeline = Timeline()
        none = (None, Bill(None))
        self._stages = {name: StageLedger(*bills.get(name, none)) for name in STAGES}
        self._one_call = OneCall(bills.get("answer", none)[1])
        self._picks = Picks()
        self._statuses: Counter[str] = Counter()
        self._seconds = Histogram()
        self._kept = Histogram()
        self._shares = [0] * _SHARE_BINS
        self._words = [0, 0]
        self._checks: Counter[tuple[str, str]] = Counter()
        self._worst: Counter[str] = Counter()
        self._policies: Counter[str] = Counter()
        self._fingerprints: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._failed_at: dict[str, Counter[str]] = {}
        self._first_failed: dict[str, Least[tuple[int, str | None, str]]] = {}
        self._baselines = self._flips = self._unreadable = 0
        self._first: float | None = None
        self._last: float | None = None

    def take(self, directory: Path, name: str) -> Iterator[bytes]:
        """Count every line of a file; yields the keys."""
        for offset, line in linefiles.lines(directory / name):
            if self._add(line, name, offset):
                yield linefiles.key_of(line)

    def take_waiting(self, directory: Path, keys: KeyIndex) -> None:
        """Count the rewrites of records without a result; of several of one record the last."""
        for offset, line in linefiles.lines(directory / rundir.REWRITES):
            if linefiles.is_sound(line) and keys.rewrite_offset(linefiles.key_of(line).decode()) == offset:
                self._add(line, rundir.REWRITES, offset)

    def _add(self, line: bytes, name: str, offset: int) -> bool:
        try:
            row = row_of(parsed(line), self._fields) if linefiles.is_sound(line) else None
        except UnreadableLineError:
            row = None
        if row is None:
            self._unreadable += 1
            return False
        self._count(row, Spot(name, offset, row.line, row.key))
        return True

    def _count(self, row: Row, spot: Spot) -> None:
        self._statuses[row.status] += 1
        bin_ = self.timeline.at(row.ended)
        setattr(bin_, row.status, getattr(bin_, row.status) + 1)
        began = row.ended - row.seconds
        self._first = began if self._first is None else min(began, self._first)
        self._last = row.ended if self._last is None else max(row.ended, self._last)
        self._seconds.add(row.seconds)
        usd = {name: self._stages[name].add(name, part, self.timeline) for name, part in row.parts.items()}
        self._one_call.add(row, usd)
        if row.status != "rewritten":  # a waiting rewrite has that of a part of the settings
            count(self._fingerprints, row.fingerprint, OTHER)
        if row.policy is not None:
            count(self._policies, row.policy, OTHER)
        if row.flipped is not None:
            self._baselines += 1
            self._flips += row.flipped
        self._judge(row)
        if row.error is not None:
            self._fail(row, *row.error)
        self._picks.add(row, spot)

    def _judge(self, row: Row) -> None:
        for check in row.checks:
            count(self._checks, check, (OTHER, "info"))
        levels = {level for _, level in row.checks}
        if row.rewrite_words is None:
            return
        worst = next((level for level in ("error", "warn", "info") if level in levels), "none")
        self._worst[worst] += 1
        if row.prompt_words:
            share = row.rewrite_words / row.prompt_words
            self._kept.add(share)
            self._shares[min(row.rewrite_words * _PER_SHARE // row.prompt_words, _SHARE_BINS - 1)] += 1
            self._words[0] += row.prompt_words
            self._words[1] += row.rewrite_words

    def _fail(self, row: Row, kind: str, stage: str, message: str) -> None:
        kind = count(self._failures, kind, OTHER)
        count(self._failed_at.setdefault(kind, Counter()), stage, OTHER)
        self._first_failed.setdefault(kind, Least(1)).offer((row.line,), row.key, (row.line, row.file, message))

    def reading(self, told: Told) -> Reading:
        """As it is printed, beside what `run.json` tells."""
        checks = sorted(self._checks.items(), key=lambda item: (_rank(item[0][1]), -item[1], item[0]))
        shown: list[CheckReading] = [{"name": n, "level": level, "records": k} for (n, level), k in checks]
        return {
            "schema": SCHEMA,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "resolution": RESOLUTION,
            "run": told.run(),
            "counts": {
                "answered": self._statuses["answered"],
                "failed": self._statuses["failed"],
                "rewritten": self._statuses["rewritten"],
                "pending": told.pending(),
                "superseded": told.superseded(),
                "unreadable": self._unreadable,
                "set_aside": told.set_aside(),
                "baselines": self._baselines,
                "flips": self._flips,
                "fingerprints": dict(self._fingerprints.most_common()),
            },
            "first": self._first,
            "last": self._last,
            "seconds": spread(self._seconds),
            "stages": {
                name: stage.reading(*self.timeline.merged(name))
                for name, stage in self._stages.items()
                if stage.records
            },
            "course": {"width_s": self.timeline.width_s, "bins": [_bin(*found) for found in self.timeline.course()]},
            "one_call": self._one_call.reading(),
            "compression": {
                "records": self._kept.n,
                "prompt_words": self._words[0],
                "rewrite_words": self._words[1],
                "kept": spread(self._kept),
                "shares": self._shares,
            },
            "checks": shown,
            "checked": {level: self._worst[level] for level in ("error", "warn", "info", "none")},
            "policies": dict(self._policies.most_common()),
            "failures": [self._failure(kind, n) for kind, n in self._failures.most_common()],
            "slowest": self._picks.slowest(),
            "examples": self._picks.examples(self._kept.quantile(0.5)),
        }

    def _failure(self, kind: str, records: int) -> FailureReading:
        meaning, remedy = next((row for known, row in REMEDIES.items() if known == kind), ("", ""))
        line, file, message = self._first_failed[kind].things()[0]
        return {
            "kind": kind,
            "records": records,
            "stages": dict(self._failed_at[kind].most_common()),
            "meaning": meaning,
            "remedy": remedy,
            "first_line": line,
            "first_file": file,
            "first_message": message,
        }


def _bin(at: int, found: Moment) -> BinReading:
    waited = Histogram()
    for waits in found.waited.values():
        waited.merge(waits)
    latencies = {name: _percentiles(seconds) for name, seconds in found.seconds.items()}
    return {
        "at": at,
        "answered": found.answered,
        "failed": found.failed,
        "rewritten": found.rewritten,
        "requests": found.requests,
        "rate_limited": found.rate_limited,
        "errors": found.errors,
        "outage": found.outage,
        "waited_mean_s": waited.mean,
        "waited_most_s": waited.most if waited.n else None,
        "latency_s": latencies,
    }


def _percentiles(found: Histogram) -> tuple[float, float, float]:
    return found.quantile(0.50) or 0.0, found.quantile(0.95) or 0.0, found.quantile(0.99) or 0.0


def _rank(level: str) -> int:
    order = ("error", "warn", "info")
    return order.index(level) if level in order else len(order)
