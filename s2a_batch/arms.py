"""The [compare] table of a job: which arms answer the same records, and what a right answer is.

Knows pydantic. Invariants: nothing here can change an answer; what may hold a password (the tables of a judge and of an
arm of one's own) is in no dump of the job.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from s2a_batch.bounds import Table, fault

Score = Literal["exact", "number", "choice", "regex", "one_of", "contains", "judge"]

KNOWN: Final[dict[str, dict[str, JsonValue]]] = {
    "baseline": {"arm": "baseline"},
    "instructed": {"arm": "instructed"},
    "cot": {"arm": "cot"},
    "oracle": {"arm": "oracle"},
    "s2a": {"arm": "s2a"},
    "s2a_single": {"arm": "s2a", "rewrite": {"form": "single"}},
    "s2a_keep_original": {"arm": "s2a", "answer": {"keep_original": True}},
    "s2a_not_instructed": {"arm": "s2a", "answer": {"instructed": False}},
    "s2a_unbiased": {"arm": "s2a", "rewrite": {"preset": "unbiased"}},
    "s2a_relevance": {"arm": "s2a", "rewrite": {"preset": "relevance"}},
    "s2a_question": {"arm": "s2a", "rewrite": {"preset": "question"}},
}
"""Arms by name, and what each changes in the job: the baselines and variants of arXiv 2311.11829, sec. 3 and 4."""

_USUAL: Final = ("baseline", "instructed", "s2a", "s2a_keep_original")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OF_THE_WHOLE: Final = ("input", "output", "fields", "only", "rewrites", "budget", "compare")


def _named(variants: dict[str, dict[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
    for name, table in variants.items():
        if not _NAME.fullmatch(name):
            raise fault(name, f"'{name}' is no name of an arm: letters, digits, '_', '-' and '.', 64 at most")
        if shared := [key for key in table if key in _OF_THE_WHOLE]:
            raise fault(f"{name}.{shared[0]}", "is the same for all arms; set it at the job's top level")
    return variants


Variants = Annotated[dict[str, dict[str, JsonValue]], AfterValidator(_named)]


class Compare(Table):
    """What `s2a-batch compare` runs and how it judges."""

    arms: tuple[str, ...] = Field(default=(), description="The first is what all others are compared with.")
    expected: str = Field(default="expected", description="The input's field with the right answer, or a list of them.")
    score: Score | None = Field(
        default=None, description="How an answer is judged; if not given: by the answer's type."
    )
    answer: str = Field(default="answer", description="Which member of the answer object is judged.")
    options: str = Field(default="choices", description="The input's field with the options of a choice.")
    question: str = Field(default="question", description="The input's field with the bare question, for a judge.")
    by: str | None = Field(default=None, description="A field of the input; right answers are also counted by it.")
    judge: dict[str, JsonValue] = Field(default={}, exclude=True, repr=False, description="A stage, as [answer] is.")
    variants: Variants = Field(default={}, exclude=True, repr=False, description="Arms of one's own: name -> job keys.")

    @model_validator(mode="after")
    def _arms_are_known(self) -> Compare:
        names = self.names()
        known = [*self.variants, *KNOWN]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
                raise fault("arms", f"there is no arm '{name}'; {hint}")
        # Their directories: on some file systems A and a are one.
        if len({name.casefold() for name in names}) < len(names):
            raise fault("arms", "each name once; upper and lower case count as the same")
        if self.judge and self.score != "judge":
            raise fault("judge", "goes with score = 'judge'")
        return self

    def names(self) -> tuple[str, ...]:
        """The arms in their order; those of one's own come behind the usual ones when none are listed."""
        return self.arms or (*(name for name in _USUAL if name not in self.variants), *self.variants)

    def known(self, name: str) -> dict[str, JsonValue]:
        """What the known arm of this name changes in the job, but for the keys that the job's own one gives."""
        own = self.variants.get(name, {})
        return {key: value for key, value in KNOWN.get(name, {}).items() if key not in own}
