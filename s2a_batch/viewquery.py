"""Questions to the index: the records that a filter leaves, a page of them in some order, how many there are.

Knows the index's tables. Invariants: all values travel as parameters, never in the statement; a page at the end costs
what the first one does, as it begins behind a value and is not counted from the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from s2a_batch import viewindex, viewrecord

if TYPE_CHECKING:
    import sqlite3

    from pydantic import JsonValue

Value: TypeAlias = int | float | str
"""A parameter of a statement."""
Sort: TypeAlias = Literal["line", "seconds", "tokens", "removed"]
SORTS: Final[tuple[Sort, ...]] = ("line", "seconds", "tokens", "removed")
_NAMED: Final = ("status", "kind", "policy", "version")
_MUCH: Final = 0.3
_LEAST_BEGUN: Final = 3
_STATUSES: Final = ("answered", "failed", "rewritten")
_KEY: Final = re.compile(r"[0-9a-f]{8,32}(-\d{1,9})?")
_WORD: Final = re.compile(r"[^\W_]+")
_MOST_INT: Final = (1 << 63) - 1
_COLUMNS: Final = (
    "facts.id, line, status, kind, policy, checks, seconds, tokens, removed, before, after, attempts, version"
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What records must have; empty for all.

    Attributes:
        level: Some check of this level.
        query: `line:N`, an id, a key or its first eight signs, or words that the record's texts all have; the last of
            them may be begun only.
    """

    status: str = ""
    check: str = ""
    level: str = ""
    kind: str = ""
    policy: str = ""
    version: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: behind (or before) the record with this value and id; id 0 is the very beginning or end."""

    sort: Sort = "line"
    descending: bool = False
    value: float = 0
    id: int = 0
    backward: bool = False


def facets(db: sqlite3.Connection) -> dict[str, list[JsonValue]]:
    """How many records have each status, check, failure, policy and prompt version."""
    found: dict[str, list[JsonValue]] = {}
    rows = db.execute("SELECT facet, name, level, count FROM names WHERE count > 0 ORDER BY facet, count DESC, name")
    for facet, name, level, count in rows:
        found.setdefault(facet, []).append({"name": name, "level": level, "count": count})
    return found


def count(db: sqlite3.Connection, filters: Filters) -> int:
    """How many records pass."""
    given = {name: value for name in _NAMED if (value := getattr(filters, name))}
    if len(given) <= 1 and filters == Filters(**given):
        facet, name = next(iter(given.items()), ("status", None))
        known = "SELECT sum(count) FROM names WHERE facet = ? AND coalesce(name = ?, 1)"
        return int(db.execute(known, (facet, name)).fetchone()[0] or 0)
    chosen = _chosen(db, filters)
    return int(db.execute(f"SELECT count(*) FROM {chosen.tables()} WHERE {chosen.where}", chosen.values).fetchone()[0])  # noqa: S608


def page(db: sqlite3.Connection, filters: Filters, place: Place, most: int) -> list[dict[str, JsonValue]]:
    """At most so many records from a place on, in the order in which they are shown."""
    chosen = _chosen(db, filters)
    down = place.descending != place.backward
    where, values = chosen.where, chosen.values
    if place.id:
        where += f" AND ({place.sort}, facts.id) {'<' if down else '>'} (?, ?)"
        values = [*values, place.value, place.id]
    order = f"{place.sort} {'DESC' if down else 'ASC'}, facts.id {'DESC' if down else 'ASC'}"
    statement = f"SELECT {_COLUMNS} FROM {chosen.tables()} WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608
    names = {n: (name, level) for n, name, level in db.execute("SELECT n, name, level FROM names")}
    bits = _bits(db)
    rows = [_row(row, names, bits) for row in db.execute(statement, [*values, most])]
    for row in rows:
        texts = db.execute("SELECT ident, prompt, answer FROM texts WHERE id = ?", (row["id"],)).fetchone()
        row |= dict(zip(("ident", "prompt", "answer"), texts, strict=True))
    return rows[::-1] if place.backward else rows


def meaning(db: sqlite3.Connection, query: str) -> str:
    """As what a search is taken: `line`, `id`, `key`, `text`, or empty for none."""
    return _search(db, query.strip())[0] if query.strip() else ""


def line_at(db: sqlite3.Connection, record: int) -> tuple[int, int, int] | None:
    """File number, byte offset and length of a record's line."""
    found: tuple[int, int, int] | None = db.execute(
        "SELECT file, at, size FROM facts WHERE id = ?", (record,)
    ).fetchone()
    return found


