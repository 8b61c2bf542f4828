"""Jobs and results of comparisons, for the tests of several files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import JsonObject
    from tests.server import Upstream


def write_job(folder: Path, up: Upstream, *, compare: str = "", more: str = "", answer: str = 'type = "int"') -> None:
    """A job `job.toml` over `in.jsonl` into `out`.

    Args:
        folder: Where it goes.
        up: Whom it asks.
        compare: Lines of its [compare] table.
        more: Lines of its top level.
        answer: Lines of its [answer] table.
    """
    (folder / "job.toml").write_text(
        f'input = "in.jsonl"\noutput = "out"\nmodel = "m"\nbase_url = "{up.base_url}"\n{more}\n'
        "[price]\nusd_per_million_input = 1\nusd_per_million_output = 10\n"
        f"[answer]\n{answer}\n[compare]\n{compare}\n"
    )


def figures(folder: Path) -> JsonObject:
    """What `compare.json` says."""
    found = json.loads((folder / "out" / "compare.json").read_text())
    assert isinstance(found, dict)
    return found


def arm(found: JsonObject, name: str) -> JsonObject:
    """One arm's figures."""
    one = next(one for one in found["arms"] if one["name"] == name)
    assert isinstance(one, dict)
    return one
