"""Phrases by which a reply gives itself away: refusals, preambles, labels, reasoning, answers, opinions, wishes.

Pure functions over folded text (`words.fold`). Invariant: a phrase counts only when the text that was to be rewritten
does not have it too; and no pattern can take more than linear time.
"""

from __future__ import annotations

import re
from typing import Final

from s2a_batch.checks import words

_START: Final = 240
"""How far into a reply its beginning goes, in characters."""

_MOST_FOUND: Final = 12
_MOST_SEEN: Final = 200

REFUSAL: Final = re.compile(
    r"\bi(?: am|'m)? (?:sorry|unable to|(?:cannot|ca not|can not|will not|wo not"
    r"|am not able to) (?:assist|help|comply|"
    r"fulfill|provide|answer|rewrite|process|do|create|generate|continue|discuss|engage|complete|support|share))\b"
    r"|\bi (?:am |ca |can ?|could |will |wo |would |do )not\b[^.!?\n]{0,30}\b(?:help|assist|comply|able|process)\b"
    r"|\bas an ai\b|\bi (?:must|have to) (?:decline|refuse)|\bi apologi[sz]e\b|\b(?:against"
    r"|violates?) (?:my|our|the) "
    r"(?:guidelines|policy|policies|content)|\bi sorry, but|^sorry, (?:but )?i\b"
)
PREAMBLE: Final = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely|okay|ok|great|understood|got it|no problem|alright) ?[!,.:]"
    r"|^\W*(?:(?:sure|certainly|of course|absolutely|okay|ok)\W+)?(?:here (?:is|are)|here|below (?:is"
    r"|are)|the following (?:is|are)|this is) (?:the |your |an? |my )?(?:\w+,? ){0,3}"
    r"(?:what you|text|version|context|rewrite|rewritten|question|prompt|summary|information|part|request|query)\b"
    r"|\b(?:rewritten|revised|cleaned|filtered|unbiased|prepared|extracted|relevant) (?:text|version|context|prompt|"
    r"question|part|information|sentences?)(?: \w+)? ?(?::|is\b|are\b|from the text)"
    r"|\bi (?:have|ve)? ?(?:removed|rewritten|extracted|kept|left out|omitted|rephrased|filtered)\b"
    r"|\b(?:let me know|i hope this helps|hope this helps|note that i|feel free to)\b"
    r"|\b(?:was|were|has been|have been) (?:removed|omitted|left out|excluded) (?:because|since|as)\b"
)
LABEL: Final = re.compile(
    r"^[^\w\n]{0,9}(?:relevant[_ ]context|user[_ ]query|(?:unbiased )?(?:text )?context"
    r"|question(?: ?/ ?query)?|query|"
    r"rewritten (?:context|question|prompt)|output|json|reply)\W{0,3}[:=]|\b(?:relevant_context|user_query)\b|```|~~~"
    r"|<\|[a-z_]+\|>|\[/?inst\]|</?s>|<end_of_turn>|<start_of_turn>|</?(?:context|question|query|output|json)>",
    re.MULTILINE,
)
REASONING: Final = re.compile(
    r"</?think(?:ing)?>|\blet(?: us|'s|s)? (?:me )?(?:think|see|break (?:this|it) down|solve|analy[sz]e"
    r"|calculate|compute)\b"
    r"|\bthe user (?:wants|is asking|asks|has asked|provided|seems)\b|\b(?:we|i) (?:need|have"
    r"|should) to (?:rewrite|extract|"
    r"remove|identify|find out which|split|prepare|figure)\b|\bstep by step\b|\bfirst, (?:i|we|let)\b"
    r"|\bthis sentence is (?:ir)?relevant\b|\bis (?:irrelevant|not relevant|unrelated) (?:to|for) the question\b"
)
ANSWER: Final = re.compile(
    r"\banswer(?: to [^.?!:\n]{1,60})? ?(?:is|would be|must be|should be|:|=)(?! ?(?:\(?[a-z]\)|choices|options)) ?\S"
    r"|\b(?:the )?(?:final |correct )?answer ?(?:is|:|=) ?\(?[a-h]\b"
    r"|[=≈] ?-?[$€£]?\d|\b(?:which|this|that) (?:makes|gives|equals|means that|comes to|adds up to|totals)\b"
    r"|\b(?:therefore|thus|hence|in conclusion|as a result)\b[,: ]|(?:^|[.!?\n] ?)so,? (?:the|he|she|they"
    r"|it|there|we|in)\b"
    r"|\b(?:the|a) (?:total|sum|result|difference|product) (?:\w+ ){0,4}?(?:is|was|equals|comes to|of) [$€£]?\d"
    r"|\bequals [$€£]?\d|\b(?:result|solution|total) ?[:=] ?\S|\bis the (?:\w+ )?(?:answer|result|solution)\b"
    r"|\bin total,? there (?:is|are)\b|\bit follows that\b"
    # a value behind the question
    r"|\?[ \n]?\(?(?:it is |= ?|that is )?[$€£]?\d[\d.,]*%?\)?[.!]?$"
)
OPINION: Final = re.compile(
    r"\bi (?:really |personally |do not |strongly |firmly |also )?(?:think|believe|guess|feel|suspect|bet"
    r"|doubt|reckon|assume|"
    r"love|like|dislike|hate|prefer|wrote)\b|\bi am (?:pretty |quite |really |not |fairly )*(?:sure"
    r"|certain|convinced|inclined)\b"
    r"|\bin my (?:opinion|view|experience)\b|\bmy (?:guess|opinion|view|belief|hunch|assumption|answer"
    r"|preliminary|initial|"
    r"first|gut|instinct|intuition)\b|\bif you ask me\b|\bseems to me\b|\bi(?: would|d)? (?:say|go with"
    r"|lean|cast|vote)\b"
    r"|\b(?:everyone|everybody) knows\b|\bobviously\b|\bas an expert\b|\b(?:do not|would not) you (?:agree|think)\b"
    r"|\bcould it be\b|\bmight be wrong\b|\bcurious to (?:hear|know|see)\b"
)
FORMAT: Final = re.compile(
    r"\b(?:answer|respond|reply|return|output|format|write|give|present|express|state"
    r"|provide)\b[^.!?\n]{0,60}?\b(?:in json|as json|json|"
    r"xml|yaml|csv|markdown|format|only|one word|single (?:word|letter|number|sentence)|yes or no"
    r"|true or false|bullet|"
    r"a table|in (?:english|french|german|spanish|italian|chinese|japanese)|(?:\d+|two|three|five"
    r"|ten) (?:words|sentences|lines)|"
    r"decimal places?|nearest|as an? (?:integer|fraction|decimal|percentage|number|list)|letter)\b"
    r"|\b(?:in|as) (?:valid )?json\b|\bround(?:ed)? (?:your answer )?to\b|\bno (?:explanation|more than \d+ words)\b"
    r"|\bwithout (?:any )?explanation\b|\bin (?:at most |under |less than )?\d+ words\b|\bend your (?:answer|reply)\b"
)
YOUR_ANSWER: Final = re.compile(
    r"\byour (?:final )?(?:answer|reply|response)\b|\b(?:the|an) answer (?:should|must)\b"
    r"|\banswer (?:with|in|as|only)\b|\bjson\b"
)
UNDECIDED: Final = re.compile(
    r"\b(?:not enough|insufficient|lacks?|no|missing) (?:information|context|data|details?)\b"
    r"|\b(?:can ?not|could not) be "
    r"(?:determined|answered|known|calculated)\b|\b(?:does not|did not) (?:say|state|mention|specify"
    r"|provide|contain|include)\b"
    r"|\bimpossible to (?:say|tell|determine|know)\b|\bi do not know\b|\bplease provide\b"
    r"|\bmore (?:information|context) is\b"
)
IMPERATIVE: Final = re.compile(
    r"^(?:\W{0,9}(?:please|now|then|first|also|can you|could you|would you"
    r"|your task is to)\W{1,9}){0,2}(?:answer(?! choice)|analy[sz]e|arrange|"
    r"build|calculate|categori[sz]e|change|check|choose|classify|code|compare|complete|compose|compute"
    r"|consider|continue|"
    r"convert|correct|count|create|debug|define|describe|design|determine|discuss|draft|edit|estimate"
    r"|evaluate|explain|"
    r"extract|fill|find|fix|formulate|generate|give|identify|implement|improve|list|make|name|order"
    r"|outline|paraphrase|pick|"
    r"plan|predict|print|propose|prove|provide|rank|rate|recommend|refactor|rephrase|reply|respond|return"
    r"|review|rewrite|say|"
    r"select|show|simplify|solve|sort|state|suggest|summari[sz]e|tell|translate|verify|work out|write)\b"
)
ASKS: Final = re.compile(
    r"\b(?:who|whom|whose|what|when|where|which|why|how|whether)\b"
    r"|^\W{0,9}(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|may|must|if)\b"
    r"|^\W{0,9}(?:the )?(?:total |final |exact )?(?:number|amount|name|names|date|year|reason|reasons"
    r"|cost|price|percentage|list|"
    r"definition|capital|meaning|value)\b",
    re.MULTILINE,
)
PLACEHOLDER: Final = re.compile(
    r"\W*(?:none|null|nil|n ?/ ?a|empty|not applicable|nothing|no(?: relevant)? (?:context|information|text)"
    r"(?: (?:is |was )?(?:provided|needed|given|available|found))?)?\W*"
)

