"""The report's page: the numbers of the reading, inert whatever the texts, small, and well in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s2a_batch.errors import JobError, OutputError
from s2a_batch.htmlreport import report
from tests.browser import Browser, browser, needs_browser
from tests.processes import run, write_input
from tests.result_lines import JOB, SUMMARY, JsonObject, attempt, failed, line, stage, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server import Plan, Upstream

EVIL = "<script>alert(1)</script></style></title>\"><img src=x onerror=alert(2)>\u202eevil\u202c\0 &amp; 'x'"
VOID = {"meta", "br"}
TAGS = (
    "html head meta title style body header main footer section nav a p br h1 h2 h3 h4 dl dt dd div span i b code del "
    "mark figure figcaption svg desc text rect line circle path polyline details summary table caption thead tbody tr "
    "th td ul li article"
)
ATTRIBUTES = (
    "lang charset http-equiv content name class id href aria-label aria-labelledby role viewbox scope tabindex x y x1 "
    "x2 y1 y2 cx cy r d width height points fill-opacity"
)
HIDDEN = {chr(n) for n in (*range(32), *range(127, 160), *range(0x202A, 0x202F)) if n not in (9, 10)}


class Page(HTMLParser):
    """A page taken apart: it raises for what is not closed, not allowed or twice there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.refs: set[str] = set()
        self.words: list[str] = []
        self.counts: dict[str, int] = {}
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open
        assert len(self.ids) == len(set(self.ids)), "an id names one thing"
        assert self.refs <= set(self.ids)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what begins."""
        assert tag in TAGS.split(), tag
        assert {name for name, _ in attrs} <= set(ATTRIBUTES.split()), attrs
        self.counts[tag] = self.counts.get(tag, 0) + 1
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.refs |= set((found.get("aria-labelledby") or "").split())
        if "href" in found:
            assert (found["href"] or "").startswith("#")
            self.refs.add((found["href"] or "")[1:])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close what is open."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note what can be read."""
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def _made(directory: Path) -> Page:
    return Page(directory.parent / report(directory, None, as_json=False))


def _full_run(directory: Path, text: str) -> Path:
    """A run that has all sections, with a text of a stranger wherever one can stand."""
    check = {"name": text[:40], "level": "error", "message": text, "words": [text]}
    busy = stage(
        attempt(0, error="rate_limited", tokens=None),
        attempt(3, error=text[:40] or "x", tokens=None, outage=True, waited_s=2.0),
        attempt(400, 2.0),
        finish_reason=text,
        messages=[{"role": "user", "content": text}],
        model_answered=text,
    )
    lines = [
        line(n, f"{text} {n} of the words", rewrite=(text, f"{n} and more"), id=text, checks=[check], policy=text[:9])
        | {"stages": {"rewrite": busy, "answer": stage(attempt(9, n + 0.5))}, "answer": {"answer": text}}
        for n in range(12)
    ]
    fault = {"stage": text, "kind": text, "message": text, "line": 99}
    job = {**JOB, "input": text.replace("\0", ""), "rewrite": {"preset": text}}
    summary = {**SUMMARY, "stopped": text}
    return write_run(directory, lines, [failed(99, "bug", error=fault, id=text)], job=job, summary=summary)


