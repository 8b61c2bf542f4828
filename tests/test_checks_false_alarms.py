"""Correct rewrites in other words, other languages and other forms: none of them may be called an error."""

from __future__ import annotations

import pytest

from s2a_batch.checks import Original, judge_rewrite
from s2a_batch.records import Rewrite

JANET = (
    "Janet has 3,000 apples and half of them are red. She doesn't sell 25% of the apples. Her neighbour, "
    "a tall man, said he thinks it is 7. Twelve of the boxes weigh 1/2 pound each. Tom eats twice as many "
    "pears. It costs $1.50 and 50 cents for shipping. The first box isn't full. If she sells 20 apples "
    "for $2 each, how much money does she make?"
)
ASKED = "If she sells 20 apples for $2 each, how much money does she make?"


@pytest.mark.parametrize(
    ("prompt", "context", "query"),
    [
        pytest.param(
            JANET,
            (
                "Janet has 3,000 apples and half of them are red. She doesn't sell 25% of the apples. Twelve of "
                "the boxes weigh 1/2 pound each."
            ),
            ASKED,
            id="exact",
        ),
        pytest.param(
            JANET,
            (
                "Janet has three thousand apples and 50% of them are red. She does not sell a quarter of the "
                "apples. 12 boxes weigh half a pound each. Tom eats 2 times as many pears. It costs 1.5 dollars "
                "and $0.50 for shipping. The 1st box is not full."
            ),
            "How much money does she make if she sells twenty apples for two dollars each?",
            id="numbers words",
        ),
        pytest.param(
            JANET,
            (
                "Janet has 3000 apples, 1/2 of which are red, and she is not selling 25 percent of the apples. "
                "The twelve boxes each weigh 0.5 pounds. Tom eats two times as many pears."
            ),
            ASKED,
            id="merged",
        ),
        pytest.param(
            JANET,
            "Janet has 3000 apples. Half of the apples are red.",
            "How much money does Janet make if she sells 20 apples for $2 each?",
            id="pronoun",
        ),
        pytest.param(
            JANET,
            "Janet has 3000 apples. She sells 20 apples for $2 each.",
            "How much money does she make?",
            id="condition moved",
        ),
        pytest.param(
            JANET,
            "1. Janet has 3,000 apples.\n2. Half of them are red.\n3. Twelve boxes weigh 1/2 pound each.",
            ASKED,
            id="list",
        ),
        pytest.param(
            JANET,
            "- Janet has 3,000 apples\n- half of them are red\n- Twelve of the boxes weigh 1/2 pound each",
            ASKED,
            id="bullets",
        ),
        pytest.param(
            JANET,
            "Twelve of the boxes weigh 1/2 pound each. Half of Janet's 3,000 apples are red.",
            ASKED,
            id="reordered",
        ),
        pytest.param(
            "I love the Rhine. It's the best! List three rivers in Germany, please.",
            "",
            "List three rivers in Germany.",
            id="imperative",
        ),
        pytest.param(
            "My boss hates long texts. Translate the following sentence into French: The cat sat on the mat.",
            "The cat sat on the mat.",
            "Translate the following sentence into French.",
            id="translate",
        ),
        pytest.param(
            (
                "Summarize this article in 3 sentences. I think it is biased. The council voted on Monday to "
                "close the bridge. Repairs will take two years."
            ),
            "The council voted on Monday to close the bridge. Repairs will take two years.",
            "Summarize this article in 3 sentences.",
            id="summarize",
        ),
        pytest.param(
            "How many moons does Mars have? I say 4. Right?",
            "",
            "How many moons does Mars have?",
            id="first q, then tag",
        ),
        pytest.param(
            "I think the answer is 1945 but I'm not sure. When did the Second World War end?",
            "",
            "When did the Second World War end?",
            id="opinion only",
        ),
        pytest.param(
            "I live in Paris with my dog. I am 34 years old. What is the capital of Spain?",
            "",
            "What is the capital of Spain?",
            id="chat",
        ),
        pytest.param(
            (
                "Anna hat drei Katzen und zwei Hunde. Ich glaube, es sind zwölf. Bob mag die Zahl 7. Wie viele "
                "Tiere hat Anna insgesamt?"
            ),
            "Anna hat 3 Katzen und 2 Hunde.",
            "Wie viele Tiere hat Anna insgesamt?",
            id="German",
        ),
        pytest.param(
            (
                "Anna hat drei Katzen und zwei Hunde. Ich glaube, es sind zwölf. Bob mag die Zahl 7. Wie viele "
                "Tiere hat Anna insgesamt?"
            ),
            "Anna besitzt drei Katzen sowie zwei Hunde.",
            "Wie viele Tiere besitzt Anna?",
            id="de para",
        ),
        pytest.param(
            "Anne a trois chats. Je pense que c'est dix. Combien de chats a Anne ?",
            "Anne a 3 chats.",
            "Combien de chats Anne a-t-elle ?",
            id="French",
        ),
        pytest.param(
            "Ana tiene tres gatos y compra dos más. Creo que son 12. ¿Cuántos gatos tiene Ana?",
            "Ana tiene tres gatos y compra 2 más.",
            "¿Cuántos gatos tiene Ana?",
            id="Spanish",
        ),
        pytest.param(
            "У Анны три кошки. Она купила ещё 2. Я думаю, что ответ 12. Сколько кошек у Анны?",
            "У Анны 3 кошки. Она купила ещё две.",
            "Сколько кошек у Анны?",
            id="Russian",
        ),
        pytest.param(
            "安娜有三只猫和两只狗。我觉得是十二。鲍勃喜欢数字7。安娜一共有多少只动物？",
            "安娜有3只猫和2只狗。",
            "安娜一共有多少只动物？",
            id="Chinese",
        ),
        pytest.param(
            "请把下面的句子翻译成英文：今天天气很好。我觉得很简单。",
            "今天天气很好。",
            "请把下面的句子翻译成英文。",
            id="zh noq",
        ),
        pytest.param(
            "アンナは猫を3匹飼っています。私は12だと思います。アンナは何匹の猫を飼っていますか。",
            "アンナは猫を3匹飼っています。",
            "アンナは何匹の猫を飼っていますか。",
            id="Japanese",
        ),
        pytest.param(
            "안나는 고양이 3마리가 있습니다. 저는 12라고 생각해요. 안나는 고양이가 몇 마리 있습니까?",
            "안나는 고양이 3마리가 있습니다.",
            "안나는 고양이가 몇 마리 있습니까?",
            id="Korean",
        ),
        pytest.param(
            "لدى آنا ٣ قطط. أعتقد أن الجواب ١٢. كم عدد القطط التي لدى آنا؟",
            "لدى آنا ٣ قطط.",
            "كم عدد القطط التي لدى آنا؟",
            id="Arabic",
        ),
        pytest.param(
            "لدى آنا ٣ قطط. أعتقد أن الجواب ١٢. كم عدد القطط التي لدى آنا؟",
            "لدى آنا 3 قطط.",
            "كم عدد القطط لدى آنا؟",
            id="ar digits",
        ),
        pytest.param(
            "अन्ना के पास 3 बिल्लियाँ हैं। मुझे लगता है 12। अन्ना के पास कितनी बिल्लियाँ हैं?",
            "अन्ना के पास 3 बिल्लियाँ हैं।",
            "अन्ना के पास कितनी बिल्लियाँ हैं?",
            id="Hindi",
        ),
        pytest.param("แอนนามีแมว 3 ตัว ฉันคิดว่าคำตอบคือ 12 แอนนามีแมวกี่ตัว", "แอนนามีแมว 3 ตัว", "แอนนามีแมวกี่ตัว", id="Thai"),
        pytest.param(
            "לאנה יש 3 חתולים. אני חושב שזה 12. כמה חתולים יש לאנה?",
            "לאנה יש 3 חתולים.",
            "כמה חתולים יש לאנה?",
            id="Hebrew",
        ),
        pytest.param(
            "Anna có 3 con mèo. Tôi nghĩ là 12. Anna có bao nhiêu con mèo?",
            "Anna có ba con mèo.",
            "Anna có bao nhiêu con mèo?",
            id="Vietnamese",
        ),
        pytest.param(
            "Anna'nın üç kedisi var. Bence 12. Anna'nın kaç kedisi var?",
            "Anna'nın 3 kedisi var.",
            "Anna'nın kaç kedisi var?",
            id="Turkish",
        ),
        pytest.param(
            "Annalla on kolme kissaa. Luulen että 12. Montako kissaa Annalla on?",
            "Annalla on 3 kissaa.",
            "Montako kissaa Annalla on?",
            id="Finnish",
        ),
        pytest.param(
            (
                "My friend thinks Python is slow. Why does this print 4?\n```python\nx = [1, 2, "
                "3]\nx.append(len(x) + 1)\nprint(x[-1])  # not 3\n```"
            ),
            "```python\nx = [1, 2, 3]\nx.append(len(x) + 1)\nprint(x[-1])  # not 3\n```",
            "Why does this print 4?",
            id="code",
        ),
        pytest.param(
            "def f(a, b):\n    return a - b\n\nI am sure it's the minus. Fix the function so that it adds a and b.",
            "def f(a, b):\n    return a - b",
            "Fix the function so that it adds a and b.",
            id="code2",
        ),
        pytest.param(
            "Bob says it is blue. Extract the colours of: red cars, green trees. Respond in JSON.",
            "red cars, green trees",
            "Extract the colours of: red cars, green trees. Respond in JSON.",
            id="form",
        ),
        pytest.param(
            "I think it's B. What is 2+2?\n(A) 3\n(B) 5\n(C) 4", "", "What is 2+2?\n(A) 3\n(B) 5\n(C) 4", id="choice"
        ),
        pytest.param(
            "I think it's B. What is 2+2?\nA. 3\nB. 5\nC. 4", "", "What is 2+2?\nA. 3\nB. 5\nC. 4", id="mc lines"
        ),
        pytest.param(
            "The grey parcle weihgts 3 kg. What is its colour in your bok? I say 300.",
            "The grey parcel weights 3 kg.",
            "What is its colour in your book?",
            id="typo",
        ),
        pytest.param(
            "The colour of the neighbour's car is grey. I believe it's fast. What colour is it?",
            "The color of the neighbor's car is gray.",
            "What color is it?",
            id="spelling",
        ),
        pytest.param(
            JANET, "", JANET.replace("Her neighbour, a tall man, said he thinks it is 7. ", ""), id="all in the query"
        ),
        pytest.param(
            "ANN HAS 3 CATS. I THINK 12. HOW MANY CATS DOES ANN HAVE?",
            "Ann has 3 cats.",
            "How many cats does Ann have?",
            id="upper",
        ),
        pytest.param(
            "I'm sorry, but I can't help you, said the shopkeeper. Ann bought 3 hats. How many hats did Ann buy?",
            "\"I'm sorry, but I can't help you\", said the shopkeeper. Ann bought 3 hats.",
            "How many hats did Ann buy?",
            id="refuse text",
        ),
        pytest.param(
            "I have 3 cats and I gave 1 away. I feel it's 7. How many cats do I have?",
            "The user has 3 cats and gave 1 away.",
            "How many cats does the user have?",
            id="first person",
        ),
        pytest.param(
            "The shop opens at 10:00 and closes at 6 pm. I guess 7. How many hours is it open?",
            "The shop opens at 10 AM and closes at 6:00 PM.",
            "How many hours is it open?",
            id="time",
        ),
        pytest.param(
            "Write an email to my landlord about the leak. I'm angry and he is awful. The leak began on 3 May.",
            "The leak began on May 3.",
            "Write an email to the landlord about the leak.",
            id="email",
        ),
        pytest.param(
            "I wonder whether the moon affects sleep. My aunt swears it does.",
            "",
            "Does the moon affect sleep?",
            id="statement",
        ),
        pytest.param(
            "Tell me whether vaccines cause autism. I strongly believe they do.",
            "",
            "Do vaccines cause autism?",
            id="Tell me",
        ),
        pytest.param(
            "A third of the 30 kids are girls; the other two thirds are boys. I guess 12. How many boys are there?",
            "1/3 of the 30 kids are girls and 2/3 are boys.",
            "How many boys are there?",
            id="third",
        ),
        pytest.param(
            "He buys two dozen eggs and a dozen rolls. I guess 50. How many things does he buy?",
            "He buys 24 eggs and 12 rolls.",
            "How many things does he buy?",
            id="dozen",
        ),
        pytest.param(
            JANET, "Janet's got 3,000 apples. Half of 'em are red. The first box is not full.", ASKED, id="contractions"
        ),
        pytest.param(
            "Tom is unable to swim. I think he's fat. Can Tom cross the river alone?",
            "Tom cannot swim.",
            "Can Tom cross the river alone?",
            id="unable",
        ),
    ],
)
def test_a_correct_rewrite_is_no_error(prompt: str, context: str, query: str) -> None:
    """A false alarm costs a second request, and under a strict policy the record."""
    found = judge_rewrite(Original(prompt), Rewrite(relevant_context=context, user_query=query, raw=""))
    assert [(check.name, check.words) for check in found if check.level == "error"] == []


