"""What a run would refuse, and what it would find done, told before it: sends nothing, writes nothing, loads no SDK.

Invariant: a look ahead and the run itself judge by the same functions, so that what the one accepts the other does too.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Self

from s2a_batch import embedded, linefiles, resume, rundir
from s2a_batch.answers import answer_model
from s2a_batch.credentials import hook_looks, secrets_of
from s2a_batch.errors import JobError
from s2a_batch.job import OPENAI_URL, fingerprint, is_embedded
from s2a_batch.keys import KeyIndex
from s2a_batch.pipeline import is_drawn
from s2a_batch.prices import prices_of
from s2a_batch.rewriting import is_plain_question
from s2a_batch.rundir import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from s2a_batch.bounds import Limits
    from s2a_batch.job import Job
    from s2a_batch.records import AuditName, Record
    from s2a_batch.resume import Options


def check_setup(job: Job, environ: Mapping[str, str]) -> None:
    """Look for all that can be known to be wrong before anything is sent, fetched or written.

    Raises:
        JobError: A key, a model file, the answer's type, a limit, a price or a package is not as the job needs it.
    """
    for look in setup_looks(job, environ).values():
        look()


def setup_looks(job: Job, environ: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    """What `check_setup` looks at, by name, each by itself."""
    keys = {
        f"key of {name}": partial(secrets_of, job, name, environ)
        for name, stage in job.stages().items()
        if not is_embedded(stage)
    }
    return {
        "answer": partial(answer_model, job.answer),
        **keys,
        **hook_looks(job, environ),
        "model": partial(embedded.check, job),
        "prices": partial(prices_of, job),
        "limits": partial(_check_limits, job, environ),
    }


def _check_limits(job: Job, environ: Mapping[str, str]) -> None:
    shared: dict[tuple[str, ...], Limits] = {}
    for name, stage in job.stages().items():
        account: tuple[str, ...] = (str(stage.model),)
        if not is_embedded(stage):
            account += ((stage.base_url or OPENAI_URL).rstrip("/"), secrets_of(job, name, environ).api_key)
        limits = stage.limits or job.limits
        if shared.setdefault(account, limits) != limits:
            raise JobError(f"{name}.limits: both stages use one account and model, so they share [limits]")


def check_directory(job: Job, options: Options) -> None:
    """Whether a run of these options could begin in the output directory.

    Raises:
        JobError: It holds something else, cannot be written, or holds results of other settings.
    """
    for look in directory_looks(job, options).values():
        look()


def directory_looks(job: Job, options: Options) -> dict[str, Callable[[], object]]:
    """What `check_directory` looks at, by name, each by itself."""
    return {
        "input": partial(resume.check_paths, job),
        "output": partial(_check_place, job),
        "settings": partial(resume.check_changes, job, options),
    }


def _check_place(job: Job) -> None:
    RunDirectory(job.output).refuse_foreign_files()
    place = next(path for path in (job.output, *job.output.absolute().parents) if os.path.lexists(path))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise JobError(f"{job.output}: cannot be the run's directory: nothing can be written in {place}")


class Outlook:
    """What a run of these options would find done, and what it would ask. A context manager.

    Attributes:
        keys: What is done, once entered.

    Raises:
        JobError: There are no rewrites in the directory that the job borrows them from.
    """

    def __init__(self, job: Job, options: Options) -> None:
        self._job = job
        self._options = options
        self._files = ExitStack()
        self._lent: KeyIndex | None = None

    def __enter__(self) -> Self:
        lender = resume.lent_rewrites(self._job)
        self.keys = self._files.enter_context(KeyIndex())
        _read_done(self._job, self._options, self.keys)
        if lender is not None:
            self._lent = self._files.enter_context(KeyIndex())
            self._lent.add_rewrites(linefiles.scan(lender))
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def requests(self, record: Record) -> frozenset[AuditName]:
        """For which stages a pending record takes a request: one each, when no reply has to be asked for again."""
        job = self._job
        if job.arm != "s2a":
            answerable = job.arm != "oracle" or record.asked.oracle is not None
            return frozenset(["answer"] if answerable else [])
        found: set[AuditName] = set()
        if not self._is_rewritten(record.key) and not (job.rewrite.skip and is_plain_question(record.prompt)):
            found.add("rewrite")
        if not job.only:
            found.add("answer")
        if not job.only and is_drawn(record.key, job.answer.baseline_share):
            found.add("baseline")
        return frozenset(found)

    def _is_rewritten(self, key: str) -> bool:
        own = self.keys.rewrite_offset(key)
        return (own is not None and own >= 0) or (self._lent is not None and self._lent.rewrite_offset(key) is not None)


def _read_done(job: Job, options: Options, keys: KeyIndex) -> None:
    """Fill the index as a run of these options would: what is done, and rewrites that need not be made again."""
    if options.fresh:
        return
    keys.add_done(_keys(job.output / rundir.RESULTS), "answered")
    keys.add_done(rundir.staying(job.output, resume.retried(job, options)), "failed")
    if job.only:
        keys.add_done(_keys(job.output / rundir.REWRITES), "rewritten")
    else:
        keys.add_rewrites(
            _usable(job.output / rundir.REWRITES, fingerprint(resume.rewrite_settings(resume.settings_of(job))))
        )


def _keys(path: Path) -> Iterator[bytes]:
    return (key for key, _ in linefiles.scan(path))


def _usable(path: Path, made_by: str) -> Iterator[tuple[bytes, int]]:
    """Key and place of each rewrite; -1 for those of other settings: a run takes a record's last, or makes it again."""
    mark = b'"fingerprint":"%s"' % made_by.encode()
    for offset, line in linefiles.lines(path):
        if linefiles.is_sound(line):
            yield linefiles.key_of(line), offset if mark in line else -1