# A word of each phrase, unless the text is marked: ten times as fast to look for.
REFUSAL_WORDS: Final = words.listed(
    "sorry unable cannot not ai decline refuse apologize apologise guidelines policy policies"
)
PREAMBLE_WORDS: Final = words.listed(
    "sure certainly course absolutely okay ok great understood got problem alright here below following version text "
    "rewritten revised cleaned filtered unbiased prepared extracted relevant removed kept omitted rephrased left know "
    "hope note free excluded prompt context"
)
REASONING_WORDS: Final = words.listed(
    "think thinking let user rewrite extract step first relevant irrelevant unrelated need"
)
ANSWER_WORDS: Final = words.listed(
    "answer makes gives equals means comes adds totals therefore thus hence conclusion result so total sum difference "
    "product"
)
OPINION_WORDS: Final = words.listed("i my obviously expert everyone everybody agree think me could might curious")
# Letters of each phrase, for a text that was not taken apart: 0.5 us, the phrases themselves take 12.
REFUSAL_HINTS: Final = (
    "not", "sorry", "unable to", "as an ai", "decline", "refuse", "apolog", "against ", "violate",
)  # fmt: skip
UNDECIDED_HINTS: Final = ("not", "information", "context", "data", "detail", "impossible to", "please provide")
YOUR_ANSWER_HINTS: Final = ("answer", "reply", "response", "json")
_MARK: Final = re.compile(r"[`~<\[=≈_]|\?.{0,3}\(?\d|\? it is|^.{0,40}:", re.MULTILINE)
_MARK_HINTS: Final = tuple("`~<[=≈_?:")


def has_one(hints: tuple[str, ...], text: str) -> bool:
    """Whether a text has one of these."""
    for hint in hints:  # noqa: SIM110  half the time of any()
        if hint in text:
            return True
    return False


def is_marked(text: str) -> bool:
    """Whether a text has a mark, so that it can have a phrase without any of the words."""
    return has_one(_MARK_HINTS, text) and _MARK.search(text) is not None


def strangers(pattern: re.Pattern[str], reply: str, source: str) -> list[str]:
    """Phrases of the reply that the source does not have, each once, a dozen at most."""
    seen: set[str] = set()
    found = []
    for match in pattern.finditer(reply):
        phrase = match.group().lstrip(" .!?\n").rstrip()
        if not phrase or phrase in seen:
            continue
        seen.add(phrase)
        if phrase not in source:
            found.append(phrase)
        if len(found) == _MOST_FOUND or len(seen) == _MOST_SEEN:
            break
    return found


def beginning(reply: str) -> str:
    """The part of a reply in which it would refuse or introduce itself."""
    return reply[:_START]
