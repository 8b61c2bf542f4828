"""Buckets and the learnt rate as arithmetic on times: exact, and without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.pace import Bucket, LearntRate, Taken


def starts(bucket: Bucket, amounts: list[float]) -> list[float]:
    """When each amount is let through, all of them waiting from 0."""
    now, times = 0.0, []
    for amount in amounts:
        while (delay_s := bucket.delay_s(now, amount)) > 0:
            now += max(delay_s, 1e-9)
        bucket.take(now, amount)
        times.append(now)
    return times


@given(
    limit=st.floats(0.2, 500),
    window_s=st.floats(0.5, 90),
    smooth=st.booleans(),
    amounts=st.lists(st.floats(0.01, 120), min_size=1, max_size=40),
)
def test_no_window_holds_more_than_its_limit(limit: float, window_s: float, smooth: bool, amounts: list[float]) -> None:
    """A server counts over any window, and one too many is a refusal that holds up everybody."""
    bucket = Bucket(limit, window_s, smooth=smooth)
    times = starts(bucket, amounts)
    for first in times:
        held = [amount for at, amount in zip(times, amounts, strict=True) if first <= at < first + bucket.window_s]
        assert sum(held) <= (bucket.limit or 0) + 1e-6 or len(held) == 1


def test_a_limit_of_less_than_one_is_one_in_a_longer_window() -> None:
    """A request every hundred minutes is a limit too."""
    assert starts(Bucket(0.01, 60.0), [1, 1, 1]) == pytest.approx([0, 6030, 12060])


def test_without_a_limit_nothing_waits_and_nothing_is_kept() -> None:
    """A run of days without limits must not remember each of its requests."""
    bucket = Bucket(None)
    assert starts(bucket, [5.0] * 1000) == [0.0] * 1000
    assert bucket.in_window(0.0) == 0


def test_a_correction_counts_in_the_window_it_belongs_to() -> None:
    """What was guessed too high is room for others; what comes late, after the window, changes nothing."""
    bucket = Bucket(100, 60.0, smooth=False)
    taken = bucket.take(0.0, 90)
    assert bucket.delay_s(1.0, 20) == pytest.approx(59.3)
    bucket.correct(taken, 10)
    assert bucket.delay_s(1.0, 20) == 0
    bucket.delay_s(100.0, 1)
    bucket.correct(taken, 5000)
    assert bucket.in_window(100.0) == 0


class Server:
    """Takes so many in any second, and refuses the rest with a wait of a second."""

    def __init__(self, rate: LearntRate, per_second: int) -> None:
        self.rate, self.per_second = rate, per_second
        self.took: list[float] = []
        self.refused: list[float] = []

    def run(self, seconds: float) -> None:
        """As many requests as are let through, a millisecond each at least, a pause after each refusal."""
        now = 0.0
        while now < seconds:
            now += max(self.rate.delay_s(now), 0.001)
            if self.rate.delay_s(now) > 0:
                continue
            taken = self.rate.take(now)
            last = self.took[-self.per_second :]
            if len(last) == self.per_second and last[0] > now - 1:
                self.refused.append(now)
                self.rate.refused(now, 1.0)
                now += 1.0
                continue
            self.took.append(now)
            self.rate.answered(taken, now + 0.002)


@pytest.mark.parametrize("per_second", [1, 3, 10, 80])
def test_one_refusal_teaches_the_rate(per_second: int) -> None:
    """A server that names no limit is used up to it from the second second on, at the price of one refusal."""
    server = Server(LearntRate(), per_second)
    server.run(30)
    assert len(server.refused) == 1
    assert len(server.took) >= 0.95 * per_second * 29


def test_a_rate_that_grew_is_found_and_refusals_get_rare() -> None:
    """Limits are raised in the night too; but asking for more each minute of a week would cost a refusal each."""
    server = Server(LearntRate(), 10)
    server.run(3600)
    first_half = sum(at < 1800 for at in server.refused)
    assert len(server.refused) - first_half <= first_half <= 8
    server = Server(LearntRate(), 10)
    server.run(30)
    server.per_second = 20
    server.run(900)
    assert sum(899 < at <= 900 for at in server.took) >= 12


def test_a_rate_that_fell_is_found_too() -> None:
    """Another program on the same key takes its share; half of the requests refused would be no rate."""
    server = Server(LearntRate(), 40)
    server.run(10)
    server.per_second = 4
    refused = len(server.refused)
    server.took.clear()
    server.run(40)
    assert len(server.refused) - refused <= 3


def test_a_storm_that_refuses_everybody_teaches_nothing() -> None:
    """A server that refuses all for some seconds is as fast again as before, not slow for the rest of the night."""
    server = Server(LearntRate(), 200)
    server.run(20)
    for at in (19.9, 21.5, 23.0, 25.0):
        server.rate.refused(at, 1.0)
        server.rate.delay_s(at + 1.0)
    assert server.rate.bucket.limit is not None
    assert server.rate.bucket.limit >= 0.9 * 200


def test_a_storm_that_lets_some_through_is_over_in_a_minute() -> None:
    """The few that were answered in it are no limit."""
    rate, taken = LearntRate(), [Taken(n / 100, 1) for n in range(1_000)]
    for one in taken:
        rate.answered(one, one.at)
    rate.refused(10.0, 1.0)
    rate.delay_s(11.0)
    assert rate.bucket.limit == pytest.approx(100, abs=2)
    for at in (12.0, 15.0):
        rate.answered(Taken(at, 1), at)
        rate.refused(at + 0.1, 1.0)
        rate.delay_s(at + 1.1)
    assert rate.bucket.limit is not None
    assert rate.bucket.limit < 3
    for second in range(17, 60):
        rate.delay_s(float(second))
    assert rate.bucket.limit >= 90


def test_waits_of_other_lengths_keep_the_rate() -> None:
    """Servers that count down name another wait each time; the same rate must come out of each."""
    rate = LearntRate()
    for n in range(3_000):
        rate.answered(Taken(n / 50, 1), n / 50)
    for retry_after, per_window in ((10.0, 500), (4.0, 200), (7.0, 350)):
        rate.refused(60.0, retry_after)
        rate.delay_s(70.0)
        assert rate.bucket.window_s == retry_after
        assert rate.bucket.limit == pytest.approx(per_window, rel=0.15)
