"""Commands that steer a run which goes on.

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


def _order(directory: Path, request: dict[str, object]) -> None:
    from s2a_batch import steering
    from s2a_batch.display import Screen

    Screen().put(steering.told(steering.order(directory, request), directory))
