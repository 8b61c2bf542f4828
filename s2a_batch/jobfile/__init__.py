"""A job file with the files that it extends, and options of the command line, to a checked job.

Knows tomllib. Invariants: every fault is named with file, line and key, and the near miss; relative paths in a file are
relative to that file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from s2a_batch import placeholders
from s2a_batch.errors import JobError
from s2a_batch.inputs.inputnames import anchored
from s2a_batch.job import Job
from s2a_batch.jobfile.jobfaults import Layer, explain
from s2a_batch.stagejob import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    from pydantic import JsonValue

    from s2a_batch.jobfile.tomllines import Place

_MOST_BASES: Final = 10  # of a file, of its base, ..: more is a mistake
_MOST_FILES: Final = 100
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_ALTERNATIVES: Final = (
    {"api_key_env", "api_key_file"},
    {"max_tokens", "max_completion_tokens"},
    {"type", "schema_file", "class"},
    {"command", "url", "url_env"},
)
_FREE: Final = ("extra_body", "headers_env")  # keys of others
_PATHS: Final = ("output", "rewrites", "api_key_file", "schema_file", "textfile")  # wherever they may stand
_OPTIONS: Final = {
    "input": "--input",
    "output": "-o",
    "model": "--model",
    "base_url": "--base-url",
    "answer": "--answer",
    "limits": "--open-requests",
    "processes": "--processes",
    "only": "--only",
    "schedule": "--schedule",
}


@dataclass(frozen=True)
class Parts:
    """What a job is made of, and so are the arms and the judge of its comparison.

    Attributes:
        layers: From low to high; the last one wins.
        at: What `{date}` stands for, a day or a moment.
    """

    layers: Sequence[Layer]
    at: date

    def job(self) -> Job:
        """The job; `JobError` names every fault."""
        return job_of(self.layers, self.at)

    def arm(self, there: Place, low: dict[str, JsonValue], high: dict[str, JsonValue]) -> Job:
        """The job with what stands at a place of it, with `low` under that and `high` over it."""
        origin = f"[{'.'.join(map(str, there))}]"
        return job_of([*self.layers, Layer(origin, low), *self._inner(there, ()), Layer(origin, high)], self.at)

    def judge(self, there: Place, here: Place, low: dict[str, JsonValue]) -> Job:
        """Another job, that has what stands at a place of this one `here`, with `low` under it."""
        return job_of([Layer(f"[{'.'.join(map(str, there))}]", low), *self._inner(there, here)], self.at)

    def _inner(self, there: Place, here: Place) -> list[Layer]:
        return [part for layer in self.layers if (part := layer.part(there, here)) is not None]


def load(
    path: Path, overrides: dict[str, JsonValue] | None = None, settings: Iterable[str] = (), at: date | None = None
) -> Job:
    """Read a job file.

    Args:
        path: A TOML file; relative paths in it are relative to its directory.
        overrides: Top-level values and tables that options stand for; they win over the file's.
        settings: `key=value` each, which win over those.
        at: What `{date}` stands for, a day or a moment; None: now.

    Raises:
        JobError: With every fault: file and line or option, key, what is wrong, the near miss.
    """
    return job_of([*read(path), *option_layers(overrides or {}, settings)], at)


def build(table: dict[str, JsonValue], where: str) -> Job:
    """A checked job from a table; `where` names its origin in errors (`JobError`)."""
    return job_of([Layer(where, table)])


def job_of(layers: Sequence[Layer], at: date | None = None) -> Job:
    """A checked job from its parts, of which the last wins; `JobError` names every fault; `at` as in `load`."""
    table: dict[str, JsonValue] = {}
    for layer in _filled(layers, at or datetime.now(UTC)):
        table = merge(_without_alternatives(table, layer.table), layer.table)
    try:
        return Job.model_validate(table, context={"files": [layer.proof() for layer in layers if layer.sha256]})
    except ValidationError as error:
        raise JobError(explain(error, layers)) from None


def _filled(layers: Sequence[Layer], at: date) -> Iterator[Layer]:
    """The parts with `{job}` and `{date}` filled in."""
    names = [str(layer.table["name"]) for layer in layers if "name" in layer.table]
    for layer in layers:
        try:
            yield replace(layer, table=placeholders.fill(layer.table, names[-1] if names else "job", at))
        except JobError as error:
            raise JobError(f"{layer.origin}: {error}") from None


def read(path: Path) -> list[Layer]:
    """A job file behind the files that it extends, as parts of a job; it has a name if they give none.

    Raises:
        JobError: A file cannot be read or is no TOML, or they extend each other.
    """
    return [Layer(str(path), {"name": placeholders.name_of(path)}), *_read(path, [])]


def option_layers(overrides: dict[str, JsonValue], settings: Iterable[str] = ()) -> list[Layer]:
    """What options stand for, as parts of a job; of `--set` errors name the key and not its value."""
    found = [Layer(_OPTIONS.get(name, "command line"), {name: value}) for name, value in overrides.items()]
    return found + [Layer(f"--set {text.partition('=')[0].strip()}", with_setting({}, text)) for text in settings]


def _without_alternatives(low: dict[str, JsonValue], high: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The low table without what the high one says in another way: there is no word in TOML to unset a key."""
    replaced = {name for ways in _ALTERNATIVES if high.keys() & ways for name in ways}
    if "type" in replaced and high.get("type") != "choice":
        replaced.add("choices")
    if "command" in high:
        replaced.add("headers_env")
    kept = {name: value for name, value in low.items() if name in high or name not in replaced}
    for name, value in high.items():
        below = low.get(name)
        if name not in _FREE and isinstance(value, dict) and isinstance(below, dict):
            kept[name] = _without_alternatives(below, value)
    return kept


