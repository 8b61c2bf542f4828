"""The HTTP client below the SDK: its pool, and a bound on what a reply may bring. A faster transport goes in here.

Knows httpx2. Invariants: a redirect is never followed (it would be a second request, and would carry our headers to a
place that the job does not name); a reply's body has a bound, whatever its headers say.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx2

from s2a_batch.errors import JobError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_BYTES: Final = 32 << 20
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class BodyError(Exception):
    """A reply's body is longer than any answer, or cannot be unpacked."""


def http_client(base_url: str, connections: int) -> httpx2.AsyncClient:
    """An HTTP client for one endpoint; close it.

    Args:
        base_url: A loopback address is reached without the proxies that the environment names.
        connections: Most that are open at a time.

    Raises:
        JobError: The environment names a proxy or certificates that cannot be used.
    """
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30.0)
    try:
        return httpx2.AsyncClient(
            trust_env=(urlsplit(base_url).hostname or "") not in _LOCAL,
            limits=limits,
            follow_redirects=False,
            headers={"accept-encoding": "gzip"},
            event_hooks={"response": [_bound]},
        )
    except (httpx2.InvalidURL, ValueError, ImportError, OSError) as error:  # its text may show a password
        raise JobError(
            f"no HTTP client can be made with this environment ({type(error).__name__}); look at HTTP_PROXY, "
            "HTTPS_PROXY, ALL_PROXY (http://host:port; SOCKS needs the package socksio) and SSL_CERT_FILE"
        ) from None


async def _bound(response: httpx2.Response) -> None:
    """Runs before the body is read; takes the unpacking over from httpx2, which knows no bound."""
    if isinstance(response.stream, httpx2.AsyncByteStream):
        packed = response.headers.pop("content-encoding", "identity").strip().lower()
        response.stream = _Bounded(response.stream, packed)


class _Bounded(httpx2.AsyncByteStream):
    """A body, unpacked, that ends with `BodyError` where it gets too long; a small one may unpack to all memory."""

    def __init__(self, stream: httpx2.AsyncByteStream, packed: str) -> None:
        self._stream = stream
        self._packed = packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MOST_BYTES
        unpack = self._unpacker()
        async for part in self._stream:
            try:
                plain = part if unpack is None else unpack.decompress(part, left + 1)
            except zlib.error as error:
                raise BodyError(f"its body is no {self._packed}: {error}") from None
            left -= len(plain)
            if left < 0:
                raise BodyError(f"its body is longer than {MOST_BYTES} bytes")
            yield plain

    def _unpacker(self) -> zlib._Decompress | None:
        if self._packed in ("", "identity"):
            return None
        if self._packed not in ("gzip", "x-gzip", "deflate"):
            raise BodyError(f"its body is packed as {self._packed[:40]}, which was not asked for")
        return zlib.decompressobj(zlib.MAX_WBITS | 32)

    async def aclose(self) -> None:
        await self._stream.aclose()
