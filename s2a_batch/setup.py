"""What a run would refuse, and what it would find done, told before it: sends nothing, writes nothing, loads no SDK.

Invariant: a look ahead and the run itself judge by the same functions, so that what the one accepts the other does too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from s2a_batch import embedded, linefiles, resume, rundir
from s2a_batch.answers import answer_model
from s2a_batch.credentials import check_secrets, secrets_of
from s2a_batch.errors import JobError
from s2a_batch.job import OPENAI_URL, fingerprint, is_embedded
from s2a_batch.prices import prices_of
from s2a_batch.rundir import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from s2a_batch.bounds import Limits
    from s2a_batch.job import Job
    from s2a_batch.keys import KeyIndex
    from s2a_batch.resume import Options


def check_setup(job: Job, environ: Mapping[str, str]) -> None:
    """Look for all that can be known to be wrong before anything is sent, fetched or written.

    Raises:
        JobError: A key, a model file, the answer's type, a limit, a price or a package is not as the job needs it.
    """
    answer_model(job.answer)
    check_secrets(job, environ)
    embedded.check(job)
    prices_of(job)
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
    resume.check_paths(job)
    directory = RunDirectory(job.output)
    directory.refuse_foreign_files()
    place = next(path for path in (job.output, *job.output.absolute().parents) if os.path.lexists(path))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise JobError(f"{job.output}: cannot be the run's directory: nothing can be written in {place}")
    check_changes(job, options)


def check_changes(job: Job, options: Options) -> None:
    """Raise `JobError` where a run would refuse to go on because the job's settings changed."""
    if options.fresh:
        return
    settings, directory = resume.settings_of(job), RunDirectory(job.output)
    manifest = rundir.read_manifest(job.output)
    changed = resume.compare(manifest, settings, job.only)
    if manifest is None and not directory.fingerprints() <= {
        fingerprint(settings),
        fingerprint(resume.rewrite_settings(settings)),
    }:
        changed = [f"which ones is unknown: there are results and no {rundir.MANIFEST}"]
    if changed and not options.accept_changes:
        rows = "\n  ".join(changed)
        hint = "another output directory, --fresh to start anew here, or --accept-changes to go on"
        raise JobError(f"{job.output}: was run with other settings:\n  {rows}\nhint: {hint}")


def read_done(job: Job, options: Options, keys: KeyIndex) -> None:
    """Fill the index as a run of these options would: what is done, and rewrites that need not be made again."""
    if options.fresh:
        return
    keys.add_done(_keys(job.output / rundir.RESULTS), "answered")
    if not options.retry_failed:
        keys.add_done(_keys(job.output / rundir.DEAD_LETTERS), "failed")
    if job.only:
        keys.add_done(_keys(job.output / rundir.REWRITES), "rewritten")
    else:
        keys.add_rewrites(
            _usable(job.output / rundir.REWRITES, fingerprint(resume.rewrite_settings(resume.settings_of(job))))
        )


def _keys(path: Path) -> Iterator[bytes]:
    return (key for key, _ in linefiles.scan(path))


def _usable(path: Path, made_by: str) -> Iterator[tuple[bytes, int]]:
    """Key and place of each rewrite that these settings made; those of others are made again."""
    mark = b'"fingerprint":"%s"' % made_by.encode()
    for offset, line in linefiles.lines(path):
        if linefiles.is_sound(line) and mark in line:
            yield linefiles.key_of(line), offset
