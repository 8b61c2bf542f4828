"""Which parts of an input object ask: the text that is rewritten, and what goes past the rewrite.

Pure functions. Invariant: a part is taken as it stands or refused with a reason; nothing is guessed from its content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import Field, ValidationError

from s2a_batch.bounds import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

_NAME_CHARS: Final = 40
_SHOWN_NAMES: Final = 8


class Number(str):
    """A number as it stands in the text: never rounded, never limited in digits."""

    __slots__ = ()


class UnusableInputError(Exception):
    """The object asks nothing; the message says why."""


class Fields(Table):
    """Under which names an input object holds its parts.

    An object with the prompt's field is one text. Without it, it is a question with an optional context, or a chat
    whose last message is rewritten, or a line of an OpenAI batch file (`body.messages`). `system` and `instructions`
    go past the rewrite; beside a question they are read under these names, elsewhere only when the job names them.
    """

    prompt: str = Field(default="prompt", description="Name of the prompt.")
    id: str = Field(default="id", description="Name of the id, which is optional.")
    context: str = Field(default="context", description="Name of what comes before a question.")
    question: str = Field(default="question", description="Name of the question, in objects without a prompt.")
    messages: str = Field(default="messages", description="Name of a chat's messages, in objects without either.")
    system: str | None = Field(default=None, description="Name of a system message, which goes past the rewrite.")
    instructions: str | None = Field(default=None, description="Name of what goes past the rewrite to the answer.")
    oracle: str = Field(default="oracle_prompt", description="Name of a prompt without noise, for the arm oracle.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What one input object asks.

    Attributes:
        prompt: All of the user's text that is rewritten.
        question: Its question, when the input gives it apart from the context.
        system: Goes past the rewrite, to the answer's system message; "" for none.
        instructions: Goes past the rewrite, behind the question; "" for none: such as the form of the answer.
        turns: Earlier messages of a chat, (role, content), which stay as they are.
        oracle: The same text without its noise, as an evaluation set may have it.
    """

    prompt: str
    question: str | None = None
    system: str = ""
    instructions: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    oracle: str | None = None


def id_of(found: Mapping[str, JsonValue], fields: Fields) -> str:
    """The name under which this object holds its id."""
    return "custom_id" if fields.id not in found and _batch_messages(found) is not None else fields.id


def asked(found: Mapping[str, JsonValue], fields: Fields) -> Asked:
    """What an input object asks; raises `UnusableInputError` when that is nothing."""
    given = found.get(fields.oracle)
    oracle = given if isinstance(given, str) and is_text(given) else None
    if fields.prompt in found:
        past = _past(found, fields.system, fields.instructions)
        return Asked(_text(found, fields.prompt), None, *past, oracle=oracle)
    if fields.question in found:
        question, context = _text(found, fields.question), _optional(found, fields.context)
        past = _past(found, fields.system or "system", fields.instructions or "instructions")
        return Asked(f"{context}\n\n{question}" if context else question, question, *past, oracle=oracle)
    messages = found.get(fields.messages) if fields.messages in found else _batch_messages(found)
    if messages is not None:
        return _chat(messages, oracle, *_past(found, fields.system, fields.instructions))
    names = ", ".join(name[:_NAME_CHARS] for name in sorted(found)[:_SHOWN_NAMES])
    raise UnusableInputError(f"the field '{fields.prompt}' is missing; the object has {names or 'no fields'}")


def prompt_of_input(found: Mapping[str, JsonValue], fields: Mapping[str, JsonValue]) -> str | None:
    """The user's text of an input object that was read back, as a run takes it, else the text nearest to a prompt.

    Args:
        found: The object; its numbers may be of any type.
        fields: The `fields` table of `run.json`, of any version.
    """
    try:
        names = Fields.model_validate({name: fields[name] for name in Fields.model_fields if name in fields})
    except ValidationError:
        names = Fields()
    try:
        return asked(found, names).prompt
    except (UnusableInputError, ValueError):  # the latter: a number of too many digits in place of a text
        return _nearest(found, names)


def _nearest(found: Mapping[str, JsonValue], names: Fields) -> str | None:
    """What a refused object holds in place of a prompt."""
    prompt, context, question = (found.get(name) for name in (names.prompt, names.context, names.question))
    if isinstance(prompt, str):
        return prompt
    if isinstance(question, str):
        return f"{context}\n\n{question}" if isinstance(context, str) and context else question
    for turns in (found.get(names.messages), _batch_messages(found)):
        last = turns[-1] if isinstance(turns, list) and turns else None
        content = last.get("content") if isinstance(last, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        if said := [text for text in texts if isinstance(text, str)]:
            return "\n".join(said)
    return None


def is_text(value: object) -> bool:
    """Whether a value is text that says something."""
    return isinstance(value, str) and not isinstance(value, Number) and bool(value.strip())


def what(value: JsonValue) -> str:
    """What a JSON value is, in a person's words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _past(found: Mapping[str, JsonValue], system: str | None, instructions: str | None) -> tuple[str, str]:
    """What goes past the rewrite."""
    return _optional(found, system) or "", _optional(found, instructions) or ""


def _text(found: Mapping[str, JsonValue], name: str) -> str:
    value = found[name]
    if not isinstance(value, str) or isinstance(value, Number):
        raise UnusableInputError(f"'{name}' is {what(value)}, expected text")
    if not value.strip():
        how = "blank" if value else "empty"
        raise UnusableInputError(f"'{name}' is {how}; it would make a model invent one")
    return value


def _optional(found: Mapping[str, JsonValue], name: str | None) -> str | None:
    value = None if name is None else found.get(name)
    if value is not None and (not isinstance(value, str) or isinstance(value, Number)):
        raise UnusableInputError(f"'{name}' is {what(value)}, expected text")
    return value


def _batch_messages(found: Mapping[str, JsonValue]) -> JsonValue:
    body = found.get("body")
    return body.get("messages") if isinstance(body, dict) else None


def _chat(messages: JsonValue, oracle: str | None, system: str, instructions: str) -> Asked:
    if not isinstance(messages, list) or not messages:
        raise UnusableInputError(f"the messages are {what(messages)}, expected a list with at least one")
    turns = [_turn(message, number) for number, message in enumerate(messages, 1)]
    role, prompt = turns.pop()
    if role != "user":
        raise UnusableInputError(f"the last message is of role '{role}'; that of the user is what gets an answer")
    if not prompt.strip():
        raise UnusableInputError("the last message is blank; it would make a model invent one")
    said = [content for role, content in turns if role in ("system", "developer")]
    spoken = tuple(turn for turn in turns if turn[0] not in ("system", "developer"))
    return Asked(prompt, None, "\n\n".join([*said, *([system] if system else [])]), instructions, spoken, oracle)


def _turn(message: JsonValue, number: int) -> tuple[str, str]:
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant"):
        raise UnusableInputError(f"message {number} has no role of system, developer, user or assistant")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) < len(content) or not all(isinstance(t, str) and not isinstance(t, Number) for t in texts):
            raise UnusableInputError(f"message {number} holds more than text; only text can be rewritten")
        content = "\n".join(str(text) for text in texts)
    if not isinstance(content, str) or isinstance(content, Number):
        raise UnusableInputError(f"the content of message {number} is {what(content)}, expected text")
    return str(message["role"]), content
