"""Text as words: folding, tokens, stems, sentences; enough to compare two texts, and no more.

Pure functions on the standard library. Invariant: each is linear in its text, and what it holds at a time is bounded.
English is known by its function words; in a script without spaces each sign is a token.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SIGNS: Final = (
    "\u0900-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
    # Indic, Thai, Tibetan, Burmese, Khmer, kana, Han, Hangul
)
TOKEN: Final = re.compile(rf"[{_SIGNS}]|\d+(?:[.,]\d+)*+|[^\W\d_{_SIGNS}]+")
_ASCII_TOKEN: Final = re.compile(r"[A-Za-z]+|\d+(?:[.,]\d+)*+", re.ASCII)  # TOKEN of a text in ASCII: 8 us, not 14
SIGN: Final = re.compile(rf"[{_SIGNS}]")
_PLAIN: Final = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "⁄": "/", "؟": "?"}
)
_CONTRACTED: Final = re.compile(r"n't\b")
_SPACES: Final = re.compile(" {2,}")
_CLITIC: Final = re.compile(r"'(?:s|re|ve|ll|d|m)\b")
# A stop ends a sentence before a space, a closing mark or the end; CJK stops and line ends always do. What a stop can
# begin with stands in front, so that the search skips to it: 2 us a prompt, not 16.
_STOP: Final = re.compile(
    r"[.!?\n。！？।](?:(?<=[.!?])(?<![.!?]{2})[.!?]*+[\"')\]*]*+(?=\s|$)|(?<=\n)\n*+|(?<=[。！？।])[。！？।]*+)"
)
_ABBREVIATED: Final = re.compile(r"(?:^|[\s(])(?:mr|mrs|ms|dr|st|prof|jr|sr|vs|no|e\.g|i\.e|etc|approx)\.$")
_BEFORE_DOT: Final = frozenset(("mr", "rs", "ms", "dr", "st", "of", "jr", "sr", "vs", "no", ".g", ".e", "tc", "ox"))
"""How what is abbreviated ends; without one of these there is no need to look for the rest."""
_LONGEST_SENTENCE: Final = 1000


def listed(words: str) -> frozenset[str]:
    """A set of words, written as a sentence is."""
    return frozenset(words.split())


NEGATIONS: Final = listed("not no never none nobody nothing neither nor without cannot nowhere hardly")
AUXILIARIES: Final = listed("do does did ca wo a an the be been is are was were am any some ever")
# Words that are English and hardly anything else. A text with one of them is English when a third of its words are in
# STOPWORDS; with two, a fifth, as of the distinct words of a longer text.
_ENGLISH: Final = listed(
    "the and that with how many what does did his she they from which this you were who when each there "
    "why where whose would could should their them because about your"
)
_SHARE: Final = 0.35
_SHARE_OF_MANY: Final = 0.22
_ENOUGH: Final = 40
# What a faithful rewrite may bring in: function words, and words about amounts, askers, claims and texts.
STOPWORDS: Final = (
    NEGATIONS
    | AUXILIARIES
    | _ENGLISH
    | listed(
        "about above across after again against all along already also although always among amount another anything "
        "around as ask asked asks at away back because before being below between both but by can could "
        "currently down "
        "during else either enough even every exactly few fewer finally first following former further get "
        "gets given "
        "got had having he help hence here hers herself him himself hour i in include included includes including "
        "individual information initial initially instead into its itself just know largest last later least "
        "less let "
        "list like made make makes many may me might mine more moreover most must my namely need needed needs next "
        "now number off often on once one only onto or original originally other others our ours out over "
        "overall own "
        "people per perhaps person please provide provided quantity question regarding remain remaining respectively "
        "same second several shall should since so something still such sum tell text their theirs them themselves "
        "these thing things those though through throughout thus together too total totally toward true "
        "under until up "
        "upon us use used uses using very via want wants we well whatever where whereas whether while whole "
        "whom whose "
        "why will within would yet your yours altogether additional additionally additional claim claimed claims "
        "correct accurate actually answer answers option options choose context sentence long times time left "
        "for much if it then than of her d ll m re s t ve st nd rd th user state stated states say says said "
        "according there"
    )
)
_IRREGULAR: Final = dict(
    pair.split(":")
    for pair in listed(
        "has:have had:have went:go gone:go goes:go bought:buy ate:eat eaten:eat ran:run sold:sell gave:give "
        "given:give got:get made:make took:take taken:take children:child men:man women:woman feet:foot teeth:tooth "
        "mice:mouse spent:spend paid:pay thought:think found:find kept:keep began:begin begun:begin saw:see seen:see "
        "wrote:write written:write drove:drive flew:fly grew:grow grown:grow knew:know threw:throw caught:catch "
        "taught:teach brought:bring lost:lose won:win met:meet sat:sit slept:sleep sent:send built:build held:hold "
        "told:tell said:say came:come drank:drink swam:swim rode:ride broke:break chose:choose wore:wear led:lead "
        "fed:feed left:leave lent:lend knives:knife loaves:loaf leaves:leaf shelves:shelf halves:half lives:life "
        "stood:stand understood:understand became:become shot:shoot stole:steal hid:hide drew:draw dug:dig"
    )
)


def fold(text: str) -> str:
    """The text as it is compared: lower case, single spaces, plain quotes and dashes, contractions taken apart."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    text = _SPACES.sub(" ", text.lower()) if "  " in text else text.lower()
    if "'" in text:
        text = _CLITIC.sub("", _CONTRACTED.sub(" not", text))
    return text


