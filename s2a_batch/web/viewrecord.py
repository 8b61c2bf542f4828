"""One result line as the page shows it: plain values for a person, cut to what a page can hold.

Pure functions. Invariants: a line of any status, arm or version of the schema is shown as far as it goes, nothing in it
is taken for granted; what is cut says how long it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from pydantic_core import from_json

from s2a_batch import marks
from s2a_batch.forms import prompt_of_input
from s2a_batch.records import Rewrite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from s2a_batch.marks import Pieces
    from s2a_batch.records import Attempt

Table: TypeAlias = dict[str, "JsonValue"]
Names: TypeAlias = "Mapping[str, JsonValue] | str"
"""Under which names input objects hold their parts: the `fields` table of `run.json`, or the prompt's name alone."""

CUT_CHARS: Final = 20_000
_MOST_PIECES: Final = 4_000
_MOST: Final = 1 << 53
_POLICIES: Final = {
    "answer_anyway": "answered from the rewrite all the same (it failed a check)",
    "keep_original": "answered from the rewrite and the original together (the rewrite failed a check)",
    "original": "answered from the original (the rewrite failed a check)",
    "fail": "not answered (the rewrite failed a check)",
    "skipped": "no rewrite was asked for (the prompt is one plain question)",
}
# Signs that are written without spaces are words of their own to the search.
_SIGN: Final = re.compile("([\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_ID: Final = b',"id":'
_AFTER_ID: Final = b',"status":'


def parsed(line: bytes) -> Table | None:
    """A result line as an object; None when it is none."""
    try:
        found = from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def id_text(line: bytes, found: Mapping[str, JsonValue]) -> str:
    """A line's id as JSON text, digit for digit as it stands."""
    given = found.get("id")
    begin = line.find(_ID) + len(_ID)
    end = line.find(_AFTER_ID, begin)
    if isinstance(given, dict | list) or begin < len(_ID) or end < 0:
        return json.dumps(given, ensure_ascii=False)
    return line[begin:end].decode(errors="replace")


def key_parts(key: str) -> tuple[int, int]:
    """A record's key as two numbers: the beginning of its hash, and which of equal lines it is."""
    digest, _, occurrence = key.partition("-")
    try:
        return int(digest[:15], 16), int(occurrence or 0)
    except ValueError:
        return hash_of(key), 0


def hash_of(text: str) -> int:
    """63 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big") >> 1


def quoted(ident: str) -> str:
    """An id that is a text as it stands in a result line."""
    return json.dumps(ident, ensure_ascii=False)


def spread(text: str) -> str:
    """A text in which each sign of scripts without spaces is a word."""
    return text if text.isascii() else _SIGN.sub(r" \1 ", text)


def table(value: JsonValue | None) -> Table:
    """A value as an object; empty when it is none."""
    return value if isinstance(value, dict) else {}


def text(value: JsonValue | None) -> str:
    """A value as text; empty when it is none."""
    return value if isinstance(value, str) else ""


def number(value: JsonValue | None) -> float:
    """A value as a number that a column holds; 0 when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return max(-_MOST, min(value, _MOST))


def rows(value: JsonValue | None) -> list[Table]:
    """The objects of a list."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def original(found: Mapping[str, JsonValue], names: Names) -> str:
    """The user's text: what the input asks, else what the rewrite stage sent, else the line as it was read."""
    given = found.get("input")
    if isinstance(given, dict):
        fields: Mapping[str, JsonValue] = {"prompt": names} if isinstance(names, str) else names
        if prompt := prompt_of_input(given, fields):
            return prompt
    if sent := rows(table(table(found.get("stages")).get("rewrite")).get("messages")):
        return text(sent[-1].get("content"))
    return text(found.get("raw")) if given is None else json.dumps(given, ensure_ascii=False)


def policy_told(found: Mapping[str, JsonValue]) -> str:
    """In words what was done in place of answering from a sound rewrite; empty when nothing was."""
    policy = text(found.get("policy"))
    if policy == "original" and found.get("rewrite") is None:
        told = "answered from the original (there is no usable rewrite)"
    else:
        told = _POLICIES.get(policy, policy)
    failed = found.get("status") == "failed"
    return f"to be {told}" if failed and told.startswith("answered") else told


def attempt_told(a: Attempt) -> str:
    """One request in a line of words."""
    used = "tokens unknown" if a.usage is None else f"{a.usage.input_tokens} tokens in, {a.usage.output_tokens} out"
    came = a.finish_reason or "" if a.error is None else f"{a.error.kind}: {a.error.message}"
    times = f"{a.started}, {a.seconds:.2f} s, waited {a.waited_s:.2f} s"
    where = f"HTTP {a.status or '-'} {a.request_id or ''}".rstrip()
    return f"  {a.n}. {'re-ask, ' if a.reask else ''}{times}; {where}; {used}; {came}"


def rewrite_of(found: Table) -> Rewrite | None:
    """A line's rewrite; None when it has none."""
    given = found.get("rewrite")
    if not isinstance(given, dict):
        return None
    parts = (text(given.get(name)) for name in ("relevant_context", "user_query", "raw"))
    return Rewrite(**dict(zip(("relevant_context", "user_query", "raw"), parts, strict=True)))


def answer_text(answer: JsonValue | None) -> str:
    """An answer as a person reads it: the bare value of a simple type, else JSON."""
    bare = answer["answer"] if isinstance(answer, dict) and list(answer) == ["answer"] else answer
    if bare is None:
        return ""
    return bare if isinstance(bare, str) else json.dumps(bare, ensure_ascii=False, indent=2)


def tokens(found: Table) -> int | None:
    """Input and output tokens of all stages, as far as they are known."""
    usages = [table(table(stage).get("usage")) for stage in table(found.get("stages")).values()]
    counts = [usage.get(name) for usage in usages for name in ("input_tokens", "output_tokens")]
    known = [int(number(count)) for count in counts if count is not None]
    return sum(known) if known else None


def shown(line: bytes, names: Names, *, full: bool = False) -> Table:
    """A result line for the page.

    Args:
        line: As it stands in the file.
        names: Under which names the run's input objects hold their parts.
        full: Leave texts whole.
    """
    found = parsed(line) or {}
    most = None if full else CUT_CHARS
    prompt, rewrite = original(found, names), rewrite_of(found)
    kept = ("file", "line", "key", "status", "policy", "seconds", "started_at")
    page: Table = {name: found.get(name) for name in kept}
    page["fingerprint"] = text(found.get("fingerprint"))
    page["id"] = _cut(id_text(line, found), most)
    page["answer"] = _cut(answer_text(found.get("answer")), most)
    page["baseline"] = _cut(answer_text(found.get("baseline")), most) if found.get("baseline") is not None else None
    both = found.get("baseline") is not None and found.get("answer") is not None
    page["flipped"] = found["baseline"] != found["answer"] if both else None
    page["policy_told"] = policy_told(found)
    page["error"] = found.get("error") if isinstance(found.get("error"), dict) else None
    page["checks"] = [dict(row) for row in rows(found.get("checks"))]
    page["original"] = _pieces([(prompt, True)] if rewrite is None else marks.removed(prompt, rewrite), most)
    page["rewrite"] = None if rewrite is None else _rewrite(prompt, rewrite, page["checks"], most)
    page["words_before"] = len(prompt.split())
    began = text(found.get("started_at"))
    stages = table(found.get("stages"))
    page["stages"] = [_stage(name, table(stage), began, most) for name, stage in stages.items() if table(stage)]
    page["tokens"] = tokens(found)
    page["bytes"] = len(line)
    return page


def _rewrite(prompt: str, rewrite: Rewrite, checks: JsonValue, most: int | None) -> Table:
    lost = any(
        text(check.get("name")).startswith("question_") and check.get("level") != "info" for check in rows(checks)
    )
    return {
        "context": _pieces(marks.invented(prompt, rewrite.relevant_context), most),
        "query": _pieces(marks.invented(prompt, rewrite.user_query), most),
        "question_kept": bool(rewrite.user_query.strip()) and not lost,
        "words": len(rewrite.relevant_context.split()) + len(rewrite.user_query.split()),
        "raw": _cut(rewrite.raw, most),
    }


def _stage(name: str, stage: Table, began: str, most: int | None) -> Table:
    kept = ("model", "model_answered", "prompt_version", "parameters", "usage", "finish_reason", "messages_sha256")
    page: Table = {"name": name, **{key: stage.get(key) for key in kept}}
    messages = rows(stage.get("messages"))
    page["messages"] = [{"role": text(m.get("role")), "content": _cut(text(m.get("content")), most)} for m in messages]
    page["raw"] = _cut(text(stage.get("raw")), most)
    page["attempts"] = [_attempt(row, began, most) for row in rows(stage.get("attempts"))]
    return page


def _attempt(attempt: Table, began: str, most: int | None) -> Table:
    reply = attempt.get("reply")
    return {
        **attempt,
        "reply": None if reply is None else _cut(text(reply), most),
        "at_s": _seconds_between(began, text(attempt.get("started"))),
    }


def _seconds_between(began: str, then: str) -> float | None:
    try:
        return (datetime.fromisoformat(then) - datetime.fromisoformat(began)).total_seconds()
    except (ValueError, TypeError):
        return None


def _cut(whole: str, most: int | None) -> Table:
    """A text's beginning, and how long all of it is."""
    return {"text": whole if most is None else whole[:most], "chars": len(whole)}


def _pieces(pieces: Pieces, most: int | None) -> Table:
    """The first pieces of a marked text, and how long all of it is; texts of too many pieces end unmarked."""
    chars, left = sum(len(piece) for piece, _ in pieces), most
    page: list[JsonValue] = []
    for piece, has in pieces[:_MOST_PIECES]:
        if left is not None and left <= 0:
            break
        page.append([piece if left is None else piece[:left], has])
        left = None if left is None else left - len(piece)
    if left is None and len(pieces) > _MOST_PIECES:
        page.append(["".join(piece for piece, _ in pieces[_MOST_PIECES:]), None])
    return {"pieces": page, "chars": chars, "marked": sum(len(piece.split()) for piece, has in pieces if not has)}
