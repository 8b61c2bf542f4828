"""The HTTP connections of one endpoint: a request's body goes out, a reply's status, headers and body come back.

Knows aiohttp and httpx2. The pool is aiohttp's, which costs the same at 16 and at 2,048 open requests. Invariants: one
`post` sends one request; a redirect is never followed (it would be a second request, and would carry our headers to a
place that the job does not name); a reply's body has a bound, whatever its headers say.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import ssl
import urllib.request
import zlib
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
import anyio
import httpx2
import truststore

from s2a_batch.errors import EndpointError, JobError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MOST_BYTES: Final = 32 << 20
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CONNECT_S: Final = 10.0
_KEEPALIVE_S: Final = 30.0
_HEADER_BYTES: Final = 64 << 10
_OTHER_FILES: Final = 100
_OF_THE_WAY: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class Response(NamedTuple):
    """What came back, whatever its status; the headers' names may be looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Posts to one address over connections that are kept; use as an async context manager.

    Args:
        url: Where all requests go, with its query and without a login.
        deadline_s: From sending to the last byte.
        connections: About the most that are open at a time; room is made for them.

    Attributes:
        headers: Of each request; set before it is entered.

    Raises:
        JobError: The environment names a proxy or certificates that cannot be used.
    """

    def __init__(self, url: str, *, deadline_s: float, connections: int) -> None:
        self.headers: Mapping[str, str] = {}
        self._url = url
        self._deadline_s = deadline_s
        self._connections = connections
        try:
            self._proxy = _proxy_for(url)
            self._ssl = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        except (ValueError, OSError) as error:  # its text may show a password
            raise JobError(
                f"no HTTP client can be made with this environment ({type(error).__name__}); look at HTTP_PROXY, "
                "HTTPS_PROXY, ALL_PROXY (http://host:port, no SOCKS) and SSL_CERT_FILE"
            ) from None

    async def __aenter__(self) -> Self:
        make_room(self._connections)
        self._session = aiohttp.ClientSession(
            connector=_Connector(keepalive_timeout=_KEEPALIVE_S, ssl=self._ssl),
            headers={**self.headers, "accept-encoding": "gzip"},
            proxy=self._proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._deadline_s, sock_connect=min(_CONNECT_S, self._deadline_s / 2)),
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        self._turnstile = _Turnstile()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            await self._session.close()

    async def post_only(self, body: bytes) -> int:
        """Send exactly one request whose reply's status tells all; raises as `post`."""
        return (await self.post(body, is_read=False)).status

    async def post(self, body: bytes, *, is_read: bool = True) -> Response:
        """Send exactly one request, and read all of what comes.

        Raises:
            TransientError: No reply came, or none that HTTP knows.
            EndpointError: The proxy refuses, the certificate is not trusted, or this machine has no connection left.
        """
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                told = await _read(response) if is_read else b""
                found = Response(response.status, response.headers, told)
            await self._turnstile.go_through()
        except aiohttp.ConnectionTimeoutError:
            within_s = min(_CONNECT_S, self._deadline_s / 2)
            raise TransientError("connection", f"connection failed (none was made within {within_s:g} s)") from None
        except TimeoutError:
            raise TransientError("timeout", f"no complete reply within {self._deadline_s:g} s") from None
        except _BodyError as error:
            raise TransientError("not_an_answer", f"a reply came, and {error}") from None
        except aiohttp.ClientHttpProxyError as error:
            raise EndpointError(f"the proxy of the environment refuses: {error.status} {error.message[:80]}") from None
        except aiohttp.ClientConnectorCertificateError as error:
            why = f"{error.certificate_error}; SSL_CERT_FILE may name a file with that of its authority"
            raise EndpointError(f"the server's certificate is not trusted: {why}") from None
        except aiohttp.ClientResponseError as error:
            why = " ".join(error.message.split())[:120]
            raise TransientError("not_an_answer", f"a reply came that is no HTTP: {why}") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise EndpointError(
                    f"{os.strerror(error.errno)}: each open request needs one; raise the limit (ulimit -n) or lower "
                    "limits.open_requests"
                ) from None
            raise TransientError("connection", f"connection failed ({_root(error)})") from None
        return found

    def for_sdk(self) -> httpx2.AsyncClient:
        """The same connections as the SDK takes them; whatever it calls, its body is posted here."""
        return httpx2.AsyncClient(transport=_Bridge(self), trust_env=False)


