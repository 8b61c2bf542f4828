"""Commands over job files: their schema, one to start from, and whether one is sound.

Knows typer. Invariant: nothing is decided here.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated

import typer

from s2a_batch import options


def schema(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it here; default: stdout.")] = None,
) -> None:
    """Print the JSON Schema of job files, by which editors complete and check them."""
    from s2a_batch.display import Screen
    from s2a_batch.jobfile.jobschema import as_text

    if output is None:
        Screen().put(as_text().rstrip("\n"))
    else:
        output.write_text(as_text(), encoding="utf-8")


def init(  # noqa: PLR0913  the command's options
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="The job file.")] = Path("job.toml"),
    source: Annotated[str | None, typer.Option("--input", metavar="INPUT", help="The input.")] = None,
    output: options.Output = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    schedule: Annotated[str | None, typer.Option(metavar="CRON", help="When it runs: '0 2 * * *'.")] = None,
    force: options.Force = False,
) -> None:
    """Write a commented job file to start from.

    Exit status: 0 written, 2 it exists or the options make no job, 3 the file cannot be written.
    """
    from s2a_batch.jobfile.template import write

    places = {"input": source, "output": output, "model": model, "base_url": base_url, "schedule.cron": schedule}
    write(path, {key: value for key, value in places.items() if value is not None}, force=force)


def check(  # noqa: PLR0913  the command's options
    source: options.Source,
    output: options.Output = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    answer: options.Answer = None,
    choice: options.Choice = None,
    setting: options.Setting = None,
    only: options.Only = None,
    day: options.Day = None,
    online: Annotated[bool, typer.Option("--online", help="Also ask each endpoint once; costs a few tokens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a job and its input, and name all that is wrong; sends nothing unless --online.

    Exit status: 0 sound, 1 faulty lines in the input, 2 a run would refuse the job,
    3 the input cannot be read to its end.
    """
    import anyio

    from s2a_batch.display import Screen
    from s2a_batch.preflight import check as look
    from s2a_batch.resume import Options

    screen = Screen(quiet=quiet)
    places = {"output": output, "model": model, "base_url": base_url, "only": only}
    table = options.table_of(places, None) | options.answer_table(answer, choice, source)
    make = functools.partial(options.job_parts, source, table, setting, day)
    how = Options(None)
    looking = functools.partial(look, make, how, os.environ, source=" ".join(source), online=online, say=screen.say)
    found = anyio.run(looking)
    text = found.to_json() if as_json else found.to_text(only_faults=quiet)
    if text:
        Screen().put(text)
    raise typer.Exit(found.exit_status)
