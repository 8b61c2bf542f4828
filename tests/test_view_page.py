"""The local page in a real browser: hostile records are inert, keys and filters work, it fits a phone and the dark."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import Browser, browser, needs_browser
from tests.rundata import append, attempt, bad_line, failed, result, run_directory, stage
from tests.viewer import Viewer, viewing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.processes import JsonObject

pytestmark = needs_browser

EVIL = [
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "</textarea><svg onload=window.hacked=1>",
    "<a href=javascript:window.hacked=1 autofocus onfocus=window.hacked=1>x</a>",
    "javascript:window.hacked=1",
    "__proto__",
    "${window.hacked=1}{{window.hacked=1}}",
]
RECORDS = 130
LONG = 130
"""The line of the record whose texts have a megabyte."""


def evil(n: int, text: str) -> list[JsonObject]:
    """Two records that carry a text in every place a line has."""
    check = {"name": text, "level": text, "message": text, "words": [text]}
    tries = [attempt(error={"kind": text, "message": text}, reply=text, request_id=text, finish_reason=text)]
    audit = stage(text, text, attempts=tries, model=text, model_answered=text, prompt_version=text, raw=text,
                  parameters={text: text})  # fmt: skip
    stages = {"rewrite": audit, "answer": audit, text: audit}
    rewrite = {"relevant_context": text, "user_query": text, "raw": text}
    common: JsonObject = {
        "stages": stages,
        "rewrite": rewrite,
        "checks": [check],
        "policy": text,
        "id": text,
        "prompt": text,
    }
    fault = {"kind": text, "message": text, "stage": text, "line": n}
    return [
        result(n, answer={"answer": text}, baseline={text: text}, **common),
        failed(n + 1, **common) | {"error": fault},
    ]


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """One server for this module."""
    directory = run_directory(tmp_path_factory.mktemp("page") / "out")
    error = {"name": "question_lost", "level": "error", "message": "the question is another", "words": []}
    judged = result(4, checks=[error], seconds=500.0, policy="original", baseline={"answer": 99})
    append(directory, result(1, id="first"), failed(2), bad_line(3), judged)
    append(directory, result(5, status="rewritten", answer=None))
    for n, text in enumerate(EVIL):
        append(directory, *evil(10 + 2 * n, text))
    hidden = "left \u202eright\u202c \u0000 \u200b \ud7ff end"
    append(directory, result(6, id=hidden, prompt=hidden, answer={"answer": hidden}))
    append(directory, *(result(n) for n in range(30, LONG)))
    word, words = "x" * 1_000_000, "word and another. " * 60_000
    rewrite = {"relevant_context": word, "user_query": words, "raw": word}
    append(directory, result(LONG, id="long", prompt=words + word, rewrite=rewrite, answer={"answer": word}))
    with viewing(directory) as found:
        found.until_indexed(6 + 2 * len(EVIL) + LONG - 30 + 1)
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def page(chromium: Browser, viewer: Viewer) -> Browser:
    """The page, just opened by a browser that was never here."""
    chromium.open(viewer.url)
    chromium.colours("light")
    chromium.until("document.documentElement.dataset.ready")
    chromium.until("document.querySelectorAll('#list a').length === 50")
    return chromium


def show(page: Browser, viewer: Viewer, query: str) -> None:
    """Open the record that a search finds."""
    row = viewer.json(f"/api/rows?query={query}")["rows"][0]
    page.run(f"location.hash = 'record={row['id']}'")
    key = json.dumps(viewer.json(f"/api/records/{row['id']}")["key"])
    page.until(f"document.querySelector('.key code')?.textContent === {key}")


def complaints(page: Browser) -> list[object]:
    """What the browser had to say: exceptions, refused scripts, files that were not there."""
    page.run("new Promise(requestAnimationFrame)")
    return [
        e
        for e in page.events
        if e["method"] in {"Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"}
    ]


def test_the_token_leaves_the_address(page: Browser) -> None:
    """The address is copied, bookmarked and seen over a shoulder."""
    assert page.run("location.search") == ""
    assert "token" not in page.run("location.href")
    assert complaints(page) == []


def test_a_record_shows_its_policy_and_its_baseline(page: Browser, viewer: Viewer) -> None:
    """An answer from the original looks like one from the rewrite above it."""
    show(page, viewer, "line:4")
    facts = page.run("[...document.querySelectorAll('#record .facts span')].map((node) => node.textContent)")
    assert facts[-1] == "policy original: answered from the original (the rewrite failed a check)"
    heads = page.run("[...document.querySelectorAll('#record h4')].map((node) => node.textContent)")
    assert "To the prompt as given another answer" in heads
    show(page, viewer, "line:1")
    assert "policy" not in page.run("document.querySelector('#record .facts').textContent")
    assert "as given" not in page.run("document.querySelector('#record').textContent")


@pytest.mark.parametrize("text", EVIL)
def test_a_hostile_record_is_shown_and_does_nothing(page: Browser, viewer: Viewer, text: str) -> None:
    """Prompts come from strangers; whoever looks at one must not run it."""
    for n in (0, 1):
        show(page, viewer, f"line:{10 + 2 * EVIL.index(text) + n}")
        page.run("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
        page.until("document.querySelectorAll('#record details').length > 4")
        assert page.run("document.querySelector('#record-title').textContent") == text
        assert page.run("document.querySelector('#record .text').textContent") == text
    page.run("location.hash = ''")
    page.until("document.querySelector('.overview')")
    assert text in page.run("document.querySelector('.overview').textContent")
    assert text in page.run("[...document.querySelectorAll('#filters option')].map((o) => o.value).join('|')")
    assert (
        page.run("document.querySelectorAll('main :is(script, img, svg, iframe, object, [onerror], [onload])').length")
        == 0
    )
    hrefs = page.run("[...document.querySelectorAll('a')].map((a) => a.protocol)")
    assert set(hrefs) == {"http:"}
    assert page.run("window.hacked") is None
    assert complaints(page) == []


@pytest.mark.parametrize("name", ["policy", "kind", "check", "version"])
def test_a_hostile_name_can_be_filtered_by(page: Browser, name: str) -> None:
    """It goes through the address and back into the menu."""
    page.run(f"location.hash = new URLSearchParams({{ {name}: {json.dumps(EVIL[1])} }})")
    page.until(f"document.querySelector('#filters [name={name}]').value === {json.dumps(EVIL[1])}")
    most = 1 if name == "kind" else 2
    page.until(f"document.querySelectorAll('#list a').length === {most}")
    assert complaints(page) == []


def test_hidden_signs_are_made_visible(page: Browser, viewer: Viewer) -> None:
    """A turned text reads as another one, and NUL as nothing."""
    show(page, viewer, "line:6")
    for place in ("#record-title", "#record .text", ".answer", "#list a[aria-current]"):
        shown = page.run(f"document.querySelector({json.dumps(place)}).textContent")
        assert "left U+202Eright" in shown
        assert "U+0000" in shown
        assert "\u202e" not in shown
        assert "\0" not in shown


def test_a_text_of_a_megabyte_does_not_freeze_the_page(page: Browser, viewer: Viewer) -> None:
    """One odd record must not cost the tab."""
    began = time.monotonic()
    show(page, viewer, f"line:{LONG}")
    page.run("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    assert page.run("document.querySelector('#record').textContent.length") < 400_000
    assert "cut after 20,000 of 2,080,000 characters" in page.run("document.querySelector('#record').textContent")
    page.run("[...document.querySelectorAll('#record .link')].find((b) => b.textContent === 'Show all').click()")
    page.until("document.querySelector('#record .text').textContent.length === 2080000")
    page.press("j")
    assert time.monotonic() - began < 60
    assert complaints(page) == []


def test_the_keys_do_what_the_list_of_keys_says(page: Browser) -> None:
    """Whoever audits a thousand records does it by keyboard."""
    current = "document.querySelector('#list [aria-current] .number')?.textContent"
    page.press("j", "j", "j", "k")
    page.until(f"{current} === 'line 2'")
    assert page.run("location.hash") == ""
    page.press("Enter")
    page.until("document.querySelector('#record-title')?.textContent === 'row-2'")
    assert page.run("document.activeElement.id") == "record"
    page.press("k")
    page.until("document.querySelector('#record-title')?.textContent === 'first'")
    page.press("Escape")
    page.until("document.querySelector('.overview')")
    page.press("/")
    assert page.run("document.activeElement.id") == "query"
    page.press("j", "?")
    assert page.run("document.querySelector('#query').value") == "j?"
    page.press("Escape")
    assert page.run("document.activeElement.id") != "query"
    page.press("?")
    assert page.run("document.querySelector('#keys').open") is True


def test_the_walk_goes_over_the_edge_of_a_page(page: Browser) -> None:
    """The fifty-first record follows the fiftieth, and back."""
    page.run("document.querySelectorAll('#list a')[49].click()")
    page.until("document.querySelector('#record-title')")
    page.press("j")
    page.until("document.querySelector('#found').textContent.startsWith('51')")
    page.until("document.querySelector('#list [aria-current]') === document.querySelectorAll('#list a')[0]")
    page.press("k")
    page.until("document.querySelector('#found').textContent.startsWith('1\u2013')")
    page.until("document.querySelector('#list [aria-current]') === document.querySelectorAll('#list a')[49]")


def test_pages_lead_to_the_end_and_back(page: Browser, viewer: Viewer) -> None:
    """The last record is as near as the first."""
    total = viewer.json("/api/rows?count=1")["count"]
    page.run("document.querySelector('#last').click()")
    page.until(f"document.querySelector('#found').textContent.endsWith('\u2013{total} of {total}')")
    assert page.run("document.querySelector('#next').disabled") is True
    page.run("document.querySelector('#first').click()")
    page.until("document.querySelector('#found').textContent.startsWith('1\u2013')")


def test_a_filter_and_an_order_are_in_the_address(page: Browser) -> None:
    """A view can be shared, and the browser's way back works."""
    page.run(
        "{ const menu = document.querySelector('[name=level]'); menu.value = 'error';"
        "menu.dispatchEvent(new Event('change', { bubbles: true })); }"
    )
    page.until("document.querySelector('#found').textContent === '1\u20131 of 1'")
    assert "level=error" in page.run("location.hash")
    page.run("history.back()")
    page.until("document.querySelectorAll('#list a').length === 50")
    page.run("location.hash = 'sort=seconds%3Adown'")
    page.until("document.querySelector('#list .number').textContent === 'line 4'")


