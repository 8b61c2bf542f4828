"""The local page's server: who is let in, what it answers, how it starts and ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rundata import append, bad_line, failed, result, run_directory, stage
from tests.viewer import Viewer, viewing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """One server for this module, over a run of 120 records."""
    directory = run_directory(tmp_path_factory.mktemp("view") / "out")
    append(directory, *(result(n) for n in range(1, 119)), failed(119), bad_line(120))
    with viewing(directory) as found:
        found.until_indexed(120)
        yield found


def test_the_printed_address_opens_the_page(viewer: Viewer) -> None:
    """It is all that a person has to do."""
    reply = viewer.get(viewer.path, cookie=False)
    assert reply.status == 200
    assert "<title>s2a-batch</title>" in reply.text
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?token=",
        "/?token=guess",
        "/api/run",
        "/api/rows",
        "/api/records/1",
        "/page/app.js",
        "/api/run?token=TOKEN",
    ],
)
def test_without_the_token_nothing_is_answered(viewer: Viewer, path: str) -> None:
    """Every user and every page of this machine can reach the port; prompts are not for them."""
    reply = viewer.get(path.replace("TOKEN", viewer.token), cookie=False)
    assert reply.status == 403
    assert "Ann" not in reply.text
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("cookie", ["", "TOKENx", "TOKE", "é", '"TOKEN"', "TOKEN; x=y"])
def test_a_cookie_that_is_not_the_token_is_refused(viewer: Viewer, cookie: str) -> None:
    """Only the last of these holds it."""
    sent = f"s2a-view-{viewer.port}={cookie.replace('TOKEN', viewer.token)}".replace("TOKE", viewer.token[:-1])
    reply = viewer.get(
        "/api/run", headers={"Cookie": sent.encode("latin-1", "replace").decode("latin-1")}, cookie=False
    )
    assert reply.status == (200 if cookie.endswith("x=y") else 403)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:PORT.evil.example", ""]
)
def test_another_name_for_this_address_is_refused(viewer: Viewer, host: str) -> None:
    """A page of the net can have its own name point here (DNS rebinding); then the Host header has that name."""
    reply = viewer.get("/api/run", headers={"Host": host.replace("PORT", str(viewer.port))})
    assert reply.status in {400, 421}
    assert "facets" not in reply.text


def test_the_name_localhost_is_ours_too(viewer: Viewer) -> None:
    """Whoever forwards the port types it."""
    assert viewer.get("/api/run", headers={"Host": f"localhost:{viewer.port}"}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_only_shows(viewer: Viewer, method: str) -> None:
    """Nothing of a run can be changed from a page, and no other origin is told that it may ask."""
    reply = viewer.get("/api/run", method=method, headers={"Origin": "http://evil.example"})
    assert reply.status == 405
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/", "/api/rows", "/page/app.js", "/api/records/1/line", "/api/records/77777", "/nowhere"]
)
def test_every_answer_forbids_what_the_page_does_not_need(viewer: Viewer, path: str) -> None:
    """The second wall, should a record ever get into the page as HTML."""
    reply = viewer.get(path)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"
    assert not [name for name in reply.headers if name.startswith(("access-control", "server"))]


@pytest.mark.parametrize(
    "path", ["/page/../view.py", "/page/..%2fview.py", "/page/%2e%2e/%2e%2e/pyproject.toml", "/page//etc/passwd"]
)
def test_no_other_file_can_be_had(viewer: Viewer, path: str) -> None:
    """The page's own files are all there is."""
    assert viewer.get(path).status == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("sort=id", 400), ("at=1", 200), ("at=x,y", 400), ("most=x", 400), ("most=-5", 200), ("most=999999", 200),
        ("at=1e999,1", 200), ("at=1,99999999999999999999", 400), ("at=nan,1", 200), ("query=%00%22%27", 200),
        ("query=" + "x" * 5000, 200), ("query=line:99999999999999999999999", 200), ("check=%27%29", 200),
        ("query=NEAR%28a%20b%29%20AND%20OR%20%2A", 200), ("query=ffffffff-99999999", 200), ("status=x", 200),
    ],
)  # fmt: skip
def test_a_question_that_no_page_asks_is_harmless(viewer: Viewer, query: str, status: int) -> None:
    """Addresses are typed, cut and shared; none may end in a fault of ours."""
    assert viewer.get(f"/api/rows?{query}").status == status


