"""The rates that the checks promise, on real problems with a planted sentence (tests/data/NOTICE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench import checks as bench
from tests.processes import ROOT

if TYPE_CHECKING:
    from tests.bench.checks import Corruption

ROWS = bench.rows(ROOT / "tests" / "data" / "planted.jsonl")


def test_a_correct_rewrite_is_neither_an_error_nor_a_warning() -> None:
    """The rewrite that stage 1 shall make must pass in silence."""
    assert len(ROWS) == 60
    found = bench.rate(ROWS, None)
    assert (found.errors, found.warned) == (0, 0)


@pytest.mark.parametrize(
    "corruption",
    [
        bench.number_changed,
        bench.answer_leaked,
        bench.step_added,
        bench.step_told,
        bench.sentence_fabricated,
        bench.question_dropped,
        bench.question_replaced,
        bench.context_emptied,
        bench.negation_inserted,
        bench.preamble_kept,
        bench.label_kept,
        bench.row_mixed_up,
        bench.refusal,
    ],
)
def test_each_corruption_is_always_an_error(corruption: Corruption) -> None:
    """One of these in a hundred, in a file of a million, is ten thousand wrong answers."""
    found = bench.rate(ROWS, corruption)
    assert found.made > 40
    assert found.silent == []


@pytest.mark.parametrize(("corruption", "least"), [(bench.copy_cut, 0.85), (bench.question_told, 0.9)])
def test_some_corruptions_are_mostly_errors(corruption: Corruption, least: float) -> None:
    """A copy that is cut at a clause looks like a sentence: a warning, and no more."""
    found = bench.rate(ROWS, corruption)
    assert found.errors >= least * found.made


@pytest.mark.parametrize("corruption", [bench.sentence_dropped, bench.unchanged])
def test_what_cannot_be_proven_is_no_error(corruption: Corruption) -> None:
    """Leaving out is what stage 1 is for; whether the right thing was left out no check can know."""
    assert bench.rate(ROWS, corruption).errors == 0


def test_the_checks_cost_little() -> None:
    """They run for each record beside the requests: half a millisecond, here with room for a busy machine."""
    assert bench.cost_ms(ROWS) < 2.5