def _row(row: tuple[int, ...], names: dict[int, tuple[str, str]], bits: list[tuple[str, str]]) -> dict[str, JsonValue]:
    checks: list[JsonValue] = [
        {"name": name, "level": level} for n, (name, level) in enumerate(bits) if row[5] >> n & 1
    ]
    found: dict[str, JsonValue] = dict(
        zip(("id", "line", "status", "kind", "policy", "checks", "seconds", "tokens", "removed"), row, strict=False)
    )
    known = {name: names.get(row[n], ("", ""))[0] for name, n in (("kind", 3), ("policy", 4), ("version", 12))}
    numbers: dict[str, JsonValue] = {"before": row[9], "after": row[10], "attempts": row[11]}
    return found | numbers | known | {"status": _STATUSES[row[2]], "checks": checks}


def _bits(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Name and level of the check that each bit stands for."""
    found = db.execute("SELECT name, level FROM names WHERE facet = 'check' ORDER BY n").fetchall()
    return [(name, level) for name, level in found[: viewindex.MOST_BITS]]


@dataclass(slots=True)
class _Chosen:
    """The records that a filter leaves, as parts of a statement.

    A filter that leaves little is answered by one pass over the narrow rows, 0.2 s of a million; by the index of an
    order it would be a million jumps. One that leaves much fills a page soon, and goes by the index.
    """

    parts: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    by_text: bool = False
    by_index: bool = True

    @property
    def where(self) -> str:
        return " AND ".join(self.parts) or "1"

    def tables(self) -> str:
        if self.by_text:
            return "words CROSS JOIN facts ON facts.id = words.rowid"
        return "facts" if self.by_index else "facts NOT INDEXED"


def _chosen(db: sqlite3.Connection, filters: Filters) -> _Chosen:
    chosen = _Chosen()
    if filters.query.strip():
        kind, part, values = _search(db, filters.query.strip())
        chosen.parts.append(part)
        chosen.values += values
        chosen.by_text = kind == "text"
    least = total = count(db, Filters())
    for facet in _NAMED:
        if name := getattr(filters, facet):
            column, value = _numbered(db, facet, name)
            chosen.parts.append(f"{column} = ?")
            chosen.values.append(value)
            least = min(least, count(db, Filters(**{facet: name})))
    if filters.check or filters.level:
        mask, most = _mask(db, filters)
        chosen.parts.append("checks & ? != 0")
        chosen.values.append(mask)
        least = min(least, most)
    chosen.by_index = bool(filters.query.strip()) or least >= total * _MUCH
    return chosen


def _numbered(db: sqlite3.Connection, facet: str, name: str) -> tuple[str, int]:
    """The column of a facet, and the number that stands for a name of it; -1 for none."""
    if facet == "status":
        return facet, _STATUSES.index(name) if name in _STATUSES else -1
    found = db.execute("SELECT n FROM names WHERE facet = ? AND name = ?", (facet, name)).fetchone()
    return facet, -1 if found is None else found[0]


def _mask(db: sqlite3.Connection, filters: Filters) -> tuple[int, int]:
    """The bits of the checks that a filter means, and about how many records have one of them."""
    mask = most = 0
    found = db.execute("SELECT name, level, count FROM names WHERE facet = 'check' ORDER BY n").fetchall()
    for bit, (name, level, records) in enumerate(found):
        if filters.check in ("", name) and filters.level in ("", level):
            mask |= 1 << min(bit, viewindex.MOST_BITS)
            most += records
    return mask, most


def _search(db: sqlite3.Connection, query: str) -> tuple[str, str, list[Value]]:
    """What a person typed: as what it is taken, as a condition, and the condition's values.

    A line's number, else a record's id, else a key, else words. In quotes it is words and nothing else.
    """
    kind, _, number = query.partition(":")
    if kind == "line" and number.isascii() and number.isdigit():
        return "line", "line = ?", [min(int(number[:19]), _MOST_INT)]
    ids: list[Value] = [viewrecord.hash_of(query), viewrecord.hash_of(viewrecord.quoted(query))]
    quoted = len(query) > 1 and query[0] == query[-1] == '"'
    if not quoted and db.execute("SELECT 1 FROM facts WHERE ident IN (?, ?) LIMIT 1", ids).fetchone():
        return "id", "ident IN (?, ?)", ids
    if not quoted and _KEY.fullmatch(query):
        digest, _, occurrence = query.partition("-")
        low, high = int(digest[:15].ljust(15, "0"), 16), int(digest[:15].ljust(15, "f"), 16)
        keys: list[Value] = [low, high, int(occurrence or 0), int(occurrence or _MOST_INT)]
        part = "key BETWEEN ? AND ? AND occurrence BETWEEN ? AND ?"
        if db.execute(f"SELECT 1 FROM facts WHERE {part} LIMIT 1", keys).fetchone():  # noqa: S608  no value in it
            return "key", part, keys
    words = _WORD.findall(viewrecord.spread(query))
    if not words:
        return "text", "words MATCH ?", ['""']
    begun = "*" if len(words[-1]) >= _LEAST_BEGUN and not quoted else ""
    return "text", "words MATCH ?", [" ".join(f'"{word}"' for word in words) + begun]
