"""What the names of an input stand for, without a look into any file: paths, patterns, directories, URLs, pipes.

Invariant: a name that exists is that file, whatever signs it holds; only else it may be a pattern.
"""

from __future__ import annotations

import glob
import os
import re
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import JobError
from s2a_batch.inputs import stores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

STDIN: Final = "-"
_ENDINGS: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def told(names: Sequence[str]) -> str:
    """An input in a message."""
    first = "standard input" if names[0] == STDIN else stores.told(names[0]) if stores.is_url(names[0]) else names[0]
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def anchored(name: str, folder: Path) -> str:
    """A name in a job file: a path is relative to the file's directory."""
    if name in ("", STDIN) or stores.is_url(name):
        return name
    return os.path.normpath(folder / Path(name).expanduser())


def recorded(job: Mapping[str, JsonValue], directory: Path, how: str) -> tuple[str, ...]:
    """The input's names in a `run.json`'s job; raises `JobError` where it is not to be had again.

    Args:
        job: The `job` of a directory's `run.json`.
        directory: The run's.
        how: The command that names the input.
    """
    given = job.get("input")
    names = tuple(str(name) for name in (given if isinstance(given, list) else [given]) if isinstance(name, str))
    if not names:
        raise JobError(f"{directory}: run.json names no input; give it: {how}")
    for name in names:
        if _flows(name):
            what = "standard input" if name == STDIN else f"a pipe, {name}"
            raise JobError(f"{directory}: the run read {what}; give it: {how}")
        if not stores.is_url(name) and not is_pattern(name) and not Path(name).exists():
            raise JobError(f"{name}: the input that run.json names is not there; give it: {how}")
    return names


def check_lasting(names: Sequence[str], why: str) -> None:
    """Raise `JobError` where one cannot be read more than once: a pipe, or whatever else flows."""
    for name in names:
        if _flows(name):
            raise JobError(f"{name}: a pipe; {why}: write it to a file first")


def _flows(name: str) -> bool:
    """Whether a part of it is a pipe, or whatever else can be read once and may be silent for ever."""
    if name == STDIN or stores.is_url(name):
        return name == STDIN
    try:
        return any(path.exists() and not (path.is_file() or path.is_dir()) for path, _ in entries(name))
    except OSError:
        return False  # whoever reads it says so


def is_pattern(name: str) -> bool:
    """Whether it is to be matched against what is there."""
    return stores.MAGIC.search(name) is not None and not os.path.lexists(name)


def is_wanted(name: str) -> bool:
    """Whether a file of a directory counts: hidden and temporary ones are another program's business."""
    return name.endswith(_ENDINGS) and not name.startswith(".")


def entries(name: str) -> list[tuple[Path, str]]:
    """The paths that a name of no URL stands for now, in their order, and how results call each."""
    if is_pattern(name):
        matches = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207  the pattern may be absolute
        start = len(stores.fixed(name))
        return [(Path(match), match[start:]) for match in matches if not match.endswith("/")]  # not `a.jsonl/**`
    path = Path(name)
    if path.is_dir():
        return [(path / found, found) for found in sorted(entry.name for entry in os.scandir(path)) if is_wanted(found)]
    return [(path, path.name)]


def reading(names: Sequence[str], paths: Sequence[Path]) -> str | None:
    """The first name under which one of these (resolved) paths is read, or will be once it is there."""
    return next((name for name in names if any(_reads(name, path) for path in paths)), None)


def _reads(name: str, path: Path) -> bool:
    if name == STDIN or stores.is_url(name):
        return False
    if is_pattern(name):
        below = Path(stores.fixed(name)).resolve()
        rest = path.relative_to(below) if below in path.parents else None
        return rest is not None and _as_regex(name[len(stores.fixed(name)) :]).fullmatch(str(rest)) is not None
    place = Path(name).resolve()
    return place == path or (place.is_dir() and place == path.parent and is_wanted(path.name))


def _as_regex(pattern: str) -> re.Pattern[str]:
    """What a pattern matches, as `glob` has it; of `pathlib`'s own none knows `**` before Python 3.13."""
    *folders, last = (("(?:[^/]+/)*" if part == "**" else _segment(part) + "/") for part in pattern.split("/"))
    return re.compile("".join(folders) + (".*" if pattern.endswith("**") else last.removesuffix("/")), re.DOTALL)


def _segment(part: str) -> str:
    return translate(part).removesuffix(r"\Z").removesuffix(r"\z").replace(".*", "[^/]*")
