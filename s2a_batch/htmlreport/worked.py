"""Records shown in full: the prompt with what the rewrite left out struck, and the rewrite with what it put in marked.

Invariants: what is shown of a record is bounded, and says where it was cut; a record whose line is gone meanwhile is
left out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from s2a_batch import linefiles, marks
from s2a_batch.htmlreport import htmltext
from s2a_batch.htmlreport.resultlines import Line, UnreadableLineError, parsed, prompt_of
from s2a_batch.records import Rewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.htmlreport.readings import ExampleReading

_PIECE_CHARS: Final = 900
_STRUCK_CHARS: Final = 480
_TEXT_CHARS: Final = 5_000
_COMPARED_CHARS: Final = 60_000  # of prompt and rewrite; marks of such a pair take 5 s at worst, and grow squared
_ANSWER_CHARS: Final = 1_200
_MOST_GROWTH: Final = 4
_CHECKS: Final = 12
_EMPTY: Final = "<i>empty</i>"
_WORDS: Final = 12
_WORD_CHARS: Final = 60


def examples(directory: Path, found: Iterable[ExampleReading], fields: Mapping[str, JsonValue]) -> str:
    """The records as HTML, each an article."""
    return "".join(_article(example, line, fields) for example in found if (line := _line(directory, example)))


def _line(directory: Path, example: ExampleReading) -> Line | None:
    """The record's line; None when another stands there now."""
    try:
        with (directory / example["file"]).open("rb") as file:
            file.seek(example["offset"])
            line = file.readline().rstrip(b"\n")
        return parsed(line) if linefiles.is_sound(line) and linefiles.key_of(line).decode() == example["key"] else None
    except (OSError, UnreadableLineError):
        return None


def _article(example: ExampleReading, line: Line, fields: Mapping[str, JsonValue]) -> str:
    kept = line["rewrite"] or {}
    rewrite = Rewrite(relevant_context=kept["relevant_context"], user_query=kept["user_query"], raw="")
    prompt = prompt_of(line, fields) or ""
    compared = len(prompt) + len(rewrite.relevant_context) + len(rewrite.user_query) <= _COMPARED_CHARS
    struck, *marked = _compared(prompt, rewrite) if compared else _as_they_are(prompt, rewrite)
    why = "".join(f'<span class="why">{htmltext.text(reason)}</span>' for reason in example["why"])
    identity = "" if line["id"] is None else f", id {htmltext.text(str(line['id'])[:_WORD_CHARS])}"
    where = f"{htmltext.text(file)}, line" if (file := line.get("file")) else "Line"
    parts = [
        f"<header><h3>{where} {example['line']}{identity}</h3>{why}</header>",
        f'<div class="sides"><div><h4>The prompt</h4><p class="words">{struck}</p></div>',
        f'<div><h4>The rewrite</h4><p class="words">{marked[0]}</p>',
        f'<p class="words query">{marked[1]}</p></div></div>',
        "" if compared else '<p class="note">Too long to be compared here: s2a-batch show does it.</p>',
        _answer(line),
        _checks(line["checks"]),
    ]
    return f'<article class="example">{"".join(parts)}</article>'


def _compared(prompt: str, rewrite: Rewrite) -> list[str]:
    """Prompt, context and question with their marks."""
    parts = [marks.invented(prompt, text) for text in (rewrite.relevant_context, rewrite.user_query)]
    return [_pieces(marks.removed(prompt, rewrite), "del"), *(_pieces(part, "mark") or _EMPTY for part in parts)]


def _as_they_are(prompt: str, rewrite: Rewrite) -> list[str]:
    return [_pieces([(text, True)], "b") or _EMPTY for text in (prompt, rewrite.relevant_context, rewrite.user_query)]


def _pieces(pieces: Iterable[tuple[str, bool]], tag: str) -> str:
    """Pieces of a text, those that the other text lacks in an element; long ones lose their middle."""
    parts, room = [], _TEXT_CHARS
    for piece, shared in pieces:
        if room <= 0:
            parts.append(_cut("the rest"))
            break
        bare = piece.rstrip()
        most = min(room, _PIECE_CHARS if shared else _STRUCK_CHARS)
        shown = _shortened(bare, most)
        room -= min(len(bare), most)
        after = htmltext.text(piece[len(bare) :][:4])
        parts.append(f"{shown if shared or not bare else f'<{tag}>{shown}</{tag}>'}{after}")
    return "".join(parts)


def _shortened(text: str, most: int) -> str:
    room = _MOST_GROWTH * most  # what escaping makes of a text is bounded, too
    if len(text) <= most:
        return htmltext.text(text, room)
    head, tail = text[: most * 2 // 3], text[-(most // 3) :]
    head, tail = head.rpartition(" ")[0] or head, tail.partition(" ")[2] or tail  # at a word's end, if there is one
    cut = _cut(f"{len(text) - len(head) - len(tail):,} characters")
    return htmltext.text(head, room) + cut + htmltext.text(tail, room)


def _cut(what: str) -> str:
    return f' <span class="cut">… {what} not shown …</span> '


def _answer(line: Line) -> str:
    error, answer = line["error"], line["answer"]
    if error is not None:
        told = htmltext.text(f"{error['kind']}: {error['message']}"[:_ANSWER_CHARS])
        return f'<p class="answer failed"><b>Failed</b> {told}</p>'
    if answer is None:
        return '<p class="answer"><b>No answer yet</b></p>'
    only = next(iter(answer.values())) if isinstance(answer, dict) and len(answer) == 1 else answer
    text = only if isinstance(only, str) else json.dumps(only, ensure_ascii=False)
    return f'<p class="answer"><b>Answer</b> <span class="words">{_shortened(text, _ANSWER_CHARS)}</span></p>'


def _checks(checks: list[dict[str, str]]) -> str:
    rows = []
    for check in checks[:_CHECKS]:
        words: list[str] = list(check.get("words", ()))
        listed = ": " + ", ".join(word[:_WORD_CHARS] for word in words[:_WORDS]) if words else ""
        told = htmltext.text((check["message"] + listed)[:_ANSWER_CHARS])
        name = htmltext.text(check["name"][:_WORD_CHARS])
        rows.append(f'<li class="{htmltext.level(check["level"])}"><b>{name}</b> {told}</li>')
    return f'<ul class="checks">{"".join(rows)}</ul>' if rows else ""
