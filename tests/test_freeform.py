"""Free names of a job: they add to a request and override nothing in it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from s2a_batch.stagejob import StageJob
from tests.fakes import a_job

OWNED = [
    "messages",
    "model",
    "stream",
    "n",
    "response_format",
    "tools",
    "tool_choice",
    "functions",
    "temperature",
    "seed",
]


@pytest.mark.parametrize("stage", ["rewrite", "answer"])
@pytest.mark.parametrize("name", [*OWNED, "stream_options", "max_tokens", "api_key", "N", " Stream "])
def test_a_free_field_cannot_override_what_the_program_sets(stage: str, name: str) -> None:
    """Two replies are paid and one is kept, a stream is read as no answer, other messages answer another question."""
    with pytest.raises(ValidationError, match=r"is not for extra_body: \w") as caught:
        a_job(**{stage: {"extra_body": {"top_k": 1, name: True}}})
    assert caught.value.errors()[0]["loc"] == (stage, "extra_body")
    assert a_job(**{stage: {"extra_body": {"top_k": 1, "chat_template_kwargs": {"n": 2}}}})


def test_every_parameter_that_a_stage_sends_is_refused_as_a_free_field() -> None:
    """A new parameter that is not in the list of owned ones could be given twice, and the free one would win."""
    for name in ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens"):
        assert name in StageJob.model_fields
        with pytest.raises(ValidationError, match="set it beside extra_body"):
            a_job(rewrite={"extra_body": {name: 1}})


@pytest.mark.parametrize("names", [["Content-Length"], ["host"], ["X-Gateway", "x-gateway"]])
def test_a_header_of_the_transport_is_refused(names: list[str]) -> None:
    """A wrong length or host breaks each request in a way that no server explains."""
    with pytest.raises(ValidationError, match="leave"):
        a_job(answer={"headers_env": dict.fromkeys(names, "GATEWAY")})
    assert a_job(answer={"headers_env": {"Authorization": "GATEWAY", "X-Gateway": "GATEWAY"}})
