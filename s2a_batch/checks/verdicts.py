"""The checks by name: how much each weighs, and what it says to a person and, in a re-ask, to the model.

Invariant: a check that is not in this table cannot be made, so the table is the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from s2a_batch.records import Check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s2a_batch.records import Level

_MOST_WORDS: Final = 12
_LONGEST_WORD: Final = 80

VERDICTS: Final[dict[str, tuple[Level, str]]] = {
    "question_empty": ("error", "user_query is empty: it must hold the question or request of the text"),
    "context_empty": ("error", "relevant_context is empty, but the text tells things that the question is about"),
    "refused": ("error", "this refuses: the text is to be prepared, not to be answered or judged"),
    "preamble_left": ("error", "words about the rewrite that are not from the text: give the rewritten text alone"),
    "labels_left": ("error", "labels, code fences or marks that are not from the text: give plain text"),
    "reasoning_left": ("error", "reasoning that is not from the text: give the rewritten text alone"),
    "question_lost": ("error", "user_query is not the question of the text: copy the question"),
    "question_not_asked": ("error", "user_query asks nothing: copy the question as a question"),
    "answer_leaked": ("error", "this gives an answer: do not answer or calculate"),
    "numbers_invented": ("error", "numbers that the text does not have: copy numbers exactly, calculate nothing"),
    "numbers_swapped": ("error", "these words stand in the text with another number: copy numbers exactly"),
    "words_invented": ("error", "statements with words that the text does not have: copy the wording, add nothing"),
    "negation_flipped": (
        "error",
        "sentences that say the contrary of the text's: keep each not, no and never as it is",
    ),
    "copy_truncated": ("error", "a sentence that breaks off in the middle: copy it to its end"),
    "options_lost": ("error", "answer options left out: user_query must hold all of them"),
    "format_lost": ("error", "wishes about the form of the answer left out: user_query must hold them"),
    "numbers_unknown": ("warn", "numbers that the text does not have in digits"),
    "words_new": ("warn", "words that the text does not have"),
    "copied_little": ("warn", "less than nine tenths of the rewrite's words are the text's"),
    "script_changed": ("warn", "the rewrite is in another script than the text"),
    "context_dropped": ("warn", "relevant_context is empty, the text has more than its question"),
    "question_other": ("warn", "user_query is not the last question of the text, but an earlier one"),
    "negation_dropped": ("warn", "sentences with fewer negations than the text's"),
    "copy_shortened": ("warn", "the last sentence ends before the text's sentence does"),
    "longer_than_prompt": ("warn", "the rewrite is longer than the prompt"),
    "removed_nothing": ("info", "the rewrite leaves out nothing"),
    "question_doubled": ("info", "the question stands in the context too"),
    "opinion_left": ("info", "words of opinion or pressure that stayed"),
    "numbers_dropped": ("info", "numbers left out"),
    "sentences_dropped": ("info", "sentences left out"),
    "subjects_dropped": ("info", "words of the question that the text says more about, and the context does not have"),
    "not_checked": ("info", "prompt and rewrite are too long to be compared"),
    "answer_empty": ("error", "the answer is empty"),
    "answer_refused": ("error", "the answer refuses"),
    "answer_restates": ("error", "the answer only repeats the question"),
    "answer_cut": ("warn", "the answer breaks off in the middle"),
    "answer_undecided": ("warn", "the answer says that it lacks information: was needed context removed?"),
}
"""Name: level and message. The last five speak of an answer, all others of a rewrite."""

_ORDER: Final[dict[Level, int]] = {"error": 0, "warn": 1, "info": 2}


def verdict(name: str, words: Iterable[str] = ()) -> Check:
    """The check of this name; `words` are cut to a dozen, and each to a line."""
    level, message = VERDICTS[name]
    shown: list[str] = []
    for word in words:
        if len(shown) == _MOST_WORDS:
            break
        line = " ".join(word[: 2 * _LONGEST_WORD].split())
        shown.append(line if len(line) <= _LONGEST_WORD else line[: _LONGEST_WORD - 2] + "..")
    return Check(name=name, level=level, message=message, words=tuple(shown))


def worst_first(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Errors, then warnings, then information."""
    return tuple(sorted(checks, key=lambda check: _ORDER[check.level]))


def reason(checks: Iterable[Check]) -> str:
    """What the errors among these say to the model in a re-ask; empty without errors."""
    said = [f"{c.message} ({', '.join(c.words)})" if c.words else c.message for c in checks if c.level == "error"]
    return "; ".join(said)
