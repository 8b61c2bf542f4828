"""What each reason code means and what to do about it: the README's table, for whoever reads a report.

Invariant: every reason has its row, word for word that of the README (tested).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from s2a_batch.errors import FailureKind

REMEDIES: Final[dict[FailureKind, tuple[str, str]]] = {
    "bad_json": ("the line is no strict JSON", "mend the line; the message has the column"),
    "not_utf8": ("a byte that is no UTF-8", "convert the file"),
    "not_an_object": ("JSON, but no object", "one object a line"),
    "bad_prompt": ("the prompt is missing, empty or no text", "mend it, or set fields.prompt"),
    "line_too_long": ("over 64 MiB", "split it"),
    "cut_line": ("a packed file, a pipe or an object ends in half a line", "give the whole line; the next run asks it"),
    "bad_request": (
        "the server refuses the request (400, 422)",
        "the message says why; often a parameter the model does not know",
    ),
    "too_long": ("longer than the model's context", "shorten it, or a model with more context"),
    "content_filter": ("refused or cut by the provider's filter", ""),
    "connection": ("no connection after all attempts", "--retry-failed later"),
    "timeout": ("no complete reply within retry.deadline_s, in all attempts", "raise it"),
    "server_error": ("5xx in all attempts", "--retry-failed later"),
    "rate_limited": (
        "in attempts: the server asked to wait; of a record: 20 times, while others were answered",
        "lower limits; --retry-failed",
    ),
    "not_an_answer": ("a 200 that is no chat completion, in all attempts", "is the base URL right?"),
    "truncated": ("the reply hit the token bound", "raise max_tokens"),
    "refusal": ("the model refused", "the text is in the attempt's reply"),
    "empty_rewrite": ("the rewrite has no question", "--retry-failed, another model"),
    "empty_answer": ("nothing came back, in all attempts", ""),
    "only_reasoning": ("reasoning without an answer", "raise max_completion_tokens"),
    "invalid_reply": ("no reply fitted the schema", "the reply is in the attempt; more retry.reasks, examples = true"),
    "check_failed": (
        "the rewrite failed a check, twice, and the job says fail",
        "look at checks; another policy, another model",
    ),
    "bug": ("our fault", "please report it"),
}
"""What happened, and the remedy, which may be empty."""
