"""Numbers and texts of the report's page read right."""

from __future__ import annotations

from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.htmlreport import htmltext
from s2a_batch.htmlreport.charts import log_ticks, ticks


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (htmltext.count(None), "unknown"),
        (htmltext.count(1234567), "1,234,567"),
        (htmltext.short(999), "999"),
        (htmltext.short(1_500), "1.5k"),
        (htmltext.short(12_345), "12k"),
        (htmltext.short(2_000_000), "2M"),
        (htmltext.share(0, 10), "0 %"),
        (htmltext.share(10, 10), "100 %"),
        (htmltext.share(1, 3), "33.3 %"),
        (htmltext.share(1, 10**6), "< 0.1 %"),
        (htmltext.share(10**6 - 1, 10**6), "> 99.9 %"),
        (htmltext.share(13, 10), "130.0 %"),
        (htmltext.share(1, 0), htmltext.DASH),
        (htmltext.seconds(None), htmltext.DASH),
        (htmltext.seconds(0.0123), "12 ms"),
        (htmltext.seconds(1.234), "1.23 s"),
        (htmltext.seconds(59.94), "59.9 s"),
        (htmltext.seconds(125), "2 min 5 s"),
        (htmltext.seconds(7_260), "2 h 1 min"),
        (htmltext.factor(None), "unknown"),
        (htmltext.factor(2.345), "2.35" + htmltext.TIMES),
        (htmltext.factor(12.34), "12.3" + htmltext.TIMES),
    ],
)
def test_a_number_reads_as_what_it_is(shown: str, expected: str) -> None:
    """One record in a million that failed is not 0 %, and all but one is not 100 %."""
    assert shown == expected


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=120))
def test_what_can_be_seen_comes_through_unchanged(text: str) -> None:
    """Escaping must not eat or change a word of the audit."""
    assert unescape(htmltext.text(text)) == text


@given(st.text(max_size=400), st.integers(1, 300))
def test_a_text_takes_no_more_room_than_it_may(text: str, most: int) -> None:
    """A page's size is bounded by the bound of each text in it."""
    assert len(htmltext.text(text, most)) <= most + 1


@given(st.floats(1e-6, 1e9))
def test_an_axis_goes_from_nothing_to_above_the_highest(high: float) -> None:
    """A column that leaves its chart lies about how high it is."""
    found = ticks(high)
    assert found[0] == 0
    assert found[-1] >= high * 0.999_999
    assert 2 <= len(found) <= 7


@given(st.floats(0.01, 100), st.floats(1.5, 1000))
def test_a_scale_of_factors_has_round_values_within_it(low: float, times: float) -> None:
    """A tick outside of the drawing points at nothing."""
    assert all(low <= tick <= low * times * 1.0002 for tick in log_ticks(low, low * times))