@pytest.mark.parametrize("record", ["0", "999999999", "9" * 30, "-1", "x"])
def test_a_record_that_is_not_there_is_not_found(viewer: Viewer, record: str) -> None:
    """An address of yesterday, after the run began anew."""
    assert viewer.get(f"/api/records/{record}").status == 404
    assert viewer.get(f"/api/records/{record}/line").status == 404


def test_a_records_line_comes_byte_for_byte(viewer: Viewer) -> None:
    """What is copied goes into a report."""
    row = viewer.json("/api/rows?query=line:5")["rows"][0]
    lines = (viewer.directory / "results.jsonl").read_bytes().split(b"\n")
    assert viewer.get(f"/api/records/{row['id']}/line").text.encode() == lines[4]


def test_a_page_of_rows_is_bounded(viewer: Viewer) -> None:
    """Nobody gets a million rows into a page."""
    assert len(viewer.json("/api/rows?most=1000000")["rows"]) == 120
    assert len(viewer.json("/api/rows")["rows"]) == 50


def test_it_shows_what_a_run_adds(tmp_path: Path) -> None:
    """It is open beside a run that goes on."""
    directory = run_directory(tmp_path / "out", result(1))
    with viewing(directory) as viewer:
        viewer.until_indexed(1)
        append(directory, result(2), failed(3))
        viewer.until_indexed(3)
        assert [row["line"] for row in viewer.json("/api/rows")["rows"]] == [1, 2, 3]


def test_a_prompt_is_found_under_the_name_that_the_job_gave(tmp_path: Path) -> None:
    """A run that keeps hashes in place of messages has its prompts in the input objects alone."""
    directory = run_directory(tmp_path / "out")
    (directory / "run.json").write_text('{"s2a_batch": "0", "job": {"fields": {"prompt": "text"}}}')
    append(
        directory,
        result(1, stages={"rewrite": stage(), "answer": None}, input={"text": "Ann sings. Why?", "prompt": 1}),
    )
    with viewing(directory) as viewer:
        viewer.until_indexed(1)
        shown = viewer.json("/api/records/1")
        assert "".join(piece for piece, _ in shown["original"]["pieces"]) == "Ann sings. Why?"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_its_child_ends_with_it(tmp_path: Path, number: int, status: int) -> None:
    """Ctrl-C is the usual end; whatever ends it, no process may stay behind that reads on."""
    with viewing(run_directory(tmp_path / "out", result(1))) as viewer:
        viewer.until_indexed(1)
        child = os.pidfd_open(viewer.child())
        assert viewer.end(number) == status
        assert select.select([child], [], [], 20)[0], "it is still there"
        os.close(child)


def test_nothing_is_taken_from_the_directory_a_person_stands_in(tmp_path: Path) -> None:
    """A file there that is named like a module of ours or of Python's is data, and must not be run."""
    for name in ("sqlite3.py", "s2a_batch.py", "pydantic_core.py"):
        (tmp_path / name).write_text("raise SystemExit(1)")
    program = Path(sys.executable).with_name("s2a-batch")
    with viewing(run_directory(tmp_path / "out", result(1)), str(program), cwd=tmp_path) as viewer:
        viewer.until_indexed(1)


@pytest.mark.parametrize("way", ["no run", "port taken"])
def test_what_cannot_be_shown_is_said_at_once(tmp_path: Path, viewer: Viewer, way: str) -> None:
    """A typo in the directory is a sentence and exit 2, not a trace."""
    arguments = [str(tmp_path)] if way == "no run" else [str(viewer.directory), "--port", str(viewer.port)]
    done = subprocess.run(
        [sys.executable, "-m", "s2a_batch", "view", *arguments, "--no-browser"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_directory_that_cannot_be_written_is_shown_all_the_same(tmp_path: Path) -> None:
    """An archive is often mounted read-only; the index then lies elsewhere."""
    directory = run_directory(tmp_path / "out", result(1))
    (directory / ".view.sqlite").mkdir()
    with viewing(directory) as viewer:
        viewer.until_indexed(1)
        assert viewer.json("/api/rows")["rows"][0]["line"] == 1


def test_without_its_packages_the_remedy_is_named(tmp_path: Path) -> None:
    """The extra is left out of a plain installation."""
    run_directory(tmp_path / "out", result(1))
    code = (
        "import sys; sys.modules['uvicorn'] = None; from pathlib import Path; from s2a_batch import view;"
        "view.serve(Path(sys.argv[1]), 0, browser=False, say=print)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert "pip install 's2a-batch[view]'" in done.stderr
