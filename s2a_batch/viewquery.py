"""Questions to the index: the records that a filter leaves, a page of them in some order, how many there are.

Knows the index's tables. Invariants: all values travel as parameters, never in the statement; a page at the end costs
what the first one does, as it begins behind a value and is not counted from the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from s2a_batch import viewindex

if TYPE_CHECKING:
    import sqlite3

    from pydantic import JsonValue

Value: TypeAlias = int | float | str
"""A parameter of a statement."""
Sort: TypeAlias = Literal["line", "seconds", "tokens", "removed"]
SORTS: Final[tuple[Sort, ...]] = ("line", "seconds", "tokens", "removed")
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
        query: `line:N`, an id, a key or its first eight signs, or words that the record's texts all have.
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
    where, values, hint = _where(db, filters)
    return int(db.execute(f"SELECT count(*) FROM facts {hint} WHERE {where}", values).fetchone()[0])  # noqa: S608


def page(db: sqlite3.Connection, filters: Filters, place: Place, most: int) -> list[dict[str, JsonValue]]:
    """At most so many records from a place on, in the order in which they are shown."""
    where, values, hint = _where(db, filters)
    down = place.descending != place.backward
    if place.id:
        where += f" AND ({place.sort}, facts.id) {'<' if down else '>'} (?, ?)"
        values += [place.value, place.id]
    order = f"{place.sort} {'DESC' if down else 'ASC'}, facts.id {'DESC' if down else 'ASC'}"
    chosen = f"SELECT {_COLUMNS} FROM facts {hint} WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608  no value in it
    names = {n: (name, level) for n, name, level in db.execute("SELECT n, name, level FROM names")}
    bits = _bits(db)
    rows = [_row(row, names, bits) for row in db.execute(chosen, [*values, most])]
    for row in rows:
        ident, prompt, answer = db.execute(
            "SELECT ident, prompt, answer FROM texts WHERE id = ?", (row["id"],)
        ).fetchone()
        row |= {"ident": ident, "prompt": prompt, "answer": answer}
    return rows[::-1] if place.backward else rows


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


def _where(db: sqlite3.Connection, filters: Filters) -> tuple[str, list[Value], str]:
    """A condition, its values, and whether the table is to be read from end to end.

    A filter is answered by one pass over the narrow rows: 0.1 to 0.3 s of a million, whatever it leaves. By the index
    of an order it would be a million jumps when it leaves little.
    """
    parts, values = list[str](), list[Value]()
    if filters.status in _STATUSES:
        parts.append("status = ?")
        values.append(_STATUSES.index(filters.status))
    for facet in ("kind", "policy", "version"):
        if name := getattr(filters, facet):
            parts.append(f"{facet} = (SELECT n FROM names WHERE facet = ? AND name = ? LIMIT 1)")  # noqa: S608  no value in it
            values += [facet, name]
    if filters.check or filters.level:
        wanted = [
            1 << bit
            for bit, (name, level) in enumerate(_bits(db))
            if filters.check in ("", name) and filters.level in ("", level)
        ]
        parts.append("checks & ? != 0")
        values.append(sum(wanted))
    hint = "NOT INDEXED" if parts else ""
    if filters.query.strip():
        part, found, indexed = _search(filters.query.strip())
        parts.append(part)
        values += found
        hint = "" if indexed else "NOT INDEXED"
    return " AND ".join(parts) or "1", values, hint


def _search(query: str) -> tuple[str, list[Value], bool]:
    """What a person typed as a condition; whether an index answers it."""
    kind, _, number = query.partition(":")
    if kind == "line" and number.isascii() and number.isdigit():
        return "line = ?", [min(int(number[:19]), _MOST_INT)], True
    ids: list[Value] = [viewindex.hash_of(query), viewindex.hash_of(viewindex.quoted(query))]
    either, values = ["SELECT id FROM facts WHERE ident IN (?, ?)"], ids
    if _KEY.fullmatch(query):
        digest, _, occurrence = query.partition("-")
        low, high = int(digest[:15].ljust(15, "0"), 16), int(digest[:15].ljust(15, "f"), 16)
        either.append("SELECT id FROM facts WHERE key BETWEEN ? AND ? AND occurrence BETWEEN ? AND ?")
        values = [*values, low, high, int(occurrence or 0), int(occurrence or _MOST_INT)]
    if words := _WORD.findall(viewindex.spread(query)):
        either.append("SELECT rowid FROM words WHERE words MATCH ?")
        values = [*values, " ".join(f'"{word}"' for word in words) + "*"]
    return f"facts.id IN ({' UNION ALL '.join(either)})", values, False