def has_token(text: str) -> bool:
    """Whether there is any word, number or sign in a text."""
    return (_ASCII_TOKEN if text.isascii() else TOKEN).search(text) is not None


def tokens(text: str) -> list[str]:
    """Words, numbers and signs of a folded text, in their order."""
    return (_ASCII_TOKEN if text.isascii() else TOKEN).findall(text)


def sentences(text: str) -> Iterator[str]:
    """Sentences and lines of a text, ends trimmed; what is longer than a thousand characters comes in pieces."""
    start = 0
    for stop in _STOP.finditer(text):
        end = stop.end()
        if text[end - 3 : end - 1] in _BEFORE_DOT and _ABBREVIATED.search(text, max(start, end - 8), end):
            continue
        if end - start > _LONGEST_SENTENCE:
            yield from _pieces(text, start, end)
        elif piece := text[start:end].strip():
            yield piece
        start = end
    yield from _pieces(text, start, len(text))


def _pieces(text: str, start: int, end: int) -> Iterator[str]:
    while end - start > _LONGEST_SENTENCE:
        cut = text.rfind(" ", start + 1, start + _LONGEST_SENTENCE)
        cut = start + _LONGEST_SENTENCE if cut < 0 else cut
        yield text[start:cut].strip()
        start = cut
    if piece := text[start:end].strip():
        yield piece


@lru_cache(maxsize=1 << 14)
def stem(word: str) -> str:
    """A word without its English ending; one stem for have/has/had, cat/cats, make/making."""
    word = _IRREGULAR.get(word, word)
    if len(word) <= 3 or not word.isalpha():  # noqa: PLR2004  shorter ones have no ending to lose
        return word
    for ending, instead in (("ies", "y"), ("ied", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("ly", "")):
        if word.endswith(ending) and len(word) - len(ending) > 2:  # noqa: PLR2004
            word = word[: -len(ending)] + instead
            break
    else:
        if word.endswith("es") and word[-3] in "sxzho" and len(word) > 4:  # noqa: PLR2004
            word = word[:-2]
        elif word.endswith("s") and word[-2] not in "su":
            word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lse":  # noqa: PLR2004
        word = word[:-1]
    return word.removesuffix("e")


def content(words: Collection[str]) -> set[str]:
    """The stems of the words that carry meaning, numbers among them."""
    return {stem(word) for word in words if word not in STOPWORDS}


def is_english(words: set[str]) -> bool:
    """Whether these distinct words are English beyond doubt."""
    sure = len(words & _ENGLISH)
    likely = len(words & STOPWORDS)
    if not sure:
        return False
    share = _SHARE_OF_MANY if sure > 1 else _SHARE
    if likely >= min(share * len(words), _ENOUGH):
        return True  # with all that are no words among them
    return likely >= share * sum(word.isalpha() for word in words)
