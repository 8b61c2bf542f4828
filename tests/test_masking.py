"""A secret is found in every spelling and at every cut; ordinary words stay."""

from __future__ import annotations

import base64
import html
import json
import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.masking import Mask, masked_url, secrets_in, secrets_in_url

KEY = "sk-live/KEY+ZZ=1&2'\"x"
SPELLED = {
    "as it is": KEY,
    "shouted": KEY.upper(),
    "in a URL": quote(KEY, safe=""),
    "in a URL, small digits": quote(KEY, safe="").lower(),
    "in a path": quote(KEY),
    "in a form": quote_plus(KEY),
    "in a URL in a URL": quote(quote(KEY, safe=""), safe=""),
    "in JSON": json.dumps(KEY),
    "in JSON, slashes escaped": json.dumps(KEY).replace("/", "\\/"),
    "in JSON in JSON": json.dumps(json.dumps(KEY)),
    "in careful JSON": json.dumps(KEY).replace("+", "\\u002B").replace("&", "\\u0026").replace("'", "\\u0027"),
    "in HTML": html.escape(KEY),
    "in careful HTML": html.escape(KEY).replace("/", "&#x2F;").replace("+", "&#43;").replace("=", "&#61;"),
    "all numbers in HTML": "".join(f"&#{ord(c)};" for c in KEY),
    "in Python": repr(KEY),
    "in a Python text of bytes": repr(KEY.encode()),
    "in base64": base64.b64encode(KEY.encode()).decode(),
    "in base64, behind a user": base64.b64encode(f"me:{KEY}".encode()).decode(),
    "in base64, behind a name": base64.b64encode(f"Bearer {KEY} for you".encode()).decode(),
    "in base64 of URLs": base64.urlsafe_b64encode(KEY.encode()).decode(),
    "wrapped": KEY[:9] + "\n  " + KEY[9:],
    "cut by the server": KEY[:14] + "...",
    "its end": "..." + KEY[-12:],
}


def readable(text: str) -> str:
    """A text as somebody reads it who wants the key."""
    for _ in range(3):
        text = html.unescape(text).replace("\\u002B", "+").replace("\\u0026", "&").replace("\\", "")
    return "".join(text.lower().split())


@pytest.mark.parametrize("spelling", SPELLED.values(), ids=SPELLED.keys())
@pytest.mark.parametrize("before", [0, 1, 2, 150, 290])
def test_every_spelling_is_masked(spelling: str, before: int) -> None:
    """Servers, gateways and libraries quote what they refuse in the notation they happen to write."""
    found = Mask([KEY]).message("x " * before + f"refused: {spelling} is unknown")
    for part in ("key+zz", "key%2bzz", "key&#43;zz", base64.b64encode(KEY.encode())[4:16].decode().lower()):
        assert part not in readable(found)
    assert "KEY" not in found
    assert base64.b64encode(KEY.encode())[4:16].decode() not in found


@given(
    st.text(string.ascii_letters + string.digits + "-_/+=.~", min_size=16, max_size=80),
    st.integers(0, 400),
    st.text(string.printable, max_size=300),
    st.sampled_from([str, lambda s: quote(s, safe=""), json.dumps, html.escape, lambda s: json.dumps(s).upper()]),
)
def test_no_piece_of_a_key_survives_a_cut(key: str, end: int, around: str, spell: object) -> None:
    """Messages are cut to their length; what the cut leaves of a key is worth as much to a guesser as the rest."""
    mask = Mask([key])
    assert callable(spell)
    text = mask.text(f"{around[:150]}{spell(key)}{around[150:]}")[:end]
    found = mask.message(text).lower()
    pieces = {key[n : n + 10].lower() for n in range(len(key) - 9)}
    assert not [piece for piece in pieces if piece in found]


def test_what_a_model_wrote_keeps_its_words() -> None:
    """Keys of local servers are words, and logins are names: an answer that holds them must stay as it is."""
    text = "EMPTY, ollama and Alice know the secret of the lm-studio: ants, none of it is dummy"
    mask = Mask(["EMPTY", "ollama", "alice", "Alice", "lm-studio", "secret", "none", "dummy", "an"])
    assert mask.reply(text) == text
    assert mask.message("ollama is EMPTY, nonetheless") == "ollama is EMPTY, nonetheless"
    assert mask.message("login of alice") == "login of ***"
    assert Mask([KEY]).reply(f"it is {KEY}.") == "it is ***."


def test_words_of_a_header_are_secrets_and_its_scheme_is_none() -> None:
    """A server repeats the token without `Bearer`, or speaks of a bearer without the token."""
    mask = Mask(["Bearer tokZZ-22"])
    assert mask.message("the Bearer tokZZ-22 of tokZZ-22 is no Bearer") == "the *** of *** is no Bearer"


def test_ids_of_accounts_and_logins_in_any_url_are_masked() -> None:
    """A rate limit names the organization, a proxy's error names a URL that is not ours."""
    said = "Rate limit for org-AbC123456789xyz in proj_AbC123456789, via http://me:pw@proxy:1/x"
    assert Mask([]).message(said) == "Rate limit for *** in ***, via http://***@proxy:1/x"
    assert Mask([]).message("reorg-anisation, org-chart, a@b.c, http://h/@x") == (
        "reorg-anisation, org-chart, a@b.c, http://h/@x"
    )


def test_what_libraries_take_from_the_environment_is_known() -> None:
    """Nobody names a proxy's password in the job; it is sent and comes back all the same."""
    environ = {
        "https_proxy": "http://me:p%40ss-1@proxy:1",
        "ALL_PROXY": "socks5://you:word-2@proxy",
        "OPENAI_ORG_ID": "org-3 ",
        "OPENAI_PROJECT_ID": "proj-4",
        "OPENAI_CUSTOM_HEADERS": "X-A: five-5\nX-B: six: 6",
        "HOME": "seven-7",
        "HTTP_PROXY": "http://[::1:2",
    }
    found = set(secrets_in(environ))
    assert {"p%40ss-1", "me:p@ss-1", "word-2", "org-3", "proj-4", "five-5", "six: 6"} <= found
    assert "seven-7" not in found
    assert {"qk-1", "user", "pw"} <= set(secrets_in_url("http://user:pw@host/v1?api-key=qk-1&x="))


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    """Errors and `run.json` name the endpoint, and nothing that opens it."""
    assert masked_url("https://user:pw@host:1/v1?key=k#token") == "https://host:1/v1"
    assert masked_url("http://[::1]:80/v1") == "http://[::1]:80/v1"


def test_a_long_page_is_masked_in_little_time() -> None:
    """A gateway's error page of megabytes must not hold up the other requests."""
    page = "<p>" + "sk-live/KE" * 400_000 + KEY
    found = Mask([KEY, "Bearer " + "t0" * 80]).text(page)
    assert KEY not in found
    assert Mask([KEY]).message(page).count("***") >= 1
