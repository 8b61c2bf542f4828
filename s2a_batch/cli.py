"""The command line: commands, options, exit status.

Knows typer. Invariants: the only module that ends the process; commands import what they need when they run, so that
`--help` loads neither an SDK nor pydantic.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, cast

import typer

from s2a_batch import __version__, options
from s2a_batch.commands import COMMANDS
from s2a_batch.errors import BUG_STATUS, JobError, StoppedEarly, StopRun

if TYPE_CHECKING:
    from s2a_batch.display import Screen
    from s2a_batch.estimate import Survey
    from s2a_batch.figures import Estimate
    from s2a_batch.job import Job
    from s2a_batch.live import Finished
    from s2a_batch.options import Voice
    from s2a_batch.resume import Options

_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    name="s2a-batch",
    help="System 2 Attention over whole files: rewrite each prompt without what misleads, answer from the rewrite.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; ends the process with an exit status of the README's table."""
    speech = options.Speech()
    speech.overhear(sys.argv[1:])
    _open_streams()
    _speak_utf8()
    os.umask(0o077)  # all that is written holds prompts; a umask of 0 opens it to all, one of 0177 locks us out
    try:
        sys.exit(app(standalone_mode=not speech.is_json, obj=speech))  # else typer says itself what is wrong
    except StopRun as error:
        speech.voice().error(str(error))
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  the process's last line: a bug must not look like "some records failed"
        _end(error, speech.voice())


def _end(error: Exception, voice: Voice) -> NoReturn:
    """Say what nobody else did, and exit: a file or stdout that cannot be used, or a bug."""
    from s2a_batch.display import Screen
    from s2a_batch.masking import Mask, secrets_in

    if isinstance(error, typer.BadParameter.__bases__):  # of wrong usage
        voice.error(cast("typer.BadParameter", error).format_message())
        sys.exit(JobError.exit_status)
    if isinstance(error, OSError) and (error.errno in _UNWRITABLE or error.filename is not None):
        place = "standard output cannot be written" if error.filename is None else f"{error.filename}: cannot be used"
        voice.error(f"{place}: {error.strerror}")
        sys.exit(StoppedEarly.exit_status)
    story = Mask(secrets_in(os.environ)).text(traceback.format_exc())
    if isinstance(voice, Screen):
        with contextlib.suppress(OSError):
            sys.stderr.write(story)
    else:
        voice.error(f"a fault of this program:\n{story}")
    sys.exit(BUG_STATUS)


def _open_streams() -> None:
    """Leave no place of a standard stream to a file or a connection, which would get what is meant for the stream."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # at the lowest free place, which is this one


def _speak_utf8() -> None:
    """Arguments, paths and output are UTF-8 even where a cron's locale says ASCII; no name is unprintable."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  ourselves anew
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(  # noqa: PLR0913  the command's options
    context: typer.Context,
    source: options.Source,
    output: options.Output = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    answer: options.Answer = None,
    choice: options.Choice = None,
    open_requests: options.OpenRequests = None,
    processes: options.Processes = None,
    setting: options.Setting = None,
    limit: options.Limit = None,
    only: options.Only = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check job and input; send and write nothing.")] = False,
    retry_failed: options.RetryFailed = False,
    accept_changes: options.AcceptChanges = False,
    fresh: options.Fresh = False,
    day: options.Day = None,
    if_running: options.IfRunning = "exit",
    log: options.Log = None,
    quiet: options.Quiet = False,
) -> None:
    """Run a job, or go on with it: the same command does both.

    Exit status: 0 all answered, 1 some records failed,
    2 wrong usage or job (nothing sent), 3 stopped early (the rest is pending),
    4 another run holds the directory, 70 a fault of this program,
    129, 130, 143 interrupted by a signal (the rest is pending).
    """
    speech = context.ensure_object(options.Speech)
    speech.ask(log, source, quiet=quiet)
    places = {"output": output, "model": model, "base_url": base_url, "only": only}
    table = options.table_of(places, open_requests, processes) | options.answer_table(answer, choice, source)
    job = options.load_job(source, table, setting, day)
    from s2a_batch.resume import Options

    how = Options(limit, 1, retry_failed, accept_changes, fresh, waits=if_running == "wait")
    voice = speech.of(job)
    if dry_run:
        _dry_run(job, how, voice)
        return
    from s2a_batch import hooks
    from s2a_batch.worker import ROLES

    with hooks.telling(speech.job, job, ROLES, voice.error) as story:
        found = _run(job, how, voice, speech.job)
        story.ended(found.exit_status, found.summary)
    raise typer.Exit(found.exit_status)