def _read(path: Path, above: list[Path], named: str = "") -> list[Layer]:
    """The file behind its bases; `above` are the files that led to it, `named` is where the last one names it."""
    chain = [*above, path]
    shown = " -> ".join(str(file) for file in chain)
    if any(_same(path, file) for file in above):
        raise JobError(f"{named}extends: these files extend each other: {shown}")
    if len(above) > _MOST_BASES:
        raise JobError(f"{named}extends: more than {_MOST_BASES} files deep: {shown}")
    data, text = b"", ""
    try:
        data = read_bytes(path)
        text = data.decode("utf-8-sig")
        table: dict[str, JsonValue] = tomllib.loads(text)
    except JobError as error:
        raise JobError(f"{named}extends: {error}" if named else str(error)) from None
    except (ValueError, RecursionError) as error:
        raise JobError(_no_toml(path, text, error)) from None
    where = f"{Layer(str(path), table, text).where(('extends',))[0]}: " if "extends" in table else ""
    bases = _bases(table.pop("extends", []), where)
    anchor(table, path.parent)
    layers = [
        layer
        for base in bases
        for layer in _read(Path(os.path.normpath(path.parent / Path(base).expanduser())), chain, where)
    ]
    if len(layers) > _MOST_FILES:
        raise JobError(f"{where}extends: more than {_MOST_FILES} files in all")
    return [*layers, Layer(str(path), table, text, hashlib.sha256(data).hexdigest())]


def _bases(value: JsonValue, where: str) -> list[str]:
    bases = value if isinstance(value, list) else [value]
    if not all(isinstance(base, str) and base for base in bases):
        raise JobError(f"{where}extends: expected the path of a job file, or a list of them")
    return [str(base) for base in bases]


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _no_toml(path: Path, text: str, error: Exception) -> str:
    """What is wrong with a file, and on which line."""
    if isinstance(error, RecursionError):
        return f"{path}: not TOML: nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        return f"{path}:{line}: not TOML: a byte that is no UTF-8"
    message = str(error)
    if (place := _PLACE.search(message)) is None:
        return f"{path}: not TOML: {message}"
    last = text.rstrip().count("\n") + 1
    where = f"column {place[2]}" if place[1] else "the file's end"
    return f"{path}:{place[1] or last}: not TOML: {message[: place.start()]} ({where})"


def with_setting(table: dict[str, JsonValue], text: str) -> dict[str, JsonValue]:
    """The table with one more setting, given as `key=value` or `table.key=value` in TOML; a bare word is a text."""
    key, equals, value = text.partition("=")
    try:
        found = tomllib.loads(f"{key} = {value}")
    except (ValueError, RecursionError):
        try:
            found = tomllib.loads(f"{key} = {json.dumps(value.strip(), ensure_ascii=False)}")
        except (ValueError, RecursionError):
            equals = ""
    if not equals or not key.strip():
        raise JobError(f"--set {key}: expected key=value, as in rewrite.temperature=0")
    return merge(table, found)


def anchor(table: dict[str, JsonValue], folder: Path) -> None:
    """Make the paths of a job file relative to its directory, those of the arms and the judge of a comparison too."""
    compare = _tables(table, "compare")
    parts = [table, *(arm for part in compare for arms in _tables(part, "variants") for arm in _tables(arms, *arms))]
    for part in parts:
        stages = _tables(part, "rewrite", "answer")
        _anchor(part, *stages, *_tables(part, "metrics"), folder=folder)
        _anchor_hooks(part, folder)
    _anchor(*(judge for part in compare for judge in _tables(part, "judge")), folder=folder)
    given = table.get("input")
    if isinstance(given, str):
        table["input"] = anchored(given, folder)
    elif isinstance(given, list):
        table["input"] = [anchored(name, folder) if isinstance(name, str) else name for name in given]


def _tables(table: dict[str, JsonValue], *names: str) -> list[dict[str, JsonValue]]:
    """Those of the values of these names that are tables."""
    return [part for name in names if isinstance(part := table.get(name), dict)]


def _anchor(*tables: dict[str, JsonValue], folder: Path) -> None:
    """Make their paths relative to this directory; an empty one stays a fault."""
    for table in tables:
        for name in _PATHS:
            if isinstance(path := table.get(name), str) and path:
                table[name] = os.path.normpath(folder / Path(path).expanduser())
        if str(table.get("model", "")).endswith(".gguf"):
            table["model"] = os.path.normpath(folder / str(table["model"]))


def _anchor_hooks(table: dict[str, JsonValue], folder: Path) -> None:
    for hook in (hook for hooks in _tables(table, "hooks") for hook in _tables(hooks, *hooks)):
        command = hook.get("command")
        if isinstance(command, list) and command and "/" in str(command[0]):  # else it is looked for in PATH
            command[0] = os.path.normpath(folder / Path(str(command[0])).expanduser())


def merge(low: dict[str, JsonValue], high: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Both tables, and tables in them, in one; where they meet, the high one wins."""
    merged = dict(low)
    for name, value in high.items():
        below = low.get(name)
        merged[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
