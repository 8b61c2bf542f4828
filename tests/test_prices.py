"""Prices come from where the job says, and what is not known is never 0."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from s2a_batch import prices
from s2a_batch.caps import Price
from s2a_batch.errors import (
    JobError,
)
from s2a_batch.records import Usage
from tests.fakes import a_job, usage
from tests.processes import ROOT, RUN, caps, manifest, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s2a_batch.job import Job
    from tests.server import Plan, Upstream

RECORDS = 12


def priced(job: Job, given: int, came: int, cached: int | None = None) -> float | None:
    cost_of = prices.prices_of(job)["answer"]
    used = Usage(input_tokens=given, output_tokens=came, cached_tokens=cached)
    return None if cost_of is None else cost_of(used)


def test_prices_come_from_the_stage_then_the_job_then_the_list() -> None:
    """The contract's price is nearer to the bill than a list's."""
    shared = {"usd_per_million_input": 1, "usd_per_million_output": 10}
    own = {"usd_per_million_input": 2, "usd_per_million_output": 20, "usd_per_million_cached": 0.5}
    million = 1_000_000
    assert priced(a_job(price=shared), million, million, cached=million) == 11
    assert priced(a_job(price=shared, answer={"price": own}), million, million, cached=million // 2) == 21.25
    listed = priced(a_job(model="gpt-4o-mini", base_url="https://api.openai.com/v1"), 10_000, 1000)
    assert listed is not None
    assert 0 < listed < 1
    assert priced(a_job(model="embedded", base_url=None), million, million) == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://gateway/v1", "https://llm.example.org/v1"])
def test_a_server_of_ones_own_has_no_list_price(url: str) -> None:
    """It may serve a model by a famous name; a guessed price is a wrong bill, and 0 is one too."""
    assert priced(a_job(model="gpt-4o-mini", base_url=url), 1000, 1000) is None


def test_no_price_list_is_loaded_for_a_server_of_ones_own() -> None:
    """It costs up to 0.3 s at the start of each run, for a look-up that can find nothing."""
    code = (
        "import sys; from tests.fakes import a_job; from s2a_batch.prices import prices_of; prices_of(a_job());"
        "assert 'genai_prices' not in sys.modules; prices_of(a_job(base_url='https://api.openai.com/v1'));"
        "assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_cached_count_beyond_the_input_breaks_nothing() -> None:
    """Servers count strangely; a price must not turn a paid answer into a bug."""
    job = a_job(model="gpt-4o-mini", base_url="https://api.openai.com/v1")
    assert priced(job, 10, 1, cached=50) is not None
    assert priced(a_job(price=Price(usd_per_million_input=1, usd_per_million_output=1).model_dump()), 10, 1, 50)


def test_a_cap_on_money_without_a_price_is_refused_with_the_remedy(folder: Path) -> None:
    """A cap that cannot be watched is a promise that cannot be kept."""
    url = "http://user:secret-word@127.0.0.1:9/v1"
    for more in ((), ("--dry-run",)):
        done = run(folder, *RUN, "--base-url", url, *caps("max_cost_usd=5"), *more)
        assert done.status == 2
        assert "no price is known for the rewrite stage (m at http://127.0.0.1:9/v1)" in done.err
        assert "[rewrite.price]" in done.err
        assert "secret-word" not in done.err
    with pytest.raises(JobError, match="answer stage"):
        prices.prices_of(
            a_job(
                budget={"max_cost_usd": 1},
                rewrite={"price": {"usd_per_million_input": 1, "usd_per_million_output": 1}},
            )
        )


def test_cost_stands_beside_the_tokens_of_each_stage(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Which stage the money went to decides which model to change."""
    up = upstream({"rules": [{"when": {"stage": "rewrite"}, "replies": [{"usage": usage(1000, 500)}]}]})
    price = "{usd_per_million_input = 1.0, usd_per_million_output = 2.0}"
    done = run(folder, *RUN, "--base-url", up.base_url, "--set", f"rewrite.price={price}")
    assert done.status == 0
    summary = manifest(folder)["summary"]
    assert (summary["rewrite"]["cost_usd"], summary["answer"]["cost_usd"]) == (0.024, None)
    assert manifest(folder)["totals"]["cost_usd"] is None
    assert f"rewrite: {RECORDS} requests; 12000 tokens in, 6000 out; cost $0.0240" in done.err
    assert "cost unknown" in done.err


def test_budget_and_price_do_not_change_the_fingerprint() -> None:
    """A larger budget must resume; it changes no answer."""
    plain = a_job()
    price = {"usd_per_million_input": 1, "usd_per_million_output": 1}
    other = a_job(budget={"max_requests": 3, "until": "06:00"}, price=price, answer={"price": price})
    assert plain.settings() == other.settings()