@app.command()
def estimate(  # noqa: PLR0913  the command's options
    source: options.Source,
    output: options.Output = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    answer: options.Answer = None,
    choice: options.Choice = None,
    open_requests: options.OpenRequests = None,
    setting: options.Setting = None,
    limit: options.Limit = None,
    only: options.Only = None,
    sample: Annotated[
        int | None,
        typer.Option(min=2, help="Run so many records from all over the input for real; a later run resumes them."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    retry_failed: options.RetryFailed = False,
    accept_changes: options.AcceptChanges = False,
    fresh: options.Fresh = False,
    day: options.Day = None,
    quiet: options.Quiet = False,
) -> None:
    """Say what a run will take: requests, tokens, money, time. Sends nothing but what --sample asks for.

    Exit status: 0, or that of a sample which stopped early.
    """
    import anyio

    from s2a_batch.display import Screen
    from s2a_batch.estimate import estimate as estimated
    from s2a_batch.estimate import survey
    from s2a_batch.inputs import inputnames

    if output is None and sample is None and options.job_file(source) is None:
        output = "estimate.out"  # nothing is written
    places = {"output": output, "model": model, "base_url": base_url, "only": only}
    table = options.table_of(places, open_requests) | options.answer_table(answer, choice, source)
    job = options.load_job(source, table, setting, day)
    from s2a_batch.resume import Options

    how = Options(limit, retry_failed=retry_failed, accept_changes=accept_changes, fresh=fresh)
    if sample is not None:
        inputnames.check_lasting(job.input, "a sample reads its input twice")
    found, screen = anyio.run(functools.partial(survey, job, how)), Screen(quiet=quiet)
    if sample is None:
        estimate = estimated(job, found)
    else:
        how = Options(sample, max(1, found.pending // sample), retry_failed, accept_changes, fresh)
        estimate = _sampled(job, how, found, screen, job.name or "")
    screen.put(estimate.as_json() if as_json else estimate.as_text())


for command in COMMANDS:
    app.command()(command)


def _run(job: Job, how: Options, voice: Voice, name: str) -> Finished:
    """Run it, and say how it ended."""
    from s2a_batch import credentials
    from s2a_batch.watching.observers import observing

    for line in credentials.warnings(job):
        voice.warn(line)
    with observing(job, voice, name) as beside:
        return beside.run(job, how)


def _sampled(job: Job, how: Options, found: Survey, screen: Screen, name: str) -> Estimate:
    """Run the sample and extrapolate from it; ends the command when the sample stops early."""
    from s2a_batch.sample import extrapolate

    began = datetime.now(UTC)
    status = _run(job, how, screen, name).exit_status
    if status not in (0, 1):
        raise typer.Exit(status)
    return extrapolate(job, found, began)


def _dry_run(job: Job, how: Options, voice: Voice) -> None:
    import anyio

    from s2a_batch import credentials
    from s2a_batch.inputs import inputnames
    from s2a_batch.inspect import dry_run
    from s2a_batch.watching import observers

    for line in credentials.warnings(job):
        voice.warn(line)
    observers.telemetry_of(job, "", os.environ, voice)
    found = anyio.run(functools.partial(dry_run, job, how, os.environ))
    voice.preview(found, inputnames.told(job.input))
    if found.cut_short:
        raise typer.Exit(3)
    raise typer.Exit(1 if found.bad else 0)
