"""The page of a comparison: it shows the figures, and nothing that stands in a record can do anything in it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from s2a_batch.compare import htmlpage
from s2a_batch.compare.comparison import Agreement, ArmFigures, Comparison, Pair, Share, Turn
from s2a_batch.compare.matching import Use
from s2a_batch.compare.stats import bootstrap_difference
from s2a_batch.errors import JobError

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = '</td><script>alert(1)</script>"><img src=x onerror=y>\u202egnp.exe\x1b[31m\ud800'
VOID = {"meta", "circle", "line", "br"}


class Reader(HTMLParser):
    """Notes tags, attributes and text, and whether tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Closed by itself."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """It must be the one that is open."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note it."""
        self.texts.append(data)


def an_arm(name: str, right: int, n: int, group: str = "all") -> ArmFigures:
    """One arm that took a request for each record."""
    use = Use(n, 10 * n, 2 * n, None, 1.5)
    share = Share.of(right, n)
    return ArmFigures(name, f"arms/{name}", None, None, n, 0, 0, {}, share, 0, 0, use, use, {group: share})


def a_comparison(text: str = "plain") -> Comparison:
    """Two arms over 20 records, whose texts are this one."""
    pair = Pair("s2a", "baseline", 20, 5, 8, 6, 1, 0, 0.25, bootstrap_difference(6, 1, 20), None, 0.125, 0.07, 0.125)
    pair.to_right = [Turn(3, text, text, text, {"answer": text})]
    arms = [an_arm("baseline", 6, 20, text), an_arm("s2a", 11, 20, text)]
    alike = [Agreement("baseline", "s2a", 20, 13)]
    return Comparison(text, "out", "exact", text, text, None, 20, 0, 0, arms, [pair], alike)


def test_the_page_loads_and_runs_nothing() -> None:
    """It is mailed around and opened from disks: no request, no script, one style that its policy names."""
    page = htmlpage.page(a_comparison())
    read = Reader(page)
    assert not read.open
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(read.tags)
    assert not [name for _, name, _ in read.attributes if name in ("src", "href", "style") or name.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page
    assert "prefers-color-scheme: dark" in style


def test_what_stands_in_a_record_is_shown_and_does_nothing() -> None:
    """Inputs come from strangers, answers from models."""
    page = htmlpage.page(a_comparison(HOSTILE))
    read, plain = Reader(page), Reader(htmlpage.page(a_comparison()))
    extra = [tag for tag in read.tags if tag != "i"]
    assert extra == [tag for tag in plain.tags if tag != "i"], "no tag comes from a text"
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "U+202E" in page
    assert "<script>alert(1)</script>" in "".join(read.texts)


def test_each_dot_stands_where_its_figure_is() -> None:
    """A picture that disagrees with its table is worse than none."""
    page = htmlpage.page(a_comparison())
    shares, differences = page.split("<svg ")[1:3]
    dots = [float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', shares)]
    assert dots == pytest.approx([190 + 0.30 * 500, 190 + 0.55 * 500])
    (dot,) = (float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', differences))
    low, high = (
        float(x) for x in re.findall(r'<line class="bar" x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', differences)[0]
    )
    found = bootstrap_difference(6, 1, 20)
    assert found is not None
    scale = 500 / (2 * 0.5)  # to the next tenth beyond the interval's end, to both sides
    assert (low, dot, high) == pytest.approx((440 + found.low * scale, 440 + 0.25 * scale, 440 + found.high * scale))


def test_every_picture_has_its_words_and_its_table() -> None:
    """Whoever cannot see it hears what it is, and reads the figures beside it."""
    read = Reader(htmlpage.page(a_comparison()))
    pictures = [value for tag, name, value in read.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(pictures) == 2
    assert all("95 % intervals" in label for label in pictures)
    told = " ".join(read.texts)
    for figure in ("6 of 20", "30.0 %", "11 of 20", "55.0 %", "+25.0", "13 of 20", "0.1250", "unknown"):
        assert figure in told


def test_a_page_is_its_owners_alone_and_replaces_only_a_page(tmp_path: Path) -> None:
    """It holds prompts and answers."""
    place = tmp_path / "page.html"
    for _ in range(2):
        htmlpage.check_place(place)
        htmlpage.write(place, a_comparison(HOSTILE))
    assert place.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    place.write_text("<!doctype html>mine")
    with pytest.raises(JobError, match="no page of ours"):
        htmlpage.check_place(place)