def test_a_search_waits_for_no_button(page: Browser) -> None:
    """Typing is enough; an id that is met exactly is shown alone, and its words are one click away."""
    page.press("/", *"row-4")
    page.until("document.querySelector('#found').textContent === '1\u20131 of 1'")
    page.run("document.querySelector('#words').click()")
    page.until("document.querySelector('#query').value === '\"row-4\"'")


@pytest.mark.parametrize("way", ["list", "record", "overview"])
def test_a_phone_needs_no_sideways_scrolling(page: Browser, viewer: Viewer, way: str) -> None:
    """It is read on the way, when the run at night has ended."""
    page.size(360, 740)
    page.until("innerWidth === 360")
    if way == "record":
        for query in ("line:1", "line:6", "line:13", f"line:{LONG}"):
            show(page, viewer, query)
            page.run("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
            assert page.run("document.documentElement.scrollWidth") == 360
            assert page.run("getComputedStyle(document.querySelector('.browse')).display") == "none"
    if way == "overview":
        page.run("document.body.classList.add('open')")
    assert page.run("document.documentElement.scrollWidth") == 360


def test_light_and_dark_follow_the_system_until_a_person_chooses(page: Browser) -> None:
    """At night a white page hurts; a choice stays."""
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.run(paper)
    page.colours("dark")
    dark = page.run(paper)
    assert dark != light
    page.press("t")
    assert page.run(paper) == light
    page.press("t")
    assert page.run(paper) == dark
    page.colours("light")
    assert page.run(paper) == dark
    page.reload()
    page.until("document.documentElement.dataset.theme === 'dark' && document.documentElement.dataset.ready")
    page.press("t")
    assert page.run(paper) == light


def test_the_page_asks_nobody_but_this_machine(page: Browser, viewer: Viewer) -> None:
    """What is in the records stays here."""
    show(page, viewer, "line:13")
    asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert {url.partition("//")[2].partition("/")[0] for url in asked} == {f"127.0.0.1:{viewer.port}"}


@pytest.mark.skipif("AXE_SCRIPT" not in os.environ, reason="AXE_SCRIPT names no axe.min.js of axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(page: Browser, viewer: Viewer, scheme: str, width: int) -> None:
    """Somebody reads it with a screen reader, or with weak eyes."""
    page.size(width, 800)
    page.colours(scheme)
    page.run(Path(os.environ["AXE_SCRIPT"]).read_text() + ";0")
    for query in ("", "line:1", "line:2", "line:4", "line:13"):
        if query:
            show(page, viewer, query)
            page.run("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
        found = page.run("axe.run().then((all) => all.violations.map((v) => [v.id, v.impact, v.nodes[0].html]))")
        assert found == [], (query, found)
