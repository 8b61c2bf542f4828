"""The numbers of a run as they are printed: the shape of `report --json`, and all that the page shows.

Invariant: what is not known is None, never 0. Times are seconds, moments are Unix time, money is US dollars.
"""

from __future__ import annotations

from typing import TypedDict


class Spread(TypedDict):
    """How values lie; quantiles within 1.1 %, the rest exact."""

    n: int
    total: float
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    most: float | None


class StageReading(TypedDict):
    """One stage over all records. `unknown_usage` replies did not say their tokens; `unpriced` have no known price."""

    models: dict[str, int]
    models_answered: dict[str, int]
    records: int
    requests: int
    retries: int
    reasks: int
    rate_limited: int
    outage: int
    unknown_usage: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: float | None
    unpriced: int
    seconds: Spread
    waited_s: Spread
    errors: dict[str, int]
    statuses: dict[str, int]
    finish_reasons: dict[str, int]


class BinReading(TypedDict):
    """What fell into one bin of time: requests where they began (p50, p95, p99), records where they ended."""

    at: int
    answered: int
    failed: int
    rewritten: int
    requests: int
    rate_limited: int
    errors: int
    outage: int
    waited_mean_s: float | None
    waited_most_s: float | None
    latency_s: dict[str, tuple[float, float, float]]


class CourseReading(TypedDict):
    """The run over time; bins in which nothing happened are left out."""

    width_s: int
    bins: list[BinReading]


class SizeReading(TypedDict):
    """Records of one size of prompt: what they took, and what one call each would have taken."""

    from_chars: int
    to_chars: int | None
    records: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    one_input_tokens: float
    one_output_tokens: int
    one_cost_usd: float | None
    input_factor: float | None
    token_factor: float | None
    cost_factor: float | None


class MeasuredReading(TypedDict):
    """Records whose prompt was also asked as it is: both ways as they were metered."""

    records: int
    flips: int
    token_factor: float | None


class OneCallReading(TypedDict):
    """Against one call with the original prompt; `total` and `sizes` hold answered records whose usage is known."""

    tokens_per_char: float | None
    method: str
    points: int
    fit: float
    total: SizeReading | None
    sizes: list[SizeReading]
    measured: MeasuredReading


class CompressionReading(TypedDict):
    """Words of the rewrites against words of their prompts."""

    records: int
    prompt_words: int
    rewrite_words: int
    kept: Spread
    shares: list[int]


class CheckReading(TypedDict):
    """How many records one check had something to say about."""

    name: str
    level: str
    records: int


class FailureReading(TypedDict):
    """Dead letters of one kind, and the first of them."""

    kind: str
    records: int
    stages: dict[str, int]
    meaning: str
    remedy: str
    first_line: int
    first_file: str | None
    first_message: str


class SlowReading(TypedDict):
    """One of the slowest records."""

    line: int
    file: str | None
    id: str
    status: str
    seconds: float
    stages: dict[str, float]
    waited_s: float
    requests: int


class ExampleReading(TypedDict):
    """A record worth reading, and why; `file` and `offset` are where its line begins."""

    why: list[str]
    line: int
    key: str
    file: str
    offset: int


class CountsReading(TypedDict):
    """Records; `pending` and `superseded` as the last execution told, None when it could not."""

    answered: int
    failed: int
    rewritten: int
    pending: int | None
    superseded: int | None
    unreadable: int
    set_aside: int
    baselines: int
    flips: int
    fingerprints: dict[str, int]


class RunReading(TypedDict):
    """Which run it is, and how it stands; requests and cost are of all executions, as far as they came to an end."""

    directory: str
    input: str
    version: str
    fingerprint: str
    running: bool
    stopped: str | None
    only_rewrite: bool
    executions: int
    killed: int
    requests: int
    cost_usd: float | None
    settings: dict[str, str]


class Reading(TypedDict):
    """All numbers of a run."""

    schema: int
    made_at: str
    resolution: float
    run: RunReading
    counts: CountsReading
    first: float | None
    last: float | None
    seconds: Spread
    stages: dict[str, StageReading]
    course: CourseReading
    one_call: OneCallReading
    compression: CompressionReading
    checks: list[CheckReading]
    checked: dict[str, int]
    policies: dict[str, int]
    failures: list[FailureReading]
    slowest: list[SlowReading]
    examples: list[ExampleReading]
