"""A long text as numbered passages, so that a rewrite may name what to keep in place of copying it.

The paper's own idea for a faster System 2 Attention (arXiv 2311.11829, Limitations). Pure functions. Invariant:
passages joined give the text, so what is kept is kept to the letter.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_PARAGRAPH: Final = re.compile(r"\S(?:.|\n(?!\s*\n))*(?:\n\s*\n\s*|\s*\Z)")
_SENTENCE: Final = re.compile(
    r"\S[^.!?\u3002\uff01\uff1f\n]*(?:[.!?](?=\S)[^.!?\u3002\uff01\uff1f\n]*)*[.!?\u3002\uff01\uff1f\n]*\s*"
)


def passages(text: str) -> list[str]:
    """The paragraphs of a text; of a single paragraph its sentences, each with the white space behind it."""
    found = _split(_PARAGRAPH, text)
    return found if len(found) > 1 else _split(_SENTENCE, text)


def numbered(parts: list[str]) -> str:
    """The passages for a reader who has to name them: `[1] ..`, a line each or more."""
    return "\n".join(f"[{number}] {part.strip()}" for number, part in enumerate(parts, 1))


def kept(parts: list[str], numbers: Iterable[int]) -> str:
    """The passages with these numbers, from 1, in the text's order."""
    wanted = set(numbers)
    return "".join(part for number, part in enumerate(parts, 1) if number in wanted).strip()


def _split(pattern: re.Pattern[str], text: str) -> list[str]:
    starts = [found.start() for found in pattern.finditer(text)]
    edges = [0, *starts[1:], len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges) if end > start]
