"""Whether a rewrite says only what the text says: words, negations, whole sentences; see `quantities` for numbers.

Pure functions of a compared pair. Invariant: an error is said of what is provable; where the language
is not known, or a paraphrase could explain it, there is a warning at most.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from s2a_batch.checks import amounts, compared, words
from s2a_batch.checks.verdicts import verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.checks.compared import Pair, Text
    from s2a_batch.records import Check

_MOST: Final = 60
_MOST_TRIED: Final = 300
"""Words and phrases that are looked up in the whole text, so that a book does not take minutes."""
# A sentence with two strange words that are half of its meaning is made up; a few spread over the text are paraphrase.
_MADE_UP: Final = 2
_MADE_UP_SHARE: Final = 0.5
_SPREAD: Final = 4
_SAME_WORD: Final = 80.0
_UNIT_SIGNS: Final = {"dollar": "$", "euro": "€", "pound": "£", "percent": "%", "cent": "¢", "degr": "°"}
_SPREAD_SHARE: Final = 0.2
_FOREIGN_SHARE: Final = 0.6
_SAME_BUT_FOR_NEGATION: Final = 85.0
_ENDING: Final = 40
_ALIKE: Final = 65.0
_ALL_BUT_NEGATION: Final = 95.0
# In the source these say what a rewrite may say with `not`.
_DENYING: Final = words.listed(
    "unable lack lacks lacked lacking fail fails failed refuse refuses refused avoid avoids impossible "
    "forgot forgets rarely seldom unlike unless unlikely"
)
_NO_NEGATION: Final = re.compile(r"\bnot (?:only|just)\b(?=.* but\b)|\bnot (?:sure|certain)\b|\bor not\b|\bno matter\b")
_COPIED: Final = 0.9


def checks(pair: Pair) -> Iterator[Check]:
    """What is to be said of a rewrite that adds or changes something."""
    if not pair.same_script:
        yield verdict("script_changed")
        return
    if pair.source.in_signs:
        yield from _strange_signs(pair)
    else:
        yield from _strange_words(pair)
    yield from _negations(pair)
    yield from _truncated(pair)


def _strange_words(pair: Pair) -> Iterator[Check]:
    strange: dict[str, None] = {}
    made_up: dict[str, None] = {}
    meaning = tried = 0
    for part in pair.parts:
        names: set[str] | None = None
        for joined in part.own:
            found = set(joined.split()) - words.STOPWORDS - amounts.WORDS
            own = [word for word in found if word.isalpha()]
            odd = [word for word in own if not _plainly_known(word, pair.source)]
            tried += len(odd)
            new = [word for word in odd if tried < _MOST_TRIED and not _known(word, pair)]
            strange.update(dict.fromkeys(sorted(new)))
            meaning += len(own)
            if len(new) >= _MADE_UP and (len(new) >= _MADE_UP_SHARE * len(own) or _alone(own, pair)):
                made_up.update(dict.fromkeys(sorted(new)))
            elif part is pair.context and _is_news(new, own, joined, pair):
                made_up.update(dict.fromkeys(new))
            if new:
                names = part.names() if names is None else names
                made_up.update(dict.fromkeys(sorted(names.intersection(new))))
    if not strange:
        return
    if not pair.english:
        made_up = {}
    spread = len(strange) >= (_SPREAD_SHARE if pair.english else _FOREIGN_SHARE) * meaning
    if made_up or (spread and len(strange) >= _SPREAD):
        yield verdict("words_invented", made_up or strange)
    else:
        yield verdict("words_new", strange)


def _alone(own: list[str], pair: Pair) -> bool:
    """Whether no sentence of the source has more than a third of these words."""
    stems = {words.stem(word) for word in own}
    for joined in pair.source.sentences:
        common = sum(words.stem(word) in stems for word in set(joined.split()))
        if common > len(stems) / 3:
            return False
    return True


def _is_news(new: list[str], own: list[str], joined: str, pair: Pair) -> bool:
    """Whether a sentence with one strange word, and little else of meaning, is like none of the source."""
    if len(new) != 1 or len(own) > _MADE_UP or len(new[0]) < 4 or joined.count(" ") < 3:  # noqa: PLR2004
        return False
    return compared.closest(joined, pair.source.sentences.keys(), _ALIKE) is None


def _plainly_known(word: str, source: Text) -> bool:
    return word in source.vocabulary or words.stem(word) in source.stems


def _known(word: str, pair: Pair) -> bool:
    """Whether the source has a word in another form than its stem: a compound, another spelling, a sign."""
    source = pair.source
    if (sign := _UNIT_SIGNS.get(words.stem(word))) is not None and sign in source.folded:
        return True
    if len(word) < 4:  # noqa: PLR2004  too short to be a form of another
        return not pair.english
    if word in source.folded or word[: max(5, len(word) * 3 // 4)] in source.folded:
        return True
    if any(word[:n] in source.vocabulary and word[n:] in source.vocabulary for n in range(2, len(word) - 1)):
        return True
    return compared.closest(word, source.vocabulary, _SAME_WORD) is not None


def _strange_signs(pair: Pair) -> Iterator[Check]:
    """In a script without spaces pairs of neighbouring signs are compared: another text shares few of them."""
    known = missing = 0
    lost: dict[str, None] = {}
    for part in pair.parts:
        for joined in part.sentences:
            signs = joined.replace(" ", "")
            for n in range(len(signs) - 1):
                if signs[n].isascii() or signs[n + 1].isascii():
                    continue
                if signs[n : n + 2] in pair.source.folded:
                    known += 1
                else:
                    missing += 1
                    lost[signs[n : n + 2]] = None
            if known + missing > 20 * _MOST:
                break
    if missing >= _SPREAD and missing > _FOREIGN_SHARE * (known + missing):
        yield verdict("words_invented", lost)
    elif missing > _FOREIGN_SHARE / 2 * (known + missing):
        yield verdict("words_new", lost)


def _negations(pair: Pair) -> Iterator[Check]:
    changed = [*pair.context.own, *pair.query.own][:_MOST]
    if not changed or not pair.english:
        return
    keys: dict[str, list[int]] = {}
    for original in pair.source.sentences:
        keys.setdefault(_without_negation(original), []).append(_negation_count(original, _DENYING))
    flipped, fewer = [], []
    for sentence in changed:
        key, said = _without_negation(sentence), _negation_count(sentence)
        best = compared.closest(key, keys.keys(), _SAME_BUT_FOR_NEGATION)
        if best is not None:
            counts = keys[best[0]]
            if said > max(counts) or (said < min(counts) and best[1] >= _ALL_BUT_NEGATION):
                flipped.append(sentence)
            elif said < min(counts):
                fewer.append(sentence)
        elif said and (part := _as_part(key, keys)) is not None and said > max(keys[part]):
            flipped.append(sentence)
    if flipped:
        yield verdict("negation_flipped", flipped)
    if fewer:
        yield verdict("negation_dropped", fewer)


def _as_part(key: str, keys: dict[str, list[int]]) -> str | None:
    """The source's sentence of which this one is a part, clauses having been cut out of it; None without."""
    best = compared.closest(key, keys.keys(), _SAME_BUT_FOR_NEGATION, part=True)
    if best is None:
        wanted = set(key.split())
        within = [k for k in keys if len(wanted) > 2 and wanted <= set(k.split())]  # noqa: PLR2004
        return within[0] if within else None
    return best[0] if len(key) <= len(best[0]) else None


