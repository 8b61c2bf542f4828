"""What the terminal says of a comparison where a plain reading would mislead."""

from __future__ import annotations

from dataclasses import replace

from s2a_batch.compare import wording
from s2a_batch.compare.comparison import ArmFigures, Comparison, Pair, Share
from s2a_batch.compare.matching import Use
from s2a_batch.compare.stats import adjusted_difference, bootstrap_difference


def an_arm(name: str, right: int, n: int) -> ArmFigures:
    """An arm that took nothing."""
    share = Share.of(right, n)
    return ArmFigures(name, f"arms/{name}", None, None, n, 0, 0, {}, share, 0, 0, Use(), Use(), {"\x1b[2Jall\n": share})


def a_comparison(*arms: ArmFigures) -> Comparison:
    """Arms that turned nothing."""
    n = arms[0].judged.n
    pairs = [
        Pair(arm.name, arms[0].name, n, 0, n, 0, 0, 0, 0.0, bootstrap_difference(0, 0, n), adjusted_difference(0, 0, n))
        for arm in arms[1:]
    ]
    return Comparison("in.jsonl", "out", "exact", "expected", "side", None, n, 0, 0, list(arms), pairs, [])


def rows(found: Comparison) -> list[str]:
    """Its lines, with single spaces."""
    return [" ".join(line.split()) for line in wording.as_text(found).splitlines()]


def test_nothing_right_and_nothing_turned_are_not_told_as_certain() -> None:
    """36 wrong answers of a small model do not prove that it is never right; the bootstrap's interval would say so."""
    shown = rows(a_comparison(an_arm("baseline", 0, 36), an_arm("s2a", 0, 36)))
    assert "s2a 0 of 36 0.0 % 0.0 to 9.6* - -" in shown
    assert "s2a - baseline +0.0 -5.2 to +5.2* 0 0 36 - - -" in shown
    note = "note: * where the bootstrap has no width: the interval of Wilson, for a difference that of Agresti and Min"
    assert note in shown
    assert note not in rows(a_comparison(an_arm("baseline", 5, 36)))


def test_several_arms_are_told_to_be_several_tests() -> None:
    """Who tries ten variants finds one that wins by chance."""
    arms = [an_arm(name, 9, 36) for name in ("baseline", "instructed", "s2a")]
    told = "note: 2 arms are tested against baseline: go by p Holm, adjusted for that"
    assert told in rows(a_comparison(*arms))
    assert not any("p Holm, adjusted" in line for line in rows(a_comparison(*arms[:2])))


def test_what_was_left_out_failed_or_was_borrowed_is_told() -> None:
    """A share of 80 % of the records that went well is no 80 %."""
    lame = replace(an_arm("s2a", 3, 9), failed=2, failures={"timeout": 2}, unjudged=1, rewrites_of="other")
    none = replace(an_arm("oracle", 3, 5), no_oracle=4, same_as="s2a")
    found = a_comparison(an_arm("baseline", 3, 9), lame, none)
    found.pairs[1].left_out, found.unusable, found.no_gold, found.lines = 4, 1, 2, 12
    text = "\n".join(rows(found))
    for told in (
        "s2a: 2 failed (2 timeout), which count as wrong",
        "s2a: 1 answers have no verdict",
        "s2a uses the rewrites of other",
        "oracle: 4 records have no oracle's prompt",
        "oracle asks the same as s2a",
        "oracle - baseline: 4 records left out",
        "1 lines ask nothing",
        "2 records have no usable 'expected'",
    ):
        assert told in text


def test_a_group_named_by_the_input_cannot_steer_the_terminal() -> None:
    """The name comes from a file of a stranger."""
    text = wording.as_text(a_comparison(an_arm("baseline", 1, 2)))
    assert "\x1b" not in text
    assert r"\x1b[2Jall\x0a" in text
