"""What an execution finds in the run's directory, and whether it may go on from there.

Invariants: nothing is appended before torn ends are repaired and the settings compared; a changed job never mixes its
answers into an old run without a word; the fingerprint in `run.json` is that of the settings beside it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, get_args

from s2a_batch import __version__, inputs, prompts, rundir
from s2a_batch.account import Summary, Totals
from s2a_batch.answers import answer_model
from s2a_batch.errors import TRANSIENT, UNCHANGING, FailureKind, JobError, OutputError
from s2a_batch.inputs import inputnames
from s2a_batch.job import changes, fingerprint
from s2a_batch.linefiles import DamagedLineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import JsonValue

    from s2a_batch.inputs import Part
    from s2a_batch.job import Job
    from s2a_batch.keys import KeyIndex
    from s2a_batch.rundir import RunDirectory

Settings: TypeAlias = "dict[str, JsonValue]"
"""What can change a result, flat: `rewrite.model`, `answer.type`, .."""

_ANSWER: Final = "answer."
_KINDS: Final[frozenset[FailureKind]] = frozenset(get_args(FailureKind))


@dataclass(frozen=True, slots=True)
class Options:
    """How this execution of a job runs; nothing here can change an answer.

    Attributes:
        limit: At most this many pending records are taken up; None: all.
        every: Of the pending records only each so-manieth is taken up, for a sample of the whole input.
        retry_failed: Take up dead letters again.
        accept_changes: Go on although the job's settings changed.
        fresh: Set what is there aside and start anew.
        waits: Where another run holds the directory, wait for its end.
    """

    limit: int | None = None
    every: int = 1
    retry_failed: bool = False
    accept_changes: bool = False
    fresh: bool = False
    waits: bool = False


class Resume:
    """Prepares a locked run directory for one execution of a job.

    Attributes:
        directory: The run's, locked.
        keys: What is done, once prepared.
        fingerprint: Of all that can change an answer; goes into every result. Settled by `prepare`.
        rewrite_fingerprint: Of all that can change a rewrite; goes into every saved one, which others do not use.
        totals: What the executions before this one used; known once prepared.
    """

    def __init__(
        self, job: Job, options: Options, directory: RunDirectory, keys: KeyIndex, say: Callable[[str], None]
    ) -> None:
        self._job = job
        self._options = options
        self.directory = directory
        self.keys = keys
        self._say = say
        self.totals = Totals()
        self._settings = settings_of(job)
        self.fingerprint = fingerprint(self._settings)
        self.rewrite_fingerprint = fingerprint(rewrite_settings(self._settings))

    def prepare(self) -> int:
        """Repair, compare with what was run here before, learn what is done; returns how many records are.

        Raises:
            JobError: The settings changed, with each change and the ways on.
            OutputError: The directory cannot be written.
        """
        try:
            return self._prepare()
        except OSError as error:
            place = error.filename or self.directory.path
            raise OutputError(f"{place}: cannot be made ready for a resume: {error.strerror}") from None

    def _prepare(self) -> int:
        aside = self.directory.finish_setting_aside()
        if self._options.fresh and aside is None:
            aside = self.directory.set_all_aside()
        if aside is not None:
            self._say(f"the earlier run was set aside in {self.directory.path / aside}")
        self._settle()
        for note in self.directory.cut_tails():
            self._say(note)
        if aside := self.directory.set_dead_letters_aside(retried(self._job, self._options)):
            self._say(f"failed records are pending again; their dead letters are kept in {aside}")
        done = self._read_done()
        self.write_manifest(None)
        return done

    def _read_done(self) -> int:
        only_rewrite = self._job.only == "rewrite"
        try:
            return self.directory.read_done(self.keys, only_rewrite=only_rewrite)
        except DamagedLineError:
            self.keys.clear()
            for note in self.directory.repair():
                self._say(note)
            return self.directory.read_done(self.keys, only_rewrite=only_rewrite)

    def write_manifest(self, summary: Summary | None) -> None:
        """Say in `run.json` what runs or ran here; `summary` is None until the execution has ended."""
        self.directory.write_manifest(
            {
                "s2a_batch": __version__,
                "fingerprint": self.fingerprint,
                "settings": self._settings,
                "job": self._job.effective(),
                "job_files": self._job.files,
                "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "summary": None if summary is None else summary.model_dump(mode="json"),
                "totals": (self.totals if summary is None else self.totals.plus(summary)).model_dump(mode="json"),
            }
        )

    def _settle(self) -> None:
        """Compare with what was run here before, and settle the settings that this execution stands for."""
        manifest = rundir.read_manifest(self.directory.path)
        self.totals = totals_in(manifest)
        check_changes(self._job, self._options)
        self._settings = effective(manifest, self._settings, self._job.only)
        self.fingerprint = fingerprint(self._settings)


def retried(job: Job, options: Options) -> frozenset[FailureKind] | None:
    """Of which kinds the dead letters are that an execution takes up again; None: of all."""
    if options.retry_failed:
        return None
    kinds = {"never": frozenset[FailureKind](), "transient": TRANSIENT, "all": _KINDS - UNCHANGING}
    return kinds[job.retry.failed]


def check_changes(job: Job, options: Options) -> None:
    """Raise `JobError` where results of other settings lie in the job's directory, with each change and the ways on."""
    if options.fresh or options.accept_changes:
        return
    settings, directory = settings_of(job), rundir.RunDirectory(job.output)
    manifest = rundir.read_manifest(directory.path)
    changed = compare(manifest, settings, job.only)
    made_by_these = {fingerprint(settings), fingerprint(rewrite_settings(settings))}
    if manifest is None and not directory.fingerprints() <= made_by_these:  # as the first line of each file tells
        changed = [f"which ones is unknown: there are results and no {rundir.MANIFEST}"]
    if changed:
        rows = "\n  ".join(changed)
        hint = "another output directory, --fresh to start anew here, or --accept-changes to go on"
        raise JobError(
            f"{directory.path}: was run with other settings, and a resume would mix answers:\n  {rows}\nhint: {hint}"
        )


