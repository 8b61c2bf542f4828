"""What tokens cost: the job's own prices, else the list of genai-prices, which comes with the package.

Knows genai-prices; it takes 0.15 to 0.3 s to import, so only who needs a price of it loads it. Invariants: a price is
looked up by endpoint and model, never by the model's name alone (a server of one's own may serve any name); a price
that is not known is None, never 0; nothing is fetched.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlsplit

from s2a_batch.errors import JobError
from s2a_batch.job import OPENAI_URL, is_embedded
from s2a_batch.masking import masked_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2a_batch.caps import Price
    from s2a_batch.job import Job
    from s2a_batch.records import StageName, Usage
    from s2a_batch.stagejob import StageJob

CostOf: TypeAlias = "Callable[[Usage], float]"
"""US dollars of one request's tokens."""

_MILLION: Final = 1_000_000


def prices_of(job: Job) -> dict[StageName, CostOf | None]:
    """Each stage's prices; None where they are not known.

    Raises:
        JobError: The job caps money, and a price is not known.
    """
    found = {name: _price_of(stage, job.price) for name, stage in job.stages().items()}
    for name, cost_of in found.items():
        if cost_of is None and job.budget.max_cost_usd is not None:
            stage = job.stages()[name]
            raise JobError(
                f"budget.max_cost_usd: no price is known for the {name} stage ({stage.model} at "
                f"{masked_url(stage.base_url or OPENAI_URL)}); hint: give [{name}.price] usd_per_million_input and "
                "usd_per_million_output, or cap budget.max_tokens"
            )
    return found


def _price_of(stage: StageJob, shared: Price | None) -> CostOf | None:
    price = stage.price or shared
    if is_embedded(stage) and stage.price is None:
        return lambda _: 0.0  # our own electricity is nobody's bill
    if price is not None:
        return lambda usage: _by_table(price, usage)
    url = stage.base_url or OPENAI_URL
    return None if _is_own(url) else _listed(str(stage.model), masked_url(url))


def _by_table(price: Price, usage: Usage) -> float:
    given, cached = usage.input_tokens or 0, usage.cached_tokens or 0
    cached_rate = price.usd_per_million_cached
    cached = min(given, cached) if cached_rate is not None else 0
    dollars = (given - cached) * price.usd_per_million_input + cached * (cached_rate or 0.0)
    return (dollars + (usage.output_tokens or 0) * price.usd_per_million_output) / _MILLION


def _listed(model: str, url: str) -> CostOf | None:
    """By genai-prices, request by request, as some prices step up with a request's length; 0.14 ms each."""
    from genai_prices import Usage as Priced  # noqa: PLC0415  see above
    from genai_prices import calc_price  # noqa: PLC0415

    def cost(usage: Usage) -> float:
        given = usage.input_tokens or 0
        cached = min(given, usage.cached_tokens or 0)
        priced = Priced(input_tokens=given, cache_read_tokens=cached, output_tokens=usage.output_tokens or 0)
        return float(calc_price(priced, model, provider_api_url=url).total_price)

    try:
        calc_price(Priced(input_tokens=1, output_tokens=1), model, provider_api_url=url)
    except LookupError:
        return None
    return cost


def _is_own(url: str) -> bool:
    """Whether the address can be no provider's: a bare name or a number; so no list is loaded for it."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." not in host
    return True