class _Turnstile:
    """Lets few replies through in one turn of the event loop.

    Requests that were sent together are answered together. If all these replies were then judged and written step by
    step side by side, all next requests would go out together again, and so on: at 256 open requests of 0.2 s a cycle
    of 0.28 s. A few at a time spread out and stay so: 0.22 s.
    """

    _MOST: Final = 4

    def __init__(self) -> None:
        self._left = self._MOST
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def go_through(self) -> None:
        """At once, or in the next turns of the loop when too many came in this one."""
        loop = asyncio.get_running_loop()
        if self._left == 0:
            self._waiting.append(loop.create_future())
            await self._waiting[-1]
            return
        if self._left == self._MOST:
            loop.call_soon(self._turn)
        self._left -= 1

    def _turn(self) -> None:
        self._left = self._MOST
        while self._waiting and self._left > 0:
            first = self._waiting.popleft()
            if not first.done():  # else it was cancelled
                first.set_result(None)
                self._left -= 1
        if self._left < self._MOST:
            asyncio.get_running_loop().call_soon(self._turn)


class _Bridge(httpx2.AsyncBaseTransport):
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        found = await self._transport.post(await request.aread())
        headers = [
            (name.encode(), value.encode(errors="surrogateescape"))
            for name, value in found.headers.items()
            if name.lower() not in _OF_THE_WAY
        ]
        return httpx2.Response(found.status, headers=headers, content=found.body, request=request)


class _BodyError(Exception):
    """A reply's body is longer than any answer, or cannot be unpacked."""


class _Connector(aiohttp.TCPConnector):
    """A pool that hands out no kept connection which the server has closed meanwhile.

    The event loop has not seen a close that arrived since it last looked, and aiohttp does not look itself: of a
    server that closes after each reply, without a word in its headers, every second request met a closed connection.
    """

    def __init__(self, *, keepalive_timeout: float, ssl: ssl.SSLContext) -> None:
        # How many may be open the limiter knows, also when a person changes it; who waits here has no deadline left.
        super().__init__(limit=0, keepalive_timeout=keepalive_timeout, ssl=ssl)
        self._kept: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        while True:
            found = await super().connect(req, traces, timeout)
            if found.protocol is None or found.protocol not in self._kept:
                if found.protocol is not None:
                    self._kept.add(found.protocol)
                return found
            if not _is_readable(found):
                return found
            found.close()


def _is_readable(connection: Connection) -> bool:
    """Whether a connection that waits for nothing has something to read: its end, or what nobody asked for."""
    socket = None if connection.transport is None else connection.transport.get_extra_info("socket")
    if socket is None:
        return True
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """All of a body, unpacked; `_BodyError` where it gets too long: a small one may unpack to all memory."""
    packed = response.headers.get("content-encoding", "identity").strip().lower()
    if packed == "identity" and response.content.is_eof() and response.content.total_bytes <= MOST_BYTES:
        return response.content.read_nowait()  # all of it is there
    unpack = None if packed in ("", "identity") else _unpacker(packed)
    parts, left = list[bytes](), MOST_BYTES
    async for part in response.content.iter_any():
        try:
            plain = part if unpack is None else unpack.decompress(part, left + 1)
        except zlib.error as error:
            raise _BodyError(f"its body is no {packed}: {error}") from None
        left -= len(plain)
        if left < 0:
            raise _BodyError(f"its body is longer than {MOST_BYTES} bytes")
        parts.append(plain)
    return b"".join(parts)


def _unpacker(packed: str) -> zlib._Decompress:
    if packed not in ("gzip", "x-gzip", "deflate"):
        raise _BodyError(f"its body is packed as {packed[:40]}, which was not asked for")
    return zlib.decompressobj(zlib.MAX_WBITS | 32)


def most_connections() -> float:
    """How many connections this process could have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return float("inf") if hard == resource.RLIM_INFINITY else hard - _OTHER_FILES


def make_room(connections: int) -> None:
    """Allow this process as many open files as it may need, where the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = connections + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(hard, connections + _OTHER_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this address; none for this machine. Raises ValueError for others."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    named = urllib.request.getproxies()
    proxy = named.get(parts.scheme) or named.get("all")
    if not proxy or host in _LOCAL or urllib.request.proxy_bypass(host):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    place = urlsplit(proxy)
    if place.scheme not in ("http", "https") or not place.hostname or place.port == 0:
        raise ValueError
    return proxy


def _root(error: BaseException) -> str:
    """The innermost cause in a few words."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"