def test_the_page_shows_the_numbers_of_the_reading(tmp_path: Path) -> None:
    """A number that differs between the page and --json makes both worthless; here each is one of a count by hand."""
    prompt = "a b c d e f g h i j"
    rewritten = stage(attempt(0, 0.5, tokens=(1_000, 30), error="timeout"), attempt(1, 0.5, tokens=(200, 70)))
    answered = stage(attempt(2, 4.0, waited_s=3.0, outage=True))
    lines = [
        line(n, prompt, rewrite=("a b", "c d"), stages={"rewrite": rewritten, "answer": answered}) for n in range(1_200)
    ]
    page = _made(write_run(tmp_path / "night", lines, [failed(1_201, "truncated"), failed(1_202, "truncated")]))
    figures = re.search(r"answered 1,200 failed 2 pending 0 a record, median 1\.00 s requests 3,600", page.text)
    assert figures, page.text[:600]
    assert "1,200 of 1,202 records answered, 2 failed (2 truncated)." in page.text
    assert "rewrite 1,440,000 0 120,000 0 $4.08" in page.text
    assert "answer 120,000 0 12,000 0 $0.3600" in page.text
    assert "together 1,560,000 0 132,000 0 $4.44" in page.text
    left = 4 * 1_200 + 2 * 4  # the dead letters' rewrites hold all their four words
    assert f"of the words are left: {left:,} words in 1,202 rewrites, of {12_000 + 8:,} words of prompts" in page.text
    assert "rewrite 2,400 0.50 s 0.50 s 0.50 s 0.50 s 0.50 s" in page.text
    assert "answer 1,200 4.00 s 4.00 s 4.00 s 4.00 s 4.00 s" in page.text
    assert "Remedy: raise max_tokens." in page.text
    assert "First: line 1201: what is wrong with line 1201" in page.text
    assert "2× truncated The reply hit the token bound." in page.text
    rows = ["records 1,200 1,200", "requests 2,400 1,200", "retries after a fault 1,200 0"]
    rows += ["re-asks after an unusable reply 0 0", "refused by a rate limit 0 0", "failed in an outage 0 1,200"]
    rows += ["waited before sending, p50 0 ms 3.00 s", "waited before sending, p95 0 ms 3.00 s"]
    rows += ["waited before sending, all together 0 ms 60 min 0 s", "timeout 1,200 0"]
    assert [row for row in rows if row not in page.text] == []


def test_the_json_holds_the_same_numbers_and_writes_nothing(tmp_path: Path) -> None:
    """What a dashboard reads and what a person reads is one thing."""
    directory = _full_run(tmp_path / "out", "text")
    before = sorted(directory.iterdir())
    found = json.loads(report(directory, None, as_json=True))
    assert sorted(directory.iterdir()) == before
    assert (found["counts"]["answered"], found["counts"]["failed"], found["stages"]["rewrite"]["requests"]) == (
        12,
        1,
        36,
    )


def test_the_page_is_alone_in_the_world(tmp_path: Path) -> None:
    """It is mailed and opened from disk: nothing may be fetched, and nothing in it may act."""
    page = _made(_full_run(tmp_path / "out", "text"))
    assert not re.findall(r"\b(?:src|href|action|data|poster|srcset|style|on\w+)=\"(?!#)", page.source)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page.source)
    style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert policy
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_every_chart_can_be_read_without_seeing_it(tmp_path: Path) -> None:
    """Who hears the page gets the same numbers: a title, a description and a table for each chart."""
    page = _made(_full_run(tmp_path / "out", "text"))
    figures = re.findall(r"<figure.*?</figure>", page.source, re.DOTALL)
    assert len(figures) == 6
    for figure in figures:
        assert len(re.findall(r'<svg class="(?:wide|narrow)" role="img"', figure)) == 2
        assert len(re.findall(r"<desc ", figure)) == 2
        assert "<table>" in figure
    assert page.counts["table"] > len(figures)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("<>&\"'/= \0\u202eabc", max_size=60))
