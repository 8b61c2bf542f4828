"""Two texts compared word by word, for a person's eye: what a rewrite left out of a prompt, and what it put in.

Pure functions; knows nothing but text. Invariants: the pieces of a text joined give the text; a word counts as the same
in any case and between any punctuation, 1,000 is 1000.0, six is 6; time and memory are bounded: 1 to 4 s for two
repetitive texts of 1 MB, for which difflib takes hours.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.records import Rewrite

Pieces: TypeAlias = list[tuple[str, bool]]
"""A text cut up, each piece with whether the other text has it."""

# Written without spaces between words: each sign is a word of its own.
_SIGN: Final = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_BREAK: Final = r"(?:[/–—=*|;:(){}\[\]<>\"“”!?…。、，！？；：「」『』（）_]|[.,](?!\d)|[-−](?!\d)|(?<=[\w)\]])[-−])"  # noqa: RUF001
_TOKEN: Final = re.compile(rf"{_BREAK}*(?:[{_SIGN}]|(?:(?!{_BREAK})[^\s{_SIGN}])+){_BREAK}*\s*|{_BREAK}+\s*|\s+")
_ENDS_SENTENCE: Final = re.compile(r"[.!?…]\W*\s\s*\Z|[。！？\n]\W*\Z")  # noqa: RUF001
_SENTENCE: Final = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]*\s*")  # noqa: RUF001
_NUMBER: Final = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?|[-−]?\.\d+")  # noqa: RUF001
_NUMERALS: Final = "zero one two three four five six seven eight nine ten eleven twelve"
_DIGITS: Final = {word: str(n) for n, word in enumerate(_NUMERALS.split(" "))}
_MOST_CHARS: Final = 4_000_000
_MOST_STEPS: Final = 3_000_000
_FEW_CELLS: Final = 4_000_000  # difflib looks through all words once for each run of equal ones
_MOST_CELLS: Final = 200_000_000  # bits: 25 MB
_MOVED_WORDS: Final = 3


def removed(prompt: str, rewrite: Rewrite) -> Pieces:
    """The prompt in pieces, each with whether the rewrite kept it, wherever in the rewrite it stands.

    Equal sentences are matched first, then words in order, then runs of three words and more that moved. Where so much
    is left that this would take long, a word counts as kept as often as the rewrite has it; of texts of millions of
    characters whole sentences are compared, and no words.
    """
    texts = (rewrite.relevant_context, rewrite.user_query)
    if len(prompt) + sum(map(len, texts)) > _MOST_CHARS:
        return _by_sentence(prompt, texts)
    tokens, words = _split(prompt)
    kept = [not word for word in words]
    others = [other for text in texts for other in _sentences(*_split(text))]
    rest = _match_sentences(_sentences(tokens, words), others, kept)
    open_places = [place for place, done in enumerate(kept) if not done]
    for place in _matches([words[place] for place in open_places], rest):
        kept[open_places[place]] = True
    return _joined(tokens, [kept[place] if word else None for place, word in enumerate(words)])


def invented(prompt: str, text: str) -> Pieces:
    """A text that was made from the prompt in pieces, each with whether the prompt holds its words, in any order."""
    if len(prompt) + len(text) > _MOST_CHARS:
        return _by_sentence(text, (prompt,))
    known = set(_split(prompt)[1])
    tokens, words = _split(text)
    return _joined(tokens, [word in known if word else None for word in words])


def _split(text: str) -> tuple[list[str], list[str]]:
    """A text's tokens, which joined give it, and of each the bare word; empty for one of punctuation or spaces."""
    tokens = _TOKEN.findall(text)
    bare = {token: _bare(token) for token in set(tokens)}
    return tokens, [bare[token] for token in tokens]


def _bare(token: str) -> str:
    number = _NUMBER.search(token)
    if number:
        whole, _, fraction = number.group().replace(",", "").replace("−", "-").partition(".")  # noqa: RUF001
        sign, digits = whole[: whole.startswith("-")], whole.lstrip("-").lstrip("0") or "0"
        fraction = fraction.rstrip("0")
        plain = sign + digits + (f".{fraction}" if fraction else "")
        return _stripped(token[: number.start()]) + plain + _stripped(token[number.end() :])
    word = _stripped(token).removesuffix("'s")
    return _DIGITS.get(word, word)


def _stripped(token: str) -> str:
    """Without punctuation and symbols at its ends, in small letters."""
    word = unicodedata.normalize("NFKC", token).casefold().replace("’", "'")  # noqa: RUF001
    start, end = 0, len(word)
    while start < end and unicodedata.category(word[start])[0] in "PSZC":
        start += 1
    while end > start and unicodedata.category(word[end - 1])[0] in "PSZC":
        end -= 1
    return word[start:end]


