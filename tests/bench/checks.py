"""How often the checks speak, and what they cost: `python -m tests.bench.checks DATA`.

DATA is a directory of data sets as <name>/full.jsonl or <name>/sample.jsonl, each line with `prompt`, `oracle_prompt`
(the prompt without what misleads) and `question`. The oracle is the correct rewrite; each corruption is made from it,
seeded, so that two runs give the same table. Rows that were cut at an abbreviation ("Mr.") are left out. The checks
were tuned on these sets and these wordings: of preambles, leaks and inventions in other words they see less.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from s2a_batch.checks import Original, judge_rewrite
from s2a_batch.records import Rewrite

Corruption: TypeAlias = Callable[["Row", "Row", random.Random], tuple[str, str] | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with its correct rewrite."""

    prompt: str
    context: str
    question: str
    expected: str

    @classmethod
    def of(cls, line: str) -> Row | None:
        """A line of a data set; None when it has no correct rewrite."""
        found = json.loads(line)
        oracle = found.get("oracle_prompt")
        if not oracle:
            return None
        before, asked, after = oracle.rpartition(found.get("question") or "\0")
        context = re.sub(r"\n+Question: ?$", "", before) if asked else ""
        if context.rstrip().endswith(("Mr.", "Mrs.", "Ms.", "vs.")):  # the set was cut in the middle of a sentence
            return None
        return cls(found["prompt"], context.strip(), (asked + after) if asked else oracle, str(found["expected"]))


def rows(path: Path) -> list[Row]:
    """All rows of a file that have a correct rewrite."""
    with path.open() as lines:
        return [row for line in lines if (row := Row.of(line)) is not None]


def number_changed(row: Row, _: Row, rng: random.Random) -> tuple[str, str] | None:
    """One number of the rewrite is another."""
    places = list(re.finditer(r"\d+", row.context)) or list(re.finditer(r"\d+", row.question))
    if not places:
        return None
    place = rng.choice(places)
    other = str(int(place[0]) + rng.choice([1, 2, 7, 10, 13]))
    changed = place.string[: place.start()] + other + place.string[place.end() :]
    return (changed, row.question) if place.string == row.context else (row.context, changed)


def answer_leaked(row: Row, _: Row, rng: random.Random) -> tuple[str, str]:
    """The answer stands at the end of the context."""
    said = ["The answer is {}.", "Answer: {}", "So the total is {}.", "Therefore, it is {}.", "That makes {}."]
    return f"{row.context} {rng.choice(said).format(row.expected)}", row.question


def step_added(row: Row, _: Row, __: random.Random) -> tuple[str, str]:
    """A step of the calculation stands in the context."""
    found = re.findall(r"\d+", row.context + row.question)
    a, b = int(found[0]) if found else 2, int(found[-1]) if found else 3
    return f"{row.context} {a} * {b} = {a * b}.", row.question


def step_told(row: Row, _: Row, rng: random.Random) -> tuple[str, str]:
    """A calculated value stands in the context, in words of the prompt."""
    found = re.findall(r"\d+", row.context + row.question) or ["6"]
    start = " ".join(row.context.split()[:2])
    value = int(rng.choice(found)) * 7 + 11
    while str(value) in row.prompt:
        value += 1
    return f"{row.context} {start} has {value} in all.", row.question


def sentence_fabricated(row: Row, _: Row, rng: random.Random) -> tuple[str, str]:
    """A sentence that the prompt lacks."""
    name = row.context.split()[0]
    made_up = [
        f"{name} also owns a yacht and a castle.",
        "The weather in the village was unusually stormy.",
        f"{name} later donated everything to a hospital charity.",
        "A famous astronaut applauded the winners.",
    ]
    return f"{row.context} {rng.choice(made_up)}", row.question


def question_dropped(row: Row, _: Row, __: random.Random) -> tuple[str, str]:
    """The query is empty."""
    return row.context, ""


def question_told(row: Row, _: Row, __: random.Random) -> tuple[str, str]:
    """The query is the context's last sentence."""
    return row.context, re.split(r"(?<=[.!]) ", row.context)[-1]


def question_replaced(row: Row, other: Row, _: random.Random) -> tuple[str, str] | None:
    """The query is another row's."""
    return None if other.question == row.question else (row.context, other.question)


def context_emptied(row: Row, _: Row, __: random.Random) -> tuple[str, str]:
    """The question alone is left."""
    return "", row.question


def negation_inserted(row: Row, _: Row, __: random.Random) -> tuple[str, str] | None:
    """A sentence says the contrary."""
    verbs = r"\b(is|are|was|were|has|had|can|will|wants|needs|have|does|sells|buys|makes|bought|went|takes|costs)\b"
    swapped, n = re.subn(verbs, lambda m: _denied(m[1]), row.context, count=1)
    return (swapped, row.question) if n else None


def _denied(verb: str) -> str:
    if verb in {"is", "are", "was", "were", "can", "will", "does"}:
        return verb + " not"
    return {"has": "does not have", "had": "never had", "have": "do not have"}.get(verb, "never " + verb)


