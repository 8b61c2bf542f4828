"""The figures of a comparison: who is right how often, how sure that is, what turned, what it took.

Invariant: what is not known is None, never 0; what was left out is beside what was counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from s2a_batch import __version__
from s2a_batch.compare import stats

if TYPE_CHECKING:
    from pydantic import JsonValue

    from s2a_batch.compare.matching import Use


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many are right, with 95 % intervals; `None` without records."""

    right: int
    n: int
    share: float | None
    bootstrap: stats.Interval | None
    wilson: stats.Interval | None

    @classmethod
    def of(cls, right: int, n: int) -> Share:
        """With its intervals."""
        share = right / n if n else None
        return cls(right, n, share, stats.bootstrap_share(right, n), stats.wilson_share(right, n))


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm.

    Attributes:
        directory: Where its run is, in the comparison's.
        same_as: The arm that ran in its stead.
        rewrites_of: The arm whose rewrites it uses.
        answered, failed, pending: Records of the input, the unusable lines apart.
        failures: Why records failed.
        judged: Of the records that have a right answer; failed ones count as wrong.
        no_oracle: Records left out because the input has no text without noise for them.
        unjudged: Records left out because the judge did not reply.
        alone: What it took, had it been the only arm.
        paid: Of that, what was paid for it: without borrowed rewrites, nothing for an arm that another ran for.
    """

    name: str
    directory: str
    same_as: str | None
    rewrites_of: str | None
    answered: int
    failed: int
    pending: int
    failures: dict[str, int]
    judged: Share
    no_oracle: int
    unjudged: int
    alone: Use
    paid: Use
    groups: dict[str, Share]


@dataclass(frozen=True, slots=True)
class Turn:
    """A record that two arms answer differently."""

    line: int
    id: JsonValue
    expected: JsonValue
    first: JsonValue
    arm: JsonValue


@dataclass(slots=True)
class Pair:
    """An arm against the first one, over the records that both have a judgement of.

    Attributes:
        better: Records that this arm alone has right; `worse`: that the first alone has right.
        p, mid_p: Of McNemar's exact test, two-sided; `p_holm`: adjusted for the number of arms.
        to_right, to_wrong: The records of `better` and `worse`, the first thousand of each.
        changed: Without right answers: records with another answer, the first thousand.
        left_out: Records with a right answer that one of the two has no judgement of.
        bootstrap, adjusted: 95 % intervals of the difference, by percentile bootstrap, and of Agresti and Min.
    """

    arm: str
    first: str
    n: int = 0
    both_right: int = 0
    both_wrong: int = 0
    better: int = 0
    worse: int = 0
    left_out: int = 0
    difference: float | None = None
    bootstrap: stats.Interval | None = None
    adjusted: stats.Interval | None = None
    p: float | None = None
    mid_p: float | None = None
    p_holm: float | None = None
    to_right: list[Turn] = field(default_factory=list)
    to_wrong: list[Turn] = field(default_factory=list)
    changed: list[Turn] = field(default_factory=list)


@dataclass(slots=True)
class Agreement:
    """How often two arms answer alike, of the records that both answered; a right answer is not needed for it."""

    a: str
    b: str
    n: int = 0
    alike: int = 0


@dataclass(slots=True)
class Comparison:
    """All figures.

    Attributes:
        way: How answers were judged.
        lines: Non-blank input lines.
        unusable: Of these: lines that ask nothing.
        no_gold: Of the others: lines without a right answer that can be used.
        by: The field of the input that groups are made by.
        judge: What the judge took; None without one.
    """

    input: str
    output: str
    way: str
    expected: str
    by: str | None
    limit: int | None
    lines: int
    unusable: int
    no_gold: int
    arms: list[ArmFigures]
    pairs: list[Pair]
    agreements: list[Agreement]
    judge: Use | None = None

    @property
    def with_gold(self) -> bool:
        """Whether any record has a right answer."""
        return self.lines - self.unusable > self.no_gold

    @property
    def incomplete(self) -> bool:
        """Whether an arm failed on something, or the judge did."""
        return any(arm.failed or arm.unjudged for arm in self.arms) or self.unusable > 0

    def as_dict(self) -> dict[str, JsonValue]:
        """For a JSON file."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {"comparison": 1, "s2a_batch": __version__, "written_at": now, **asdict(self)}