@pytest.mark.parametrize(
    ("prompt", "context", "query", "name"),
    [
        (
            "Anna hat 3 Katzen im Haus. Wie viele Katzen hat Anna?",
            "Anna hat 4 Katzen im Haus.",
            "Wie viele Katzen hat Anna?",
            "numbers_invented",
        ),
        (
            "Anna hat 3 Katzen im Haus. Wie viele Katzen hat Anna?",
            "Anna hat 3 Katzen im Haus.",
            "Wo liegt Brüssel?",
            "question_lost",
        ),
        (
            "安娜有三只猫。安娜一共有多少只动物？",
            "会议定于下周在北京举行，欢迎各界人士参加。",
            "安娜一共有多少只动物？",
            "words_invented",
        ),
        (
            "Anna hat 3 Katzen im Haus. Wie viele?",
            "Peter kaufte gestern neue Schuhe, obwohl Regen angekündigt wurde.",
            "Wie viele?",
            "words_invented",
        ),
    ],
)
def test_what_any_language_shows_is_an_error_in_each(prompt: str, context: str, query: str, name: str) -> None:
    """Caution about a language must not mean blindness in it."""
    found = judge_rewrite(Original(prompt), Rewrite(relevant_context=context, user_query=query, raw=""))
    assert name in {check.name for check in found if check.level == "error"}


def test_a_translation_is_a_warning() -> None:
    """Words cannot be compared across scripts, but somebody should look."""
    rewrite = Rewrite(relevant_context="Anna has three cats.", user_query="How many cats does Anna have?", raw="")
    found = judge_rewrite(Original("安娜有三只猫。安娜一共有多少只猫？"), rewrite)
    assert [(check.name, check.level) for check in found if check.level != "info"] == [("script_changed", "warn")]
