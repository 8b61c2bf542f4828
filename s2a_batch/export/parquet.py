"""Rows to an Apache Parquet file, with types that are known only when all rows were seen.

Knows pyarrow, of the extra `parquet`. Invariants: rows wait in a temporary file, and one group of them is in memory; a
column whose values a type would change (two kinds, a number that its type cannot hold) is text.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from contextlib import ExitStack
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final, Self

from s2a_batch.done import room
from s2a_batch.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from s2a_batch.export.tables import Out

_GROUP_ROWS: Final = 20_000
_GROUP_BYTES: Final = 8 << 20
_INT64: Final = 1 << 63
_INT64_CHARS: Final = 20
_EXACT: Final = 1 << 53  # beyond, a double skips integers


class _Number(str):
    """A number's text."""

    __slots__ = ()


_READER: Final = json.JSONDecoder(parse_float=_Number, parse_int=_Number, strict=False)


def load() -> Any:  # noqa: ANN401  pyarrow has no types
    """The library; `JobError` where it is not installed."""
    try:
        import pyarrow.parquet  # noqa: PLC0415  50 MB: only for who wants it
    except ImportError:
        raise JobError(
            "--format parquet needs a package that is not installed: pip install 's2a-batch[parquet]'"
        ) from None
    return pyarrow


class Parquet:
    """A table of these columns; a context manager that gives its temporary file back."""

    def __init__(self, out: Out, paths: tuple[str, ...]) -> None:
        self.paths = paths
        self._arrow = load()
        self._out = out
        self._kinds: list[set[str]] = [set() for _ in paths]
        self._stack = ExitStack()
        self._spool: IO[bytes]

    def __enter__(self) -> Self:
        with room():
            self._spool = self._stack.enter_context(tempfile.TemporaryFile())
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # after a full disk, closing tries to write the rest once more
            self._stack.close()

    def add(self, _line: bytes, values: Sequence[str | None]) -> bool:
        """Keep a row."""
        cells = []
        for value, kinds in zip(values, self._kinds, strict=True):
            kind = _kind(value)
            kinds.add(kind)
            cells.append("null" if value is None else json.dumps(value) if kind == "json" else value)
        with room():
            self._spool.write(f"[{','.join(cells)}]\n".encode())
        return True

    def end(self) -> None:
        """Write the table, group by group."""
        kinds = [_column(found) for found in self._kinds]
        arrow = self._arrow
        types = {"bool": arrow.bool_(), "int": arrow.int64(), "float": arrow.float64(), "text": arrow.string()}
        schema = arrow.schema([(path, types[kind]) for path, kind in zip(self.paths, kinds, strict=True)])
        sink = arrow.PythonFile(_Sink(self._out), mode="w")
        with arrow.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
            for rows in self._groups():
                columns = [
                    arrow.array([_cell(row[number], kind) for row in rows], types[kind])
                    for number, kind in enumerate(kinds)
                ]
                writer.write_table(arrow.table(columns, schema=schema), row_group_size=_GROUP_ROWS)

    def _groups(self) -> Iterator[list[list[Any]]]:
        self._spool.seek(0)
        rows: list[list[Any]] = []
        size = 0
        for line in self._spool:
            rows.append(_READER.decode(line.decode()))
            size += len(line)
            if len(rows) == _GROUP_ROWS or size >= _GROUP_BYTES:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows


class _Sink:
    """What pyarrow needs of a file."""

    closed = False

    def __init__(self, out: Out) -> None:
        self._out = out
        self._written = 0

    def tell(self) -> int:
        """How many bytes were written."""
        return self._written

    def write(self, data: Any) -> int:  # noqa: ANN401  a buffer of pyarrow's
        """Write all of it."""
        self._written += len(data)
        return self._out.write(bytes(data))

    def flush(self) -> None:
        """It is flushed at its end."""

    def close(self) -> None:
        """Its owner closes it."""
        self.closed = True


def _kind(value: str | None) -> str:
    """What a JSON text is, with what its type must be able to hold."""
    first = "n" if value is None else value[0]
    if value is None or first == "n":
        return "null"
    if first in '"{[tf':
        return {'"': "text", "{": "json", "[": "json"}.get(first, "bool")
    if value.lstrip("-").isdigit() and value != "-0":
        number = int(value) if len(value) <= _INT64_CHARS else _INT64
        return "small" if abs(number) <= _EXACT else "int" if -_INT64 <= number < _INT64 else "large"
    shortest = repr(float(value))
    return "float" if shortest == value or _same(shortest, value) else "large"


def _same(shortest: str, value: str) -> bool:
    return "inf" not in shortest and Decimal(shortest) == Decimal(value)


def _column(kinds: set[str]) -> str:
    """The type of a column with values of these kinds."""
    kinds = kinds - {"null"}
    if kinds == {"bool"}:
        return "bool"
    if kinds and kinds <= {"small", "int"}:
        return "int"
    return "float" if kinds and kinds <= {"small", "float"} else "text"


def _cell(value: Any, kind: str) -> Any:  # noqa: ANN401  JSON in, what pyarrow takes out
    if value is None or kind == "bool":
        return value
    if kind == "int":
        return int(value)
    if kind == "float":
        return float(value)
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