def _without_negation(sentence: str) -> str:
    out = words.NEGATIONS | words.AUXILIARIES
    return " ".join(words.stem(word) for word in sentence.split() if word not in out)


def _negation_count(sentence: str, also: frozenset[str] | None = None) -> int:
    """How many words of a sentence negate, `also` among them; `not only` and the like do not."""
    found = sentence.split()
    denying = words.NEGATIONS if also is None else words.NEGATIONS | also
    if denying.isdisjoint(found):
        return 0
    return sum(word in denying for word in _NO_NEGATION.sub(" ", sentence).split())


def _truncated(pair: Pair) -> Iterator[Check]:
    for part in pair.parts:
        text = part.folded.rstrip()
        if not text or text[-1] in ".!?\"')]:;,。！？،…।*`}>|" or part.count < 4:  # noqa: PLR2004
            continue
        ending = text[-_ENDING:].rpartition("\n")[2]
        ending = ending if len(text) <= _ENDING or pair.source.in_signs else ending.partition(" ")[2]
        after = _after(ending, pair.source.folded)
        if after is None:
            continue
        if pair.source.in_signs and after[0] == " ":
            continue
        following = re.match(
            r" *(?:(?:and|but|or|so|because|while|when|if|which|who|that|where|although|though)\b|\S)", after
        )
        if following is None or pair.query.folded.startswith(after.strip()[:12]):
            continue
        if (after[0].isalnum() and not pair.source.in_signs) or (
            len(following.group().strip()) == 1 and following.group().strip().isalnum() and pair.english
        ):
            yield verdict("copy_truncated", [ending[-60:]])
        else:
            yield verdict("copy_shortened", [ending[-60:]])
        return


def _after(ending: str, source: str) -> str | None:
    """What follows in the source where a rewrite ends; None when it ends there with a sentence, or is not found."""
    at = source.find(ending)
    found = None
    for _ in range(_MOST):
        if at < 0:
            return found
        rest = source[at + len(ending) : at + len(ending) + 40]
        if not rest.strip() or rest.lstrip(" ")[0] in ".!?\n;:\"')]。！？।":
            return None
        found = rest
        at = source.find(ending, at + 1)
    return found


def coverage(pair: Pair) -> float:
    """Share of the rewrite's words that the text has: extractive fragment coverage (Grusky et al. 2018); 1.0 of none.

    Fragments may be one word long, so this is exact. Of equal sentences one counts; numbers have checks of their own.
    """

    def known_word(word: str) -> bool:
        return word in pair.source.vocabulary or word in amounts.WORDS or word[0].isdecimal()

    own = [*pair.context.own, *pair.query.own]
    strange = sum(not known_word(word) for joined in own for word in joined.split())
    if not strange:
        return 1.0
    total = sum(joined.count(" ") + 1 for part in pair.parts for joined in part.sentences)
    return (total - strange) / total


def copied_little(pair: Pair) -> Iterator[Check]:
    """A warning for a rewrite in words of its own."""
    share = coverage(pair)
    if share < _COPIED and pair.length > _SPREAD:
        yield verdict("copied_little", [f"coverage {share:.2f}"])
