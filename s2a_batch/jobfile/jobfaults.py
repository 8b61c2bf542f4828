"""What is wrong with a job, said where it stands: file and line, or option; the key; the near miss.

Invariants: a fault names the part of the job that it comes from; no value is shown, for it may be a key in the wrong
place.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from datetime import date, time
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, get_args, get_origin

from pydantic import BaseModel

from s2a_batch.job import Job
from s2a_batch.jobfile.tomllines import Place, key_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import JsonValue, ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_MISSING: Final = {
    "input": 'no input; give input = ".." in the job file',
    "output": 'no output; give -o DIR (or output = ".." in the job file)',
}
_EXPECTED: Final = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type"), "a table"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    "string_type": "a text",
    "path_type": "a path",
}
_STAGES: Final = ("rewrite", "answer")
_VERY_CLOSE: Final = 0.8
_CLOSE: Final = 0.6  # of difflib's ratio: one letter lost or one too many in a short word
_SAME_LETTERS: Final = 0.99
_OTHER_NAMES: Final = {
    **dict.fromkeys(("retries", "max_retries", "max_attempts"), "attempts"),
    **dict.fromkeys(("timeout", "timeout_s", "request_timeout"), "deadline_s"),
    **dict.fromkeys(("concurrency", "max_concurrency", "parallel"), "open_requests"),
    **dict.fromkeys(("string", "str"), "text"),
    **dict.fromkeys(("number", "double"), "float"),
    "enum": "choice",
}
"""How other programs call what is meant."""


@dataclass(frozen=True)
class Layer:
    """A part of a job: a file or an option.

    Attributes:
        origin: How errors name it.
        table: Its keys and values.
        text: The file's, whose lines errors tell; "" for none.
        sha256: Of the file's bytes.
        moved: Where its table stands in this job, and where it stands in what was written.
    """

    origin: str
    table: dict[str, JsonValue]
    text: str = ""
    sha256: str = ""
    moved: tuple[Place, Place] = ((), ())

    @cached_property
    def _lines(self) -> dict[Place, int]:
        return key_lines(self.text)

    def proof(self) -> dict[str, JsonValue]:
        """Which file this is, for `run.json`."""
        return {"path": self.origin, "sha256": self.sha256}

    def part(self, there: Place, here: Place) -> Layer | None:
        """The table at a place, as a part of another job that has it `here`; None when there is none."""
        table = self.table
        for name in map(str, there):
            inner = table.get(name)
            if not isinstance(inner, dict):
                return None
            table = inner
        for name in map(str, reversed(here)):
            table = {name: table}
        return replace(self, table=table, sha256="", moved=(here, there))

    def written(self, place: Place) -> Place:
        """Where this place of the job stands in what was written."""
        here, there = self.moved
        return (*there, *place[len(here) :]) if place[: len(here)] == here else place

    def where(self, place: Place) -> tuple[str, int]:
        """How to find this place, and its line for the order of several; 0 for none."""
        lines, place = self._lines, self.written(place)
        line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), 0)
        return (f"{self.origin}:{line}" if line else self.origin), line


def explain(error: ValidationError, layers: Sequence[Layer]) -> str:
    """All faults, one a line: those of options, of the job file and of its bases, each in the order of the lines.

    Args:
        error: What is wrong with the job that the layers make.
        layers: From low to high; the last one wins.
    """
    said: dict[Place, list[str]] = {}
    for fault in error.errors():
        place = _place(fault, layers)
        name = _dotted(layers[_rank(place, layers)].written(place))
        message, before = _message(fault, place, name), said.setdefault(place, [])
        expected, found, kind = message.partition(", found ")
        if found and before and message not in before and before[-1].endswith(found + kind):
            # A value of either kind may stand there.
            other = expected.partition("expected ")[2]
            before[-1] = f"{before[-1].removesuffix(found + kind)} or {other}{found}{kind}"
        elif message not in before:
            before.append(message)
    rows = []
    for place, messages in said.items():
        rank = _rank(place, layers)
        where, line = layers[rank].where(place)
        rows += [(-rank, line, f"{where}: {message}") for message in messages]
    return "\n".join(text for _, _, text in sorted(rows, key=lambda row: row[:2]))


def _place(fault: ErrorDetails, layers: Sequence[Layer]) -> Place:
    """Where the fault is in what was written: not behind a value, and not in a stage that took it from the top."""
    place: Place = fault["loc"]
    if fault["type"] == "missing":
        return place
    if key := fault.get("ctx", {}).get("key"):
        place = (*place, *str(key).split("."))
    if not any(_holds(layer.table, place) for layer in layers):
        if len(place) > 1 and place[0] in _STAGES and any(_holds(layer.table, place[1:2]) for layer in layers):
            return place[1:2]
        while place and not any(_holds(layer.table, place) for layer in layers):
            place = place[:-1]
    return place


def _rank(place: Place, layers: Sequence[Layer]) -> int:
    """The highest layer that holds this place, else the nearest place around it; of none the last file."""
    for end in range(len(place), 0, -1):
        for rank in reversed(range(len(layers))):
            if _holds(layers[rank].table, place[:end]):
                return rank
    return max((rank for rank, layer in enumerate(layers) if layer.text), default=0)


def _holds(value: JsonValue, place: Place) -> bool:
    for name in place:
        if isinstance(value, dict) and name in value:
            value = value[str(name)]
        elif isinstance(value, list) and isinstance(name, int) and name < len(value):
            value = value[name]
        else:
            return False
    return True


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)


def _message(fault: ErrorDetails, place: Place, written: str) -> str:
    """What is wrong at this place, with its name as it is written."""
    name = f"{written}: " if written else ""
    if fault["type"] == "missing":
        return _MISSING.get(_dotted(place), f"no {_dotted(place)}")
    if place == ("extends",):
        return f"{name}stands in a job file alone"
    if fault["type"] == "extra_forbidden":
        return f"{name}no such key; {_hint(place[:-1], str(place[-1]))}"
    if expected := _EXPECTED.get(fault["type"]):
        return f"{name}expected {expected}, found {_kind(fault['input'])}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "expected").replace("than or equal", "or equal")
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        near = _closest(fault["input"].lower(), _choices(place))
        message += f"; did you mean '{near[1]}'?" if near else ""
    return name + message


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, date | time):
        return "a date or time"
    return {dict: "a table", list: "a list", int: "a whole number", float: "a number"}.get(type(value), "nothing")


def _hint(table: Place, name: str) -> str:
    """What was meant by an unknown key: one of this table, one of another, or else all that may stand here."""
    known = _known_keys(table)
    elsewhere: dict[str, list[str]] = {}
    for other, key in _all_keys():
        if other != table:
            elsewhere.setdefault(key, []).append(_dotted(other))
    here = _closest(name, known)
    if name in elsewhere:
        near = f"did you mean '{here[1]}'? " if here is not None and here[0] >= _VERY_CLOSE else ""
        return f"{near}'{name}' belongs {_into(elsewhere[name])}"
    there = _closest(name, elsewhere) if len(table) < 2 else None  # noqa: PLR2004  a table in a table: its own keys
    if there is not None and there[0] < _VERY_CLOSE:  # of another table a far one says less than all that are known
        there = None
    if here is not None and (there is None or here[0] >= _VERY_CLOSE):
        return f"did you mean '{here[1]}'?"
    if there is not None:
        return f"did you mean '{there[1]}'? it belongs {_into(elsewhere[there[1]])}"
    return f"known: {', '.join(known)}"


def _closest(name: str, names: dict[str, list[str]] | list[str]) -> tuple[float, str] | None:
    ratios = ((_ratio(known, name), known) for known in names)
    return max((ratio for ratio in ratios if ratio[0] >= _CLOSE), default=None)


def _ratio(known: str, name: str) -> float:
    """How near a name comes to a known one: two letters exchanged are nearer than one too many."""
    if _OTHER_NAMES.get(name) == known:
        return 1.0
    return _SAME_LETTERS if sorted(known) == sorted(name) else difflib.SequenceMatcher(None, known, name).ratio()


def _into(headings: list[str]) -> str:
    if "" in headings:
        return "to the top of the file, before the first [table]"
    return f"into {' or '.join(f'[{heading}]' for heading in headings)}"


def _model_at(place: Place) -> type[BaseModel] | None:
    """The table at this place of a job; None: its keys are free."""
    table: type[BaseModel] | None = Job
    for name in place:
        field = None if table is None else fields(table).get(str(name))
        table = None if field is None else table_in(field.annotation)
    return table


def _known_keys(place: Place) -> list[str]:
    """What the table at this place may hold, by the names of a job file."""
    table = _model_at(place)
    return [] if table is None else [*fields(table), *(["extends"] if table is Job else [])]


def _choices(place: Place) -> list[str]:
    """The closed set of texts that may stand at this place."""
    table = _model_at(place[:-1])
    field = None if table is None else fields(table).get(str(place[-1]))
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


def _all_keys() -> Iterator[tuple[Place, str]]:
    """All tables of a job and their keys; a kind of table that stands further up is left out in other tables."""
    level: list[tuple[Place, type[BaseModel]]] = [((), Job)]
    seen: set[type[BaseModel]] = set()
    yield (), "extends"
    while level:
        inner = []
        seen |= {table for _, table in level}
        for place, table in level:
            for name, field in fields(table).items():
                yield place, name
                if (kind := table_in(field.annotation)) is not None and kind not in seen:
                    inner.append(((*place, name), kind))
        level = inner


def fields(table: type[BaseModel]) -> dict[str, FieldInfo]:
    """A table's fields by the names of a job file."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def table_in(annotation: object) -> type[BaseModel] | None:
    """The table among the types that a key may have."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
