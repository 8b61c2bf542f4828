"""Reads an input file into a list, for tests of what becomes of its lines."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

from s2a_batch import source
from s2a_batch.forms import Fields
from s2a_batch.keys import KeyIndex
from s2a_batch.records import BadLine, Known, Record, Waiting

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 1 << 20
Found = list[Record | BadLine]


def everything(path: Path) -> list[Record | BadLine | Known | Waiting]:
    """All that a file holds, lines that still wait among it."""

    async def all_of() -> list[Record | BadLine | Known | Waiting]:
        with KeyIndex() as keys:
            async with aclosing(source.records(path, Fields(), keys)) as records:
                return [record async for record in records]

    return asyncio.run(all_of())


def read(path: Path, fields: Fields | None = None, limit: int = source.MAX_LINE_BYTES) -> Found:
    """All that a file holds."""
    found: Found = []
    collect(path, found, fields, limit)
    return found


def collect(path: Path, found: Found, fields: Fields | None = None, limit: int = source.MAX_LINE_BYTES) -> None:
    """As `read`, and what was read stays when reading fails."""

    async def all_of() -> None:
        with KeyIndex() as keys:
            async with aclosing(source.records(path, fields or Fields(), keys, max_line_bytes=limit)) as records:
                async for record in records:
                    if isinstance(record, Record | BadLine):
                        found.append(record)

    asyncio.run(all_of())


def given_bytes(folder: Path, content: bytes, name: str = "in.jsonl") -> Path:
    """A file with this content."""
    path = folder / name
    path.write_bytes(content)
    return path


def ask(text: str, **more: object) -> bytes:
    """One good line without its end."""
    return json.dumps({"prompt": text, **more}).encode()