def check_paths(job: Job) -> None:
    """Raise `JobError` when the input or a lent rewrite is not there, or is what the run writes."""
    try:
        own = (*rundir.LINE_FILES, "dead_letters.1.jsonl", "old-1/" + rundir.RESULTS)
        if (name := inputnames.reading(job.input, [job.output.resolve() / name for name in own])) is not None:
            raise JobError(f"{name}: a run cannot read what it writes; choose another output directory")
        if job.rewrites is not None and job.rewrites.resolve() == job.output.resolve():
            raise JobError(f"rewrites = '{job.rewrites}' is this run itself, which uses its own anyway; leave it out")
        lent_rewrites(job)
        refuse_own(job, inputs.check(job.input))
    except (OSError, ValueError) as error:
        raise JobError(f"{inputnames.told(job.input)}: no usable path: {error}") from None


def refuse_own(job: Job, parts: Iterable[Part]) -> None:
    """Raise `JobError` where one of these is a file of the run's, under whatever name a link gives it."""
    folders = (job.output, *job.output.glob("old-[0-9]*"))
    own = dict[tuple[int, int], Path]()
    for path in (path for folder in folders for path in rundir.files_of(folder)):
        with suppress(FileNotFoundError):  # another run may hold the directory
            found = path.stat()
            own[found.st_dev, found.st_ino] = path
    for part in parts:
        if part.inode is not None and part.inode in own:
            raise JobError(f"{part.name}: is {own[part.inode]}, and a run cannot read what it writes")


def lent_rewrites(job: Job) -> Path | None:
    """The file of another run whose rewrites the job uses; None when it uses none; `JobError` when it is not there."""
    path = None if job.rewrites is None else job.rewrites / rundir.REWRITES
    if path is not None and not path.is_file():
        raise JobError(f"{path}: no such file; 'rewrites' names the directory of another run")
    return path


def settings_of(job: Job) -> Settings:
    """All that can change a result of this job.

    Raises:
        JobError: The answer's class cannot be used, or a file that the job names cannot be read.
    """
    settings: Settings = {**job.settings(), "prompt_version": prompts.PROMPT_VERSION}
    if not job.only and job.answer.class_ is not None and (model := answer_model(job.answer)) is not None:
        schema = json.dumps(model.model_json_schema(), sort_keys=True)
        settings["answer.class"] = f"{job.answer.class_} {hashlib.sha256(schema.encode()).hexdigest()}"
    return settings


def effective(manifest: Settings | None, settings: Settings, only: str | None) -> Settings:
    """What the whole run stands for: an execution that asks for no answers leaves those that lie there as they are."""
    return settings | _answers(_settings_in(manifest)) if only else settings


def compare(manifest: Settings | None, settings: Settings, only: str | None) -> list[str]:
    """What keeps a job from going on from an earlier run, one readable change a line; nothing: it may.

    Args:
        manifest: What `run.json` says; None when nothing was run yet.
        settings: Those of the job (`settings_of`).
        only: The job's.
    """
    old, new = _settings_in(manifest), effective(manifest, settings, only)
    if not old:
        return []
    if not _answers(old):  # rewrites alone lie there, and any answers may be made from them
        new = rewrite_settings(new)
    return changes(old, new)


def _settings_in(manifest: Settings | None) -> Settings:
    found = None if manifest is None else manifest.get("settings")
    return found if isinstance(found, dict) else {}


def rewrite_settings(settings: Settings) -> Settings:
    """Those of them that can change a rewrite."""
    return {name: value for name, value in settings.items() if not name.startswith(_ANSWER)}


def _answers(settings: Settings) -> Settings:
    return {name: value for name, value in settings.items() if name.startswith(_ANSWER)}


def totals_in(manifest: Settings | None) -> Totals:
    """What the executions so far used; the manifest of one that was killed holds no summary of it."""
    if manifest is None:
        return Totals()
    if manifest.get("totals") is not None:
        found = Totals.model_validate(manifest["totals"])
        return found if manifest.get("summary") is not None else found.plus(None)
    summary = manifest.get("summary")  # of a version that kept no totals
    return Totals().plus(None if summary is None else Summary.model_validate(summary))
