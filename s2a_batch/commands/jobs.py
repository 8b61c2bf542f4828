"""Commands over job files: their schema, one to start from, and whether one is sound.

Knows typer. Invariant: nothing is decided here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from s2a_batch import options


def schema(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it here; default: stdout.")] = None,
) -> None:
    """Print the JSON Schema of job files, by which editors complete and check them."""
    from s2a_batch.jobschema import as_text

    if output is None:
        sys.stdout.write(as_text())
    else:
        output.write_text(as_text(), encoding="utf-8")


def init(  # noqa: PLR0913  the command's options
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="The job file.")] = Path("job.toml"),
    source: Annotated[Path | None, typer.Option("--input", help="The input.")] = None,
    output: options.Output = None,
    model: options.Model = None,
    base_url: options.BaseUrl = None,
    schedule: Annotated[str | None, typer.Option(metavar="CRON", help="When it runs: '0 2 * * *'.")] = None,
    force: options.Force = False,
) -> None:
    """Write a commented job file to start from."""
    from s2a_batch.template import write

    places = {"input": source, "output": output, "model": model, "base_url": base_url, "schedule.cron": schedule}
    write(path, {key: str(value) for key, value in places.items() if value is not None}, force=force)
