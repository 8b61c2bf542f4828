"""Commands over what runs left, and to compare arms.

Knows typer. Invariant: nothing is decided here.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2a_batch import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from s2a_batch.job import Job
    from s2a_batch.live import Finished


def compare(  # noqa: PLR0913  the command's options
    context: typer.Context,
    source: options.Source,
    output: options.Output = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    open_requests: options.OpenRequests = None,
    setting: options.Setting = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many first records of the input.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write one HTML page.")] = None,
    retry_failed: options.RetryFailed = False,
    accept_changes: options.AcceptChanges = False,
    fresh: options.Fresh = False,
    day: options.Day = None,
    log: options.Log = None,
    quiet: options.Quiet = False,
) -> None:
    """Answer the same records in several ways (arms), and say which is right how often. Resumes as run does.

    Exit status: as of run; 1 also when the judge failed on some answers.
    """
    from s2a_batch import hooks
    from s2a_batch.compare import ROLES, Audience, compare_and_report
    from s2a_batch.resume import Options
    from s2a_batch.watching.observers import observing

    speech = context.ensure_object(options.Speech)
    speech.ask(log, source, quiet=quiet)
    table = {"output": output, "model": model, "base_url": base_url}
    parts = options.job_parts(source, options.table_of(table, open_requests), setting, day)
    how = Options(limit, 1, retry_failed, accept_changes, fresh)
    first = parts.job()
    voice = speech.of(first)

    with hooks.telling(speech.job, first, ROLES, voice.error) as story, observing(first, voice, speech.job) as beside:

        def run(job: Job, how: Options, environ: Mapping[str, str]) -> Finished:
            return beside.run(job, how, job.output.name, environ)

        audience = Audience(voice.say, run)
        exit_status, text = compare_and_report(parts, how, audience, html, as_json=as_json)
        beside.exit_status = exit_status
        story.ended(exit_status)
    if text:
        voice.put(text)
    raise typer.Exit(exit_status)


def export(  # noqa: PLR0913  the command's options
    directory: Annotated[Path, typer.Argument(help="A run's directory.")],
    output: options.ExportFile,
    source: options.Inputs = None,
    form: options.ExportForm = None,
    fields: options.ExportFields = None,
    status: options.ExportStatus = "all",
    pending: options.ExportPending = False,
    without_check: options.WithoutCheck = None,
    max_level: options.MaxLevel = None,
    any_policy: options.AnyPolicy = False,
    formulas: options.Formulas = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the answers in the order of the input: JSON Lines, CSV, Parquet, or chats to train on.

    Exit status: 0 written, 2 no run or no input there, or the file exists,
    3 the input cannot be read to its end, or the file not be written.
    """
    from s2a_batch import export as exports
    from s2a_batch.display import Screen

    names = None if fields is None else tuple(name.strip() for name in fields.split(","))
    without = frozenset(without_check or ())
    how = exports.Options(form, names, status, pending, without, max_level, any_policy, formulas, force)
    Screen(quiet=quiet).say(exports.export(directory, source, output, how).to_text())


def report(
    directory: Annotated[Path, typer.Argument(help="A run's directory.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; default: report.html in the directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as one JSON object instead.")] = False,
) -> None:
    """Write one HTML file on a run: counts, times, tokens, cost, rewrites; works while it runs."""
    from s2a_batch.display import Screen
    from s2a_batch.htmlreport import report as write_report

    Screen().put(write_report(directory, output, as_json=as_json))


def view(
    directory: Annotated[Path, typer.Argument(help="A run's directory.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Look through a run in the browser, on this machine alone; works while it runs. Ctrl-C ends it."""
    from s2a_batch.web import serve

    serve(directory, port, browser=not no_browser, say=functools.partial(print, flush=True))


def status(
    directory: Annotated[Path, typer.Argument(help="A run's directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how a run stands; live numbers while it runs."""
    from s2a_batch import steering
    from s2a_batch.display import Screen
    from s2a_batch.inspect import standing, standing_json

    screen, live = Screen(), steering.look(directory)
    found = standing(directory, count=live is None)
    if as_json:
        screen.put(standing_json(directory, found, live))
    else:
        screen.standing(found, directory, None if live is None else steering.standing(live, directory))


def show(
    directory: Annotated[Path, typer.Argument(help="A run's directory.")],
    record: Annotated[str, typer.Argument(metavar="ID", help="An id of the input, a key, line:N or FILE:N.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result line as it stands.")] = False,
) -> None:
    """Show one record: original, what the rewrite removed, answer, attempts."""
    from s2a_batch.display import Screen
    from s2a_batch.inspect import find, input_names

    screen = Screen()
    for line in find(directory, record):
        if as_json:
            screen.put(line.decode())
        else:
            screen.record(line, input_names(directory))


def verify(
    directory: Annotated[Path, typer.Argument(help="A run's directory.")],
    source: options.Inputs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove that each input line has exactly one result, and repair what a crash left.

    Exit status: 0 it holds, 1 something is missing, doubled or damaged,
    2 no run or no input there, 3 the input or the directory cannot be read to its end.
    """
    from s2a_batch.display import Screen
    from s2a_batch.verify import verify as verify_run

    found = verify_run(directory, source)
    Screen().put(found.to_json() if as_json else found.to_text())
    raise typer.Exit(0 if found.holds else 1)
