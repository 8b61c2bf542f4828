"""The forms of an export: rows to the lines of a JSON Lines, chat or CSV file.

Knows csv. Invariants: what a value's JSON text says is what comes out, digit for digit; a cell of a CSV file that a
model or an input wrote cannot become a formula of the spreadsheet that opens it.
"""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Final, Protocol

from s2a_batch.export.spans import members, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

# Also the wide forms, which some locales take for the narrow ones (OWASP, "CSV Injection").
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Out(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> int:
        """Write all of it."""
        ...


class Table(Protocol):
    """One form: it is given every row, then ended."""

    paths: tuple[str, ...]

    def add(self, line: bytes, values: Sequence[str | None]) -> bool:
        """Write a row: its result line, and the JSON texts of `paths` in it; False: it has no place in this form."""
        ...

    def end(self) -> None:
        """Write what comes last."""
        ...


class Lines:
    """Result lines as they are."""

    paths: tuple[str, ...] = ()

    def __init__(self, out: Out) -> None:
        self._out = out

    def add(self, line: bytes, _values: Sequence[str | None]) -> bool:
        """Write the line."""
        self._out.write(line + b"\n")
        return True

    def end(self) -> None:
        """Nothing comes last."""


class Objects(Lines):
    """Flat objects with the chosen values, named by their paths."""

    def __init__(self, out: Out, paths: tuple[str, ...]) -> None:
        super().__init__(out)
        self.paths = paths
        self._names = [json.dumps(path, ensure_ascii=False) + ":" for path in paths]

    def add(self, _line: bytes, values: Sequence[str | None]) -> bool:
        """Write the values' texts as they stand in the line."""
        pairs = zip(self._names, values, strict=True)
        text = ",".join([name + ("null" if value is None else value) for name, value in pairs])
        self._out.write(f"{{{text}}}\n".encode())
        return True


class Csv(Lines):
    """RFC 4180 with a header, UTF-8; what is no text stands as its JSON, null as nothing.

    Args:
        out: Where to.
        paths: The columns.
        formulas: Leave text as it is although a spreadsheet would run it.
    """

    def __init__(self, out: Out, paths: tuple[str, ...], *, formulas: bool) -> None:
        super().__init__(out)
        self.paths = paths
        self._formulas = formulas
        self._csv = csv.writer(self, lineterminator="\r\n")
        self._csv.writerow([self._safe(path) for path in paths])

    def write(self, text: str) -> int:
        """Take what the csv module made of a row."""
        return self._out.write(text.encode(errors="backslashreplace"))

    def add(self, _line: bytes, values: Sequence[str | None]) -> bool:
        """Write the values as cells."""
        self._csv.writerow([self._cell(value) for value in values])
        return True

    def _cell(self, value: str | None) -> str:
        if value is None or value == "null":
            return ""
        return self._safe(plain(value)) if value.startswith('"') else value

    def _safe(self, text: str) -> str:
        if self._formulas or not text.startswith(_FORMULA) or _NUMBER.fullmatch(text):
            return text
        return "'" + text


class Chat(Lines):
    """A set to train a model on: the original prompt as the user's message, the final answer as the assistant's.

    So System 2 Attention is distilled into the model that needs no rewrite any more (arXiv 2407.06023).

    Args:
        out: Where to.
        fields: Under which names an input object holds its parts, as `run.json` says.
    """

    def __init__(self, out: Out, fields: Mapping[str, JsonValue]) -> None:
        super().__init__(out)
        self.paths = ("answer", "input")
        self._fields = fields

    def add(self, _line: bytes, values: Sequence[str | None]) -> bool:
        """Write the record's conversation."""
        answer, given = values
        messages = original(json.loads(given or "null"), self._fields)
        if answer in (None, "null") or not messages:
            return False
        reply = {"role": "assistant", "content": final(answer or "")}
        self._out.write(json.dumps({"messages": [*messages, reply]}, ensure_ascii=False).encode() + b"\n")
        return True


def final(answer: str) -> str:
    """What the assistant says: the one value of an answer of a simple type, else the answer's JSON."""
    if answer.startswith("{"):
        values = list(members(answer))
        if [name for name, _, _ in values] == ["answer"]:
            return plain(answer[values[0][1] : values[0][2]])
    return plain(answer)


def original(given: JsonValue, fields: Mapping[str, JsonValue]) -> list[dict[str, str]]:
    """The messages that an input object stands for before any rewrite; none when it is not known."""
    if not isinstance(given, dict):
        return []
    parts = {name: given.get(str(fields.get(name) or name)) for name in ("prompt", "context", "question", "messages")}
    past = {name: given.get(str(fields.get(name) or name)) for name in ("system", "instructions")}
    body = given.get("body")
    chat = parts["messages"] or (body.get("messages") if isinstance(body, dict) else None)
    prompt = parts["prompt"]
    if isinstance(prompt, str):  # beside a prompt only fields that the job names are parts of it
        said, past = [prompt], {name: value for name, value in past.items() if fields.get(name)}
    elif isinstance(parts["question"], str):
        said = [text for text in (parts["context"], parts["question"]) if isinstance(text, str) and text]
    else:
        return _turns(chat)
    system, instructions = past.get("system"), past.get("instructions")
    said += [instructions] if isinstance(instructions, str) and instructions else []
    head = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return [*head, {"role": "user", "content": "\n\n".join(said)}]


def _turns(chat: JsonValue) -> list[dict[str, str]]:
    """A chat's messages, as they are; none when one is more than text."""
    turns = []
    for message in chat if isinstance(chat, list) else ():
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            return []
        turns.append({"role": role, "content": content})
    return turns
