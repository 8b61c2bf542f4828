"""Commands that steer a run which goes on, and that delete runs.

Knows typer. Invariant: nothing is decided here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s2a_batch import options

_Running = Annotated[Path, typer.Argument(metavar="OUT", help="The directory of a run that goes on.")]
_Limit = Annotated[str | None, typer.Option(metavar="NUMBER|none", help="'none' lifts it.")]


def tune(
    directory: _Running,
    open_requests: options.OpenRequests = None,
    requests_per_minute: _Limit = None,
    tokens_per_minute: _Limit = None,
    stage: Annotated[
        Literal["rewrite", "answer"] | None, typer.Option(help="Only of the account that this stage uses.")
    ] = None,
) -> None:
    """Change the limits of a run that goes on, at once and for this execution alone.

    Exit status: 0 done, 2 no run there or no such value, 3 the run does not answer in time.
    """
    limits = {
        "open_requests": open_requests,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
    }
    numbers = {name: options.number(text) for name, text in limits.items() if text is not None}
    _order(directory, {"command": "tune", "stage": stage, **numbers})


def pause(directory: _Running) -> None:
    """Have a run that goes on send nothing new until `resume`; what is open finishes, and no record fails of it.

    Exit status: as of tune.
    """
    _order(directory, {"command": "pause"})


def resume(directory: _Running) -> None:
    """Have a paused run go on.

    Exit status: as of tune.
    """
    _order(directory, {"command": "resume"})


def prune(  # noqa: PLR0913  the command's options
    directory: Annotated[Path, typer.Argument(metavar="RUNS", help="A directory of runs, or one run's own.")],
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Only older ones: 12h, 30d, 8w.")] = None,
    keep: Annotated[int | None, typer.Option(min=0, help="The newest so many stay.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also runs that have something pending.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; delete nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Delete runs that are old or too many; of one run's own directory what it set aside.

    Exit status: 0 done, 2 no such directory, or nothing said of what may go,
    3 something could not be deleted, 4 a run holds the directory.
    """
    from s2a_batch import prune as pruning
    from s2a_batch.display import Screen

    rules = pruning.Rules(None if older_than is None else pruning.age(older_than), keep, force, dry_run)
    found = pruning.prune(directory, rules)
    if found.failed or not quiet:
        Screen().put(found.to_json() if as_json else found.to_text())
    raise typer.Exit(3 if found.failed else 0)


def _order(directory: Path, request: dict[str, object]) -> None:
    from s2a_batch import steering
    from s2a_batch.display import Screen

    Screen().put(steering.told(steering.order(directory, request), directory))
