"""Secrets out of text, in every spelling in which a server, a library or a proxy may repeat them.

Invariants: a text is masked before it is cut; what a model wrote loses no ordinary word because somebody chose it for a
password.
"""

from __future__ import annotations

import base64
import html
import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_LEAST_CHARS: Final = 5  # shorter ones stand in ordinary words
_MESSAGE_CHARS: Final = 1_000
_MOST_WORDS: Final = 100
_PIECE_CHARS: Final = 10  # a key's public beginning, as in `sk-proj-`, has up to 8
_DRAWN: Final = re.compile(r"(?=.*\d)\S{10,}", re.DOTALL)
_NO_SECRETS: Final = frozenset(
    {"none", "empty", "dummy", "ollama", "local", "not-needed", "lm-studio", "no-key-required", "sk-no-key-required"}
    | {"placeholder", "unused", "bearer", "basic", "token", "apikey", "api-key"}
)
_IDS: Final = re.compile(r"\b(org-|proj_)[A-Za-z0-9]{12,}")
_CODED: Final = re.compile(r"[\s\\%&]")
_LOGIN: Final = re.compile(r"(?<=://)[^\s/@]+(?=@)")
_MARK: Final = re.compile(r"[^A-Za-z0-9._-]")
_JSON_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_SENT: Final = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_WEBHOOK_SECRET")


class Mask:
    """Knows some secrets and takes them out of texts.

    Args:
        secrets: Each as it is sent; None and stand-ins such as `none` are no secrets.
    """

    def __init__(self, secrets: Iterable[str | None]) -> None:
        words = {word for secret in secrets if secret for word in (secret, *secret.split())}
        words |= {unquote(word) for word in words}
        words = {word for word in words if len(word) >= _LEAST_CHARS and word.lower() not in _NO_SECRETS}
        spelled = {spelling for word in words for spelling in _spellings(word) if len(spelling) >= _LEAST_CHARS}
        self._spellings = sorted(spelled, key=len, reverse=True)
        self._drawn = [spelling for spelling in self._spellings if _DRAWN.fullmatch(spelling)]
        self._words: dict[str, str] = {}
        self._pieces = {word[n : n + _PIECE_CHARS].lower() for word in words for n in range(len(word) - 9)}

    def text(self, text: str) -> str:
        """What a server sent, of any length, before any of it is cut or shown."""
        for spelling in self._spellings:
            text = text.replace(spelling, "***")
        return text

    def reply(self, text: str) -> str:
        """What a model wrote: without what can only be a key."""
        for spelling in self._drawn:
            text = text.replace(spelling, "***")
        return text

    def message(self, text: str) -> str:
        """A short text that goes to a file or a screen: also without parts of secrets, however they are spelled."""
        text = self._without_pieces(self.text(text)[:_MESSAGE_CHARS])
        text = _LOGIN.sub("***", _IDS.sub("***", text))
        if _CODED.search(text) and any(self._piece_at(decoded) is not None for decoded in _decoded(text)):
            return "a message that repeats a secret is left out"
        return text

    def word(self, text: str) -> str:
        """A message that comes with every reply, such as the model's name; looked at once."""
        if (found := self._words.get(text)) is None:
            found = self.message(text)
            if len(self._words) < _MOST_WORDS:
                self._words[text] = found
        return found

    def _without_pieces(self, text: str) -> str:
        while (start := self._piece_at(text)) is not None:
            end = start + _PIECE_CHARS
            while text[end - _PIECE_CHARS + 1 : end + 1].lower() in self._pieces:
                end += 1
            text = f"{text[:start]}***{text[end:]}"
        return text

    def _piece_at(self, text: str) -> int | None:
        low = text.lower()
        windows = [low[n : n + _PIECE_CHARS] for n in range(len(low) - _PIECE_CHARS + 1)]
        if self._pieces.isdisjoint(windows):
            return None
        return next(n for n, window in enumerate(windows) if window in self._pieces)


def masked_url(url: str) -> str:
    """The URL without user, password and query, where keys may stand."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def masked_place(url: str) -> str:
    """Scheme and host alone: of a webhook the path is the secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def secrets_in_url(url: str) -> Iterator[str]:
    """User, password, both together, and the values of the query; nothing of what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    login = parts.netloc.rpartition("@")[0]
    yield from (login, unquote(login), *login.partition(":")[::2])
    yield from (value for _, value in parse_qsl(parts.query, keep_blank_values=True))


def secrets_in(environ: Mapping[str, str]) -> Iterator[str]:
    """What the SDK and the HTTP library take from the environment without being told."""
    for name, value in environ.items():
        if name.lower() in _PROXIES:
            yield from secrets_in_url(value)
        elif name in _SENT:
            yield value.strip()
        elif name == "OPENAI_CUSTOM_HEADERS":
            yield from (line.partition(":")[2].strip() for line in value.splitlines())


def _spellings(word: str) -> Iterator[str]:
    """As it is, in a URL, in JSON, in HTML, in a Python text, in base64 at any place of it."""
    yield from (word, word.lower(), word.upper())
    once = quote(word, safe="")
    yield from (once, quote(word), once.lower(), quote(once, safe=""), quote(word, safe="").replace("%20", "+"))
    quoted = json.dumps(word)[1:-1]
    yield from (quoted, quoted.replace("/", "\\/"), json.dumps(quoted)[1:-1], repr(word)[1:-1])
    yield html.escape(word)
    for form in ("\\u{:04x}", "\\u{:04X}", "&#{};", "&#x{:X};"):
        yield "".join(form.format(ord(c)) if _MARK.fullmatch(c) else c for c in word)
    raw = word.encode(errors="replace")
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw).decode()[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]
        yield from (coded, coded.replace("+", "-").replace("/", "_"), quote(coded, safe=""))


def _decoded(text: str) -> Iterator[str]:
    """The text as those read it who undo one escaping after the other, or lines that were wrapped."""
    yield "".join(text.split())
    for _ in range(3):
        before, text = text, unquote(html.unescape(text))
        text = _JSON_ESCAPE.sub(_unescaped, text)
        if text == before:
            return
        yield "".join(text.split())


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else found[2]
