"""What the local page's browser is answered, and the guard before it.

Knows starlette and uvicorn. Invariants: nobody is answered who does not know the token, whatever name the browser was
told for this address; the run is only read; what a record holds reaches the page as JSON and never as HTML.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import uvicorn
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from s2a_batch import rundir
from s2a_batch.lock import is_locked
from s2a_batch.web import viewindex, viewquery, viewrecord

if TYPE_CHECKING:
    import socket
    import sqlite3
    from collections.abc import Callable, Iterator
    from types import FrameType

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from s2a_batch.web.viewrecord import Names

_PAGE: Final = Path(__file__).parent / "page"
HOST: Final = "127.0.0.1"
_ROWS: Final = 50
_MOST_ROWS: Final = 200
_LOCK_S: Final = 5.0
_MOST_INT: Final = (1 << 63) - 1
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Lets in who knows the token, by the URL first and by a cookie from then on; all else is refused.

    Args:
        app: What is guarded.
        port: Where it listens; another host or port in the Host header is a rebound name.
        token: The printed one.
        once: One more token for a single use: that of the browser which is started, as others can read its arguments.
    """

    def __init__(self, app: ASGIApp, port: int, token: str, once: str = "") -> None:
        self._app, self._token, self._once = app, token, once
        self._cookie = f"s2a-view-{port}"
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        given = QueryParams(scope["query_string"]).get("token", "") if scope["path"] == "/" else ""
        visit = bool(given) and self._is_token(given)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                out.update(_HEADERS)
                if visit:
                    out["set-cookie"] = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            await send(message)

        app = self._app
        if headers.getlist("host") != [host for host in self._hosts if headers.get("host") == host]:
            app = PlainTextResponse("this name is not the server's\n", 421)
        elif not visit and not self._knows(headers):
            app = PlainTextResponse("open the URL that s2a-batch view printed\n", 403)
        await app(scope, receive, with_headers)

    def _is_token(self, given: str) -> bool:
        if _same(given, self._token):
            return True
        if self._once and _same(given, self._once):
            self._once = ""
            return True
        return False

    def _knows(self, headers: Headers) -> bool:
        parts = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
        return any(name == self._cookie and _same(value, self._token) for name, _, value in parts)


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())


class Site:
    """What the page asks for.

    Args:
        directory: The run's.
        index: Its index.
        names: Under which names its input objects hold their parts.
        indexing: Whether the index still follows the run.
    """

    def __init__(self, directory: Path, index: Path, names: Names, indexing: Callable[[], bool]) -> None:
        self._directory, self._index, self._names, self._indexing = directory, index, names, indexing
        self._locked, self._looked = False, 0.0

    def app(self) -> Starlette:
        """All routes."""
        return Starlette(
            routes=[
                Route("/", self._home),
                Route("/api/run", self._run),
                Route("/api/rows", self._rows),
                Route("/api/records/{record:int}", self._record),
                Route("/api/records/{record:int}/line", self._line),
                Mount("/page", StaticFiles(directory=_PAGE)),
            ]
        )

    def _home(self, _: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    def _run(self, _: Request) -> Response:
        with self._reading() as db:
            sizes = dict(cast("list[tuple[str, int]]", db.execute("SELECT name, size FROM files").fetchall()))
            ready = db.execute("SELECT 1 FROM meta WHERE name = 'ready'").fetchone() is not None
            found = viewquery.facets(db)
        total = 0
        for name in rundir.LINE_FILES:
            with contextlib.suppress(OSError):
                total += (self._directory / name).stat().st_size
        done = sum(sizes.values())
        return _json({
            "name": os.fsencode(self._directory.resolve().name).decode(errors="replace"),
            "facets": found,
            "progress": {"done_bytes": done, "bytes": total, "ready": ready},
            "running": self._running(),
            "indexing": self._indexing(),
        })  # fmt: skip

    def _rows(self, request: Request) -> Response:
        query = request.query_params
        names = ("status", "check", "level", "kind", "policy", "version", "query")
        filters = viewquery.Filters(**{name: query.get(name, "")[:500] for name in names})
        try:
            place = _place(query)
            most = min(int(query.get("most", _ROWS)), _MOST_ROWS)
        except (ValueError, OverflowError):
            return PlainTextResponse("no such place\n", 400)
        with self._reading() as db:
            rows = viewquery.page(db, filters, place, max(1, most))
            total = viewquery.count(db, filters) if query.get("count") else None
            meaning = viewquery.meaning(db, filters.query)
        return _json({"rows": rows, "count": total, "meaning": meaning})

    def _record(self, request: Request) -> Response:
        line = self._read_line(request)
        if line is None:
            return PlainTextResponse("no such record\n", 404)
        full = bool(request.query_params.get("full"))
        return _json(viewrecord.shown(line, self._names, full=full))

    def _line(self, request: Request) -> Response:
        line = self._read_line(request)
        if line is None:
            return PlainTextResponse("no such record\n", 404)
        return Response(line, media_type="text/plain; charset=utf-8")

    def _read_line(self, request: Request) -> bytes | None:
        record = min(request.path_params["record"], _MOST_INT)
        with self._reading() as db:
            place = viewquery.line_at(db, record)
        if place is None:
            return None
        try:
            with (self._directory / rundir.LINE_FILES[place.file]).open("rb") as file:
                file.seek(place.at)
                line = file.read(place.size)
        except OSError:
            return None
        # Between the index's last look and this one the files may have become others.
        key = viewrecord.text((viewrecord.parsed(line) or {}).get("key"))
        return line if viewrecord.key_parts(key) == place.key else None

    def _running(self) -> bool:
        """Whether a run holds the directory; looked at seldom, as a look takes the lock for a moment."""
        if time.monotonic() - self._looked > _LOCK_S:
            self._locked, self._looked = is_locked(self._directory), time.monotonic()
        return self._locked

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(viewindex.connect(self._index)) as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")  # all of one answer is of one moment
            yield db


def _json(value: object) -> Response:
    """A value as JSON that every browser reads: what is no number of JSON's is null."""
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


def _place(query: QueryParams) -> viewquery.Place:
    """Where a page begins, as the URL says; ValueError for what no page said."""
    sort = query.get("sort", "line")
    value, _, record = query.get("at", "").rpartition(",")
    if not 0 <= int(record or 0) <= _MOST_INT:
        raise ValueError(record)
    return viewquery.Place(
        sort=viewquery.SORTS[viewquery.SORTS.index(cast("viewquery.Sort", sort))],
        descending=query.get("order") == "down",
        value=float(value or 0),
        id=int(record or 0),
        backward=query.get("way") == "back",
    )


def answer(site: Site, listener: socket.socket, token: str, once: str) -> None:
    """Answer requests until the process is interrupted; arguments as of `Guard`."""
    guard = Guard(site.app(), listener.getsockname()[1], token, once)
    config = uvicorn.Config(
        guard, log_level="error", access_log=False, lifespan="off", ws="none", proxy_headers=False,
        server_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _end(number: int, _: FrameType | None) -> None:
    """End as the signal says, but clean up: uvicorn sends it on when it is done."""
    sys.exit(128 + number)