@example(EVIL)
def test_no_text_of_a_stranger_becomes_part_of_the_page(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Prompts, ids, replies and messages are a stranger's: in a page that is opened from disk they must stay text."""
    page = _made(_full_run(tmp_path_factory.mktemp("run") / "out", text))
    assert "script" not in page.counts
    assert "img" not in page.counts
    assert not set(page.source) & {
        chr(c) for c in (*range(32), *range(127, 160), *range(0x202A, 0x202F)) if c not in (9, 10)
    }


def test_what_cannot_be_seen_is_shown(tmp_path: Path) -> None:
    """A sign that turns the direction of reading makes a prompt look like another one."""
    page = _made(_full_run(tmp_path / "out", EVIL))
    assert "<script>alert(1)</script>" in page.text
    assert "U+202E evil U+202C U+0000" in page.text


@pytest.mark.parametrize("sign", ["\u202e", "&", "a b ", "x", "\n"])
def test_the_page_stays_small_whatever_the_run(tmp_path: Path, sign: str) -> None:
    """It is sent by mail; a long prompt in each example would make it a hundred."""
    huge = sign * (24_000 // len(sign))
    dead = [
        failed(n, f"{n}{huge[:200]}", error={"stage": huge, "kind": f"{n}{huge[:99]}", "message": huge, "line": n})
        for n in range(5_000, 5_100)
    ]
    checks = [
        {"name": f"{n}{huge[:90]}", "level": "error", "message": huge[:999], "words": [huge[:99]] * 99}
        for n in range(60)
    ]
    lines = [
        line(n, f"{huge} {n} b c d e f g h i", rewrite=(huge, huge), id=huge[:500] or n, checks=checks, answer=huge)
        | {"stages": {"rewrite": stage(attempt(n * 77, n + 1.0, error=f"{n}{huge[:99]}"), model_answered=f"{n}{huge}")}}
        for n in range(15)
    ]
    lines += [
        line(
            n,
            stages={"answer": stage(attempt(n * 61, 1 + n % 7)), "rewrite": stage(attempt(n * 60))},
            policy=f"{n}{huge[:90]}",
        )
        for n in range(100, 400)
    ]
    directory = write_run(tmp_path / "out", lines, dead)
    path = directory.parent / report(directory, None, as_json=False)
    assert path.stat().st_size < 2_000_000
    Page(path)


def test_a_text_in_many_pieces_is_cut_too(tmp_path: Path) -> None:
    """A prompt of which every second word is left out has as many marks as words."""
    words = range(2_000)
    prompt = " ".join(f"k{n} r{n}" for n in words)
    directory = write_run(tmp_path / "out", [line(1, prompt, rewrite=(" ".join(f"k{n}" for n in words), "why?"))])
    path = directory.parent / report(directory, None, as_json=False)
    assert path.stat().st_size < 60_000
    page = Page(path)
    assert page.counts["del"] > 100
    assert "the rest not shown" in page.text


def test_a_prompt_of_a_megabyte_is_shown_without_a_comparison(tmp_path: Path) -> None:
    """To compare two long texts word by word takes minutes, ten times over, and nobody reads them here."""
    words = range(60_000)
    prompt = " ".join(f"k{n} r{n}" for n in words)
    directory = write_run(tmp_path / "out", [line(1, prompt, rewrite=(" ".join(f"k{n}" for n in words), ""))])
    page = _made(directory)
    assert "Too long to be compared here" in page.text
    assert page.counts["del"] == 1, "the one that explains"
    assert "k0 r0 k1" in page.text
    assert "k59999 r59999" in page.text


def test_a_pause_between_executions_is_a_break_and_not_an_empty_chart(tmp_path: Path) -> None:
    """A run that went on after a weekend would be two thin lines at the ends of a chart."""
    sent = [stage(attempt(at)) for at in (*range(20), *range(400_000, 400_020))]
    lines = [line(n, stages={"answer": part}) for n, part in enumerate(sent)]
    page = _made(write_run(tmp_path / "out", lines))
    assert page.source.count('class="break"') == 3 * 2, "one in each of three charts, at two sizes"
    columns = re.findall(r'<rect class="fill answered"[^>]* width="([0-9.]+)"', page.source)
    assert max(map(float, columns)) > 5


def test_a_report_is_written_over_nothing_but_a_report(tmp_path: Path) -> None:
    """`-o results.jsonl` is a slip of the hand away from the loss of a night's work."""
    directory = write_run(tmp_path / "out", [line(1)])
    first = report(directory, None, as_json=False)
    assert report(directory, None, as_json=False) == first
    assert (directory / "report.html").stat().st_mode & 0o777 == 0o600
    before = (directory / "results.jsonl").read_bytes()
    with pytest.raises(JobError, match="no report of ours"):
        report(directory, directory / "results.jsonl", as_json=False)
    assert (directory / "results.jsonl").read_bytes() == before
    with pytest.raises(OutputError, match="cannot be written"):
        report(directory, tmp_path / "nowhere" / "r.html", as_json=False)
    assert not list(directory.glob(".report*"))


WAITING = {"status": "rewritten", "answer": None}


@pytest.mark.parametrize(
    ("results", "rewrites", "manifest", "told"),
    [
        ([], [], {}, "There are no records."),
        (
            [],
            [line(1, **WAITING)],
            {"job": {**JOB, "only": "rewrite"}},
            "1 of 1 records rewritten.",
        ),
        ([line(1)], [line(2, **WAITING)], {"summary": None}, "1 records answered. 1 finished rewrites wait"),
        ([line(1)], [], {"summary": {**SUMMARY, "pending": 4}}, "1 of 5 records answered. 4 are pending"),
        ([line(1)], [], {"summary": {**SUMMARY, "superseded": 1}}, "1 results are superseded"),
        ([line(1)], [], {"summary": {**SUMMARY, "stopped": "a cap"}}, "The last execution was stopped: a cap."),
        ([line(1)], [], {"summary": {**SUMMARY, "stopped": "a cap", "pending": 2}}, "a cap. 2 are pending"),
    ],
)
def test_the_headline_says_how_it_stands(
    tmp_path: Path, results: list[JsonObject], rewrites: list[JsonObject], manifest: JsonObject, told: str
) -> None:
    """Most people read the first line and nothing else."""
    page = _made(write_run(tmp_path / "out", results, (), rewrites, **manifest))
    assert told in page.text


def test_the_command_works_beside_a_run_and_after_it(tmp_path: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """From the command to the file, as a person does it."""
    work = tmp_path / "work"
    work.mkdir()
    write_input(work / "in.jsonl", range(3), text="Is [[r-{n}]] right? I do think that it is so.")
    rewrite = {"relevant_context": "", "user_query": "Is <markers> right?"}
    up = upstream({"rules": [{"when": {"stage": "rewrite"}, "replies": [{"json": rewrite}]}]})
    assert run(work, "run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", up.base_url).status == 0
    done = run(work, "report", "out")
    assert (done.status, done.out, done.err) == (0, "out/report.html\n", "")
    page = Page(work / "out" / "report.html")
    assert "3 of 3 records answered." in page.text
    assert page.counts["del"] >= 1
    printed = run(work, "report", "out", "--json")
    assert json.loads(printed.out)["counts"]["answered"] == 3
    missing = run(work, "report", "nowhere")
    assert missing.status == 2
    assert "no run here" in missing.err


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests here."""
    with browser() as found:
        yield found


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (768, "light"), (1280, "dark")])
def test_a_browser_shows_it_quietly_and_without_scrolling_sideways(
    tmp_path: Path, chromium: Browser, width: int, scheme: str
) -> None:
    """Only a browser tells whether a policy blocks the style, a text acts, or a phone cuts the page."""
    directory = _full_run(tmp_path / "out", EVIL + " " + "wide" * 60)
    path = directory.parent / report(directory, None, as_json=False)
    chromium.open(path.as_uri(), width=width)
    chromium.colours(scheme)
    asked = [e["params"]["request"]["url"] for e in chromium.events if e.get("method") == "Network.requestWillBeSent"]
    assert asked == [path.as_uri()]
    loud = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening")
    assert not [event for event in chromium.events if event.get("method") in loud]
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("document.querySelectorAll('script, img, iframe, object').length") == 0
    paper = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(251, 250, 246)", "dark": "rgb(21, 24, 27)"}[scheme], "the style sheet is allowed"
    shown = "[...document.querySelectorAll('svg')].filter(s => s.getClientRects().length).map(s => s.classList[0])"
    assert set(chromium.run(shown)) == {"narrow" if width < 736 else "wide"}
    small = "Math.min(...[...document.querySelectorAll('svg text')].filter(t => t.getClientRects().length)"
    assert chromium.run(f"{small}.map(t => t.getBoundingClientRect().height))") >= 9, "labels can be read"
