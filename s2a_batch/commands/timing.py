"""The command for scheduled jobs: to run them, to look when they run, to hand them to another scheduler.

Knows typer. Invariant: nothing is decided here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s2a_batch.errors import JobError


def schedule(  # noqa: PLR0913  the command's options
    places: Annotated[list[Path], typer.Argument(help="Job files, or directories that hold some.")],
    once: Annotated[bool, typer.Option("--once", help="Run what is due, and exit.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Print when each job runs next, and exit.")] = False,
    at_most: Annotated[int, typer.Option(min=1, help="Jobs that may run side by side.")] = 1,
    state: Annotated[Path | None, typer.Option(help="Where to remember which times were dealt with.")] = None,
    log: Annotated[Literal["text", "json"], typer.Option(help="How events are written to stderr.")] = "text",
    form: Annotated[
        Literal["systemd", "cron", "kubernetes"] | None,
        typer.Option("--print", help="Print what has another scheduler run this one job, and exit."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="With --print: where this directory lies on the machine that runs it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With --print: a directory for the files, in place of stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With -o: replace files of other content.")] = False,
    image: Annotated[str | None, typer.Option(help="With --print kubernetes: the container's image.")] = None,
) -> None:
    """Run the jobs that carry [schedule] when they fall due; SIGTERM drains and ends, SIGHUP rereads the job files.

    Exit status: 0 ended by a signal, 2 a place or the state cannot be used or nothing is scheduled,
    4 another scheduler uses the state. With --once: the worst of the runs'.
    """
    from s2a_batch import schedule as schedules
    from s2a_batch.display import Screen

    if form is not None:
        from s2a_batch.schedule import units

        if len(places) != 1:
            raise JobError("--print takes one job file")
        found = units.files(form, places[0], root, image)
        Screen().put(units.printed(found) if output is None else units.written(found, output, force=force))
    elif root is not None or image is not None or output is not None or force:
        raise JobError("--root, --image, -o and --force go with --print")
    elif show:
        Screen().put(schedules.coming(places))
    else:
        raise typer.Exit(schedules.keep(places, state, at_most, log, once=once))