def preamble_kept(row: Row, _: Row, rng: random.Random) -> tuple[str, str]:
    """The reply introduces itself."""
    said = [
        "Sure! Here is the rewritten text: ",
        "Here is the relevant context:\n\n",
        "Sure! Here is what you asked for: ",
    ]
    return rng.choice(said) + row.context, row.question


def label_kept(row: Row, _: Row, rng: random.Random) -> tuple[str, str]:
    """A label stands before the text."""
    return rng.choice(["Context: ", "relevant_context: ", "```\n"]) + row.context, row.question


def row_mixed_up(_: Row, other: Row, __: random.Random) -> tuple[str, str]:
    """The rewrite is another row's."""
    return other.context, other.question


def copy_cut(row: Row, _: Row, rng: random.Random) -> tuple[str, str] | None:
    """The context ends in the middle of a sentence."""
    words = row.context.split(" ")
    places = [n for n in range(5, len(words)) if words[n - 1][-1:].isalnum() and not words[n][:1].isupper()]
    return (" ".join(words[: rng.choice(places)]), row.question) if places else None


def refusal(row: Row, _: Row, rng: random.Random) -> tuple[str, str]:
    """The model refuses."""
    return rng.choice(["I'm sorry, but I can't help with that.", "As an AI, I cannot do this."]), row.question


def sentence_dropped(row: Row, _: Row, rng: random.Random) -> tuple[str, str] | None:
    """A needed sentence is gone, which no check can prove."""
    parts = re.split(r"(?<=[.!]) ", row.context)
    if len(parts) < 2:
        return None
    del parts[rng.randrange(len(parts))]
    return " ".join(parts), row.question


def unchanged(row: Row, _: Row, __: random.Random) -> tuple[str, str]:
    """Nothing is left out."""
    return row.prompt.removesuffix(row.question), row.question


CORRUPTIONS: tuple[Corruption, ...] = (
    number_changed, answer_leaked, step_added, step_told, sentence_fabricated, question_dropped, question_told,
    question_replaced, context_emptied, negation_inserted, preamble_kept, label_kept, row_mixed_up, copy_cut, refusal,
    sentence_dropped, unchanged,
)  # fmt: skip


def judge(row: Row, context: str, query: str) -> dict[str, set[str]]:
    """Names of what speaks, by level."""
    found: dict[str, set[str]] = {"error": set(), "warn": set(), "info": set()}
    for check in judge_rewrite(Original(row.prompt), Rewrite(relevant_context=context, user_query=query, raw="")):
        found[check.level].add(check.name)
    return found


@dataclass(frozen=True, slots=True)
class Rate:
    """How many rows of a set were made, and what was said of how many."""

    made: int
    errors: int
    warned: int
    names: Counter[str]
    silent: list[tuple[Row, str, str]]
    loud: list[tuple[Row, str, str]]


def rate(data: list[Row], corruption: Corruption | None) -> Rate:
    """Judge each row's correct rewrite, or a corruption of it."""
    rng = random.Random(0)  # noqa: S311  a table that is the same each time
    made = errors = warned = 0
    names: Counter[str] = Counter()
    silent: list[tuple[Row, str, str]] = []
    loud: list[tuple[Row, str, str]] = []
    for n, row in enumerate(data):
        other = data[(n + 1 + rng.randrange(len(data) - 1)) % len(data)]
        texts = (row.context, row.question) if corruption is None else corruption(row, other, rng)
        if texts is None:
            continue
        made += 1
        found = judge(row, *texts)
        errors += bool(found["error"])
        warned += bool(found["warn"])
        names.update(found["error"] | found["warn"])
        (loud if found["error"] else silent).append((row, *texts))
    return Rate(made, errors, warned, names, silent, loud)


def cost_ms(data: list[Row], rounds: int = 3) -> float:
    """The least mean processor time of judging a correct rewrite, over some rounds."""
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for row in data:
            judge(row, row.context, row.question)
        best = min(best, time.process_time() - begun)
    return 1000 * best / len(data)


def main(root: Path, *, shown: int = 0) -> None:
    """Print the table, and of each line so many rows that are not as they should be."""
    for path in sorted(root.glob("*/*.jsonl")):
        data = rows(path)
        if not data:
            continue
        words = sum(len(row.prompt.split()) for row in data) / len(data)
        print(f"\n{path.parent.name}/{path.name}: {len(data)} rows, {words:.0f} words, {cost_ms(data):.3f} ms a row")
        corruptions = CORRUPTIONS if path.parent.name in {"gsm8k_planted", "problemathic"} else (row_mixed_up,)
        for corruption in (None, *corruptions):
            found = rate(data, corruption)
            name = "correct" if corruption is None else corruption.__name__
            said = ", ".join(f"{check} {n / found.made:.3f}" for check, n in found.names.most_common(5))
            print(
                f"  {name:20} {found.made:5} "
                f"error {found.errors / found.made:.4f} warn {found.warned / found.made:.3f}  {said}"
            )
            for row, context, query in (found.loud if corruption is None else found.silent)[:shown]:
                print(f"      {row.prompt!r}\n      -> {context!r} | {query!r} {judge(row, context, query)['error']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), shown=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
