"""Judgements on a rewrite that need no model: each must speak when it should, and hold its tongue otherwise."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.checks import Original, judge_answer, judge_rewrite
from s2a_batch.checks.verdicts import VERDICTS, reason
from s2a_batch.records import Check, Rewrite

PROMPT = "Ann has 3 cats and 1,250.50 euros. Bob likes the number 7. I think it is 12. How many cats does Ann have?"
CONTEXT = "Ann has 3 cats and 1,250.50 euros."
QUESTION = "How many cats does Ann have?"


def rewrite(context: str, query: str) -> Rewrite:
    return Rewrite(relevant_context=context, user_query=query, raw="")


def judged(context: str, query: str = QUESTION, prompt: str = PROMPT) -> dict[str, Check]:
    return {check.name: check for check in judge_rewrite(Original(prompt), rewrite(context, query))}


def errors(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if check.level == "error"}


def test_a_faithful_rewrite_has_no_errors() -> None:
    """A check that cries at good rewrites is switched off, and then nothing is checked."""
    found = judged(CONTEXT)
    assert {name for name, check in found.items() if check.level != "info"} == set()
    assert found["numbers_dropped"].words == ("12", "7")


@pytest.mark.parametrize(
    ("context", "query", "name"),
    [
        ("", QUESTION, "context_empty"),
        ("None.", QUESTION, "context_empty"),
        (CONTEXT, "", "question_empty"),
        (CONTEXT, " \n", "question_empty"),
        ("I'm sorry, but I can't help with that.", QUESTION, "refused"),
        ("As an AI, I cannot do this.", QUESTION, "refused"),
        ("Sure! Here is the text: " + CONTEXT, QUESTION, "preamble_left"),
        ("Here is the rewritten text:\n" + CONTEXT, QUESTION, "preamble_left"),
        (CONTEXT + " I have removed the opinion.", QUESTION, "preamble_left"),
        ("relevant_context: " + CONTEXT, QUESTION, "labels_left"),
        ("Context: " + CONTEXT, QUESTION, "labels_left"),
        ("```\n" + CONTEXT + "\n```", QUESTION, "labels_left"),
        (CONTEXT + "<|im_end|>", QUESTION, "labels_left"),
        ("<think>The user wants cats.</think>" + CONTEXT, QUESTION, "reasoning_left"),
        (CONTEXT + " The user wants the cats.", QUESTION, "reasoning_left"),
        (CONTEXT, "How much money does Bob spend on shoes?", "question_lost"),
        (CONTEXT, "Tell me a story.", "question_lost"),
        (CONTEXT, "Ann has 3 cats.", "question_not_asked"),
        (CONTEXT + " The answer is 3.", QUESTION, "answer_leaked"),
        (CONTEXT, QUESTION + " Answer: 3", "answer_leaked"),
        (CONTEXT + " 3 + 7 = 10", QUESTION, "answer_leaked"),
        (CONTEXT + " So the total is 3.", QUESTION, "answer_leaked"),
        ("Ann has 4 cats and 1,250.50 euros.", QUESTION, "numbers_invented"),
        ("Ann has four cats.", QUESTION, "numbers_invented"),
        ("Ann has 7 cats and 1,250.50 euros.", QUESTION, "numbers_swapped"),
        (CONTEXT + " Ann owns a yacht and a castle.", QUESTION, "words_invented"),
        (CONTEXT + " She was very happy about it.", QUESTION, "words_invented"),
        ("Ann has 3 cats like Bartholomew and 1,250.50 euros.", QUESTION, "words_invented"),
        (CONTEXT, QUESTION + " (3)", "answer_leaked"),
        ("I won't be able to help here.", QUESTION, "refused"),
        ("Ann does not have 3 cats and 1,250.50 euros.", QUESTION, "negation_flipped"),
        ("Ann has 3 cats and 1,250.50", QUESTION, "copy_truncated"),
    ],
)
def test_a_bad_rewrite_is_an_error(context: str, query: str, name: str) -> None:
    """What gets through here is answered, paid for, and wrong."""
    assert name in errors(judged(context, query))


@pytest.mark.parametrize(
    ("context", "invented"),
    [
        ("Ann has 4 cats.", ("4",)),
        ("Ann has 3 cats and 1250.5 euros.", ()),
        ("Ann has 03 cats.", ()),
        ("Ann has 3.0 cats.", ()),
        ("Ann has three cats.", ()),
        ("Ann has 1,250.60 euros and 99 cats.", ("1250.6", "99")),
    ],
)
def test_an_invented_number_is_told_from_another_spelling(context: str, invented: tuple[str, ...]) -> None:
    """A changed number changes the answer silently; another spelling of the same number does not."""
    found = judged(context).get("numbers_invented")
    assert (() if found is None else found.words) == invented


def test_a_negation_that_went_out_is_an_error() -> None:
    """The sentence is nearly a copy, and says the contrary."""
    prompt = "Tom may not sell the red house before the first of May this year. When may Tom sell it?"
    context = "Tom may sell the red house before the first of May this year."
    assert "negation_flipped" in errors(judged(context, "When may Tom sell it?", prompt))


def test_lost_options_and_forms_are_errors_unless_they_go_past_the_rewrite() -> None:
    """Without them the answer has the wrong form; with them in the instructions nothing is lost."""
    prompt = "I'd say B. What is the largest planet?\n(A) Mars\n(B) Venus\n(C) Jupiter\nAnswer with one letter only."
    bare = rewrite("", "What is the largest planet?")
    lost = {check.name: check for check in judge_rewrite(Original(prompt), bare)}
    assert errors(lost) >= {"options_lost", "format_lost"}
    assert lost["options_lost"].words == ("A", "B", "C")
    kept = Original(prompt, kept="(A) Mars\n(B) Venus\n(C) Jupiter\nAnswer with one letter only.")
    assert not {check.name for check in judge_rewrite(kept, bare)} & {"options_lost", "format_lost"}


def test_a_question_that_was_given_on_its_own_is_the_question() -> None:
    """The text may hold other questions; the one that must survive is known."""
    original = Original("Is it late? Ann has 3 cats.", question=QUESTION)
    assert "question_lost" in {
        check.name for check in judge_rewrite(original, rewrite("Ann has 3 cats.", "Is it late?"))
    }
    assert errors({c.name: c for c in judge_rewrite(original, rewrite("Ann has 3 cats.", QUESTION))}) == set()


def test_a_preset_that_rephrases_is_not_held_to_the_wording() -> None:
    """Turning a suspicion into a question is what the user asked for."""
    text = "Surely the moon is why I sleep so badly, isn't it?"
    other = rewrite("", "Does the moon affect sleep?")
    assert "question_lost" in {
        c.name for c in judge_rewrite(Original("Why do I sleep badly?"), rewrite("", "Who is Max?"))
    }
    assert "question_lost" not in {c.name for c in judge_rewrite(Original(text, rephrased=True), other)}


def test_a_request_without_a_question_mark_is_judged_as_one() -> None:
    """A request is a question too, and can be lost like one."""
    prompt = "I like the Rhine best. List three rivers in Germany."
    assert errors(judged("", "List three rivers in Germany.", prompt)) == set()
    assert "question_lost" in errors(judged("", "Bake four cakes without butter.", prompt))


def test_what_was_left_out_is_listed() -> None:
    """Only a person can say whether a sentence was needed; so it must be easy to see."""
    prompt = "Ann has 3 cats. Her brother keeps 9 parrots. How many cats and parrots are there?"
    found = judged("Ann has 3 cats.", "How many cats and parrots are there?", prompt)
    assert errors(found) == set()
    assert found["sentences_dropped"].words == ("her brother keeps 9 parrots.",)
    assert found["numbers_dropped"].words == ("9",)
    assert found["subjects_dropped"].words == ("parrots",)


def test_what_stayed_or_doubled_is_information() -> None:
    """None of it makes an answer wrong; many of it in a file show that stage 1 does not work."""
    found = judged(PROMPT, QUESTION)
    names = {"removed_nothing", "question_doubled", "opinion_left"}
    assert {name: found[name].level for name in names} == dict.fromkeys(names, "info")
    assert found["longer_than_prompt"].level == "warn"
    assert "removed_nothing" not in judged(CONTEXT)


@pytest.mark.parametrize(
    ("prompt", "context", "query", "name"),
    [
        (
            "Anna hat drei Katzen. Wie viele Katzen hat Anna?",
            "Anna hat 3 Katzen.",
            "Wie viele Katzen hat Anna?",
            "numbers_unknown",
        ),
        (PROMPT, "Ann keeps 3 cats and 1,250.50 euros.", QUESTION, "words_new"),
        (PROMPT, "Ann possesses 3 cats alongside 1,250.50 euros.", QUESTION, "copied_little"),
        (
            "My dog is old. My house is red. What is the capital of Spain?",
            "",
            "What is the capital of Spain?",
            "context_dropped",
        ),
        ("How many moons has Mars? I say 4. Right?", "", "How many moons has Mars?", "question_other"),
        (
            "Ann did not sell the big red house, nor the two cars in the yard. When does she sell the house?",
            "Ann did not sell the big red house, the two cars in a yard nearby.",
            "When does she sell the house?",
            "negation_dropped",
        ),
        ("Ann has 3 red cats, and I like that. " + QUESTION, "Ann has 3 red cats", QUESTION, "copy_shortened"),
    ],
)
def test_what_may_be_right_is_a_warning(prompt: str, context: str, query: str, name: str) -> None:
    """A person should look at it; a machine should not throw it away."""
    found = judged(context, query, prompt)
    assert found[name].level == "warn"
    assert errors(found) == set()


def test_errors_come_first() -> None:
    """Who reads only the first check must read the worst."""
    levels = [check.level for check in judge_rewrite(Original(PROMPT), rewrite("Ann has 4 cats. " * 9, "Who?"))]
    assert levels == sorted(levels, key=("error", "warn", "info").index)
    assert levels[0] == "error"


def test_the_reason_names_the_errors_and_nothing_else() -> None:
    """It is all that the model learns before it tries again."""
    said = reason(judge_rewrite(Original(PROMPT), rewrite("Ann has 4 cats and 1,250.50 euros.", QUESTION)))
    assert said == VERDICTS["numbers_invented"][1] + " (4)"
    assert reason(judge_rewrite(Original(PROMPT), rewrite(CONTEXT, QUESTION))) == ""


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("Ann has 3 cats.", set()),
        ("3", set()),
        ("Yes", set()),
        ("貓", set()),
        ("", {"answer_empty"}),
        (" \n...", {"answer_empty"}),
        ("I'm sorry, but I cannot assist with that.", {"answer_refused"}),
        ("How many cats does Ann have?", {"answer_restates"}),
        ("There is not enough information to say.", {"answer_undecided"}),
        ("Ann has 3 cats. She bought them in the", {"answer_cut"}),
        ("Ann has 3 cats. She bought all of them yesterday", {"answer_cut"}),
        ("```python\nprint(3)", {"answer_cut"}),
    ],
)
def test_an_answer_is_judged_by_its_form(answer: str, names: set[str]) -> None:
    """Such an answer counts as answered, and nobody looks at it again."""
    assert {check.name for check in judge_answer(answer, rewrite(CONTEXT, QUESTION))} == names


def test_an_answer_that_the_server_cut_is_named_so() -> None:
    """The server knows better than any rule."""
    (found,) = judge_answer("Ann has 3 cats.", rewrite(CONTEXT, QUESTION), finish_reason="length")
    assert found.name == "answer_cut"


@given(st.text(), st.text(), st.text())
def test_any_texts_can_be_judged(prompt: str, context: str, query: str) -> None:
    """A check that crashes on odd text would make a dead letter of a good record."""
    judged(context, query, prompt)
    judge_answer(prompt, rewrite(context, query))


@given(
    st.lists(
        st.sampled_from(
            ["1,000", "½", "1/0", "0/0", "-", ".", "three", "half", "$", "%", "三", "?", "not", "(a)", ":", "=", "`"]
        )
    ).map(" ".join)
)
def test_odd_numbers_and_marks_can_be_judged(text: str) -> None:
    """As above, where parsing is at its most delicate."""
    judged(text, text, text + PROMPT)


@given(st.text(alphabet="abc ?.", max_size=400), st.text(alphabet="abc ?.3", min_size=100, max_size=9000))
def test_words_are_few_and_short(prompt: str, context: str) -> None:
    """A check goes into each result line and into a re-ask: it must not repeat a book."""
    for check in judged(context, context, prompt).values():
        assert len(check.words) <= 12
        assert all(len(word) <= 80 for word in check.words)


@pytest.mark.parametrize("piece", ["word ", "Go. ", "Is it? ", "1,", "12 34 "])
def test_a_prompt_as_long_as_a_book_is_judged_in_little_memory(piece: str) -> None:
    """Lists of its words took ten times its size, for each of the records under way."""
    prompt = piece * (200_000 // len(piece))
    tracemalloc.start()
    judged("", QUESTION, prompt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(prompt)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        " ",
        "\n",
        "?",
        ".",
        "`",
        ":",
        "1",
        "1/",
        "1,",
        "(a) ",
        "- \n",
        "not ",
        "answer: ",
        "what is the ",
        "猫",
        "三",
        "i think ",
        "please answer ",
        "the total a ",
        "Mr. ",
        "give your answer ",
    ],
)
def test_time_grows_with_the_text_and_not_with_its_square(piece: str) -> None:
    """One odd prompt of a megabyte must not stop all the others for a minute."""

    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        begun = time.process_time()
        judged(text, text, text + QUESTION)
        judged("", text, text + QUESTION)
        return time.process_time() - begun

    assert seconds(160_000) < 8 * seconds(40_000) + 0.5


def test_texts_of_two_million_characters_are_told_as_not_checked() -> None:
    """They would take all of the machine's memory; nobody may take silence for soundness."""
    assert set(judged("a b " * 300_000, QUESTION, "a b c " * 200_000)) == {"not_checked"}