def _sentences(tokens: list[str], words: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Each sentence: at which token it begins, and its words."""
    begin = 0
    for end, token in enumerate(tokens, 1):
        if end == len(tokens) or _ENDS_SENTENCE.search(token[-80:]):
            yield begin, words[begin:end]
            begin = end


def _match_sentences(
    ours: Iterator[tuple[int, list[str]]], others: list[tuple[int, list[str]]], kept: list[bool]
) -> list[str]:
    """Mark our sentences that the others hold, each of them once; returns the words of those that match none."""
    keys = [" ".join(filter(None, sentence)) for _, sentence in others]
    free = Counter(keys)
    for begin, sentence in ours:
        key = " ".join(filter(None, sentence))
        if key and free[key] > 0:
            free[key] -= 1
            kept[begin : begin + len(sentence)] = [True] * len(sentence)
    rest = []
    for key, (_, sentence) in zip(keys, others, strict=True):
        if free[key] > 0:
            free[key] -= 1
            rest += [word for word in sentence if word]
    return rest


def _matches(ours: list[str], others: list[str]) -> set[int]:
    """Places of ours that have a partner among the others, each of them once."""
    if not ours or not others:
        return set()
    counts = Counter(others)
    pairs = sum(counts[word] for word in ours)
    cells = len(ours) * len(others)
    if cells <= _FEW_CELLS and pairs * min(len(ours), len(others), 50) <= _MOST_STEPS:
        blocks = SequenceMatcher(None, ours, others, autojunk=False).get_matching_blocks()
        found = [(block.a + n, block.b + n) for block in blocks for n in range(block.size)]
    elif cells <= _MOST_CELLS:
        found = _longest_common(ours, others)
    else:
        return _as_often(ours, counts)
    here, there = {a for a, _ in found}, {b for _, b in found}
    return here | _moved(ours, here, others, there)


def _as_often(ours: list[str], counts: Counter[str]) -> set[int]:
    """The first places of each word, as many as the others have of it."""
    left, found = counts.copy(), set()
    for place, word in enumerate(ours):
        if left[word] > 0:
            left[word] -= 1
            found.add(place)
    return found


def _longest_common(ours: list[str], others: list[str]) -> list[tuple[int, int]]:
    """Places of a longest common subsequence, 64 cells a machine word (Hyyrö 2004, "Bit-parallel LCS-length")."""
    at: dict[str, int] = {}
    for place, word in enumerate(ours):
        at[word] = at.get(word, 0) | 1 << place
    full, row, rows = (1 << len(ours)) - 1, (1 << len(ours)) - 1, []
    for word in others:
        hit = row & at.get(word, 0)
        row = (row + hit | row - hit) & full
        rows.append(row)
    found, a = [], len(ours) - 1
    for b in range(len(others) - 1, -1, -1):
        # A zero bit at a in row b: the common part grows there; without it one row up, b is its partner.
        while a >= 0 and rows[b] >> a & 1:
            a -= 1
        if a < 0:
            break
        if b == 0 or rows[b - 1] >> a & 1:
            found.append((a, b))
            a -= 1
    return found


def _moved(ours: list[str], here: set[int], others: list[str], there: set[int]) -> set[int]:
    """Places without a partner whose words, three and more in a row, stand elsewhere among the others' free ones."""
    size = _MOVED_WORDS
    runs: dict[tuple[str, ...], list[int]] = {}
    for b in range(len(others) - size, -1, -1):
        if there.isdisjoint(range(b, b + size)):
            runs.setdefault(tuple(others[b : b + size]), []).append(b)
    found, taken, a = set[int](), set[int](), 0
    while a <= len(ours) - size:
        places = runs.get(tuple(ours[a : a + size]), []) if here.isdisjoint(range(a, a + size)) else []
        while places and not taken.isdisjoint(range(places[-1], places[-1] + size)):
            places.pop()
        if not places:
            a += 1
            continue
        b = places.pop()
        while (
            a < len(ours)
            and b < len(others)
            and a not in here
            and b not in there
            and b not in taken
            and ours[a] == others[b]
        ):
            found.add(a)
            taken.add(b)
            a, b = a + 1, b + 1
    return found


def _by_sentence(text: str, others: tuple[str, ...]) -> Pieces:
    known = {sentence.group().strip() for other in others for sentence in _SENTENCE.finditer(other)}
    tokens = _SENTENCE.findall(text)
    return _joined(tokens, [token.strip() in known if token.strip() else None for token in tokens])


def _joined(tokens: list[str], states: list[bool | None]) -> Pieces:
    """Neighbours of one state as one piece; a token without one (None) goes with what stands before it."""
    pieces: Pieces = []
    held: list[str] = []
    now: bool | None = None
    for token, state in zip(tokens, states, strict=True):
        if state is not None and now is not None and state != now:
            pieces.append(("".join(held), now))
            held = []
        held.append(token)
        now = now if state is None else state
    return [*pieces, ("".join(held), now is not False)] if held else pieces
