"""Objects in a store behind a URL: which there are, and their bytes, block by block.

Knows fsspec, which is an extra and is loaded at the first URL; each store's own package comes by its own extra, and
credentials and endpoint as that package looks for them. Invariants: one block is in memory; a fault of a store is a
`StopRun`, and no secret of a URL is in it.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypedDict, TypeVar, cast
from urllib.parse import urlsplit

from s2a_batch.errors import GoneError, InputError, JobError, StopRun
from s2a_batch.inputs.waiting import apart
from s2a_batch.masking import Mask, masked_url, secrets_in_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import anyio

Result = TypeVar("Result")
_BLOCK_BYTES: Final = 4 << 20  # one request each
_PIECE_BYTES: Final = 1 << 18
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
MAGIC: Final = re.compile(r"[*?\[]")
"""What makes a name a pattern."""
_MESSAGE_CHARS: Final = 300
_WEB: Final = ("http", "https")


class _Open(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class _Row(TypedDict):
    name: str
    size: int | None
    type: str


class _System(Protocol):
    """What is used of fsspec, which has no types."""

    ls: Callable[..., list[_Row]]
    glob: Callable[..., dict[str, _Row]]
    open: Callable[..., _Open]

    def invalidate_cache(self) -> None: ...
    def info(self, path: str) -> _Row: ...
    def exists(self, path: str) -> bool: ...
    def isfile(self, path: str) -> bool: ...
    def unstrip_protocol(self, path: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """One object.

    Attributes:
        name: Its URL, without what may be secret.
        label: Its name below what all objects of one URL share.
        size_bytes: None when the store does not tell.
        open: Opens it for reading; blocks.
        place: Its whole URL.
        listed: Nobody named it: it is one of those that a pattern or a prefix stands for.
    """

    name: str
    label: str
    size_bytes: int | None
    open: Callable[[], _Open] = field(repr=False)
    place: str = field(default="", repr=False)
    listed: bool = False


def is_url(name: str) -> bool:
    """Whether it names something in a store, and no file."""
    return _URL.match(name) is not None


def told(url: str) -> str:
    """The URL without user, password and a web address's query, where keys may stand."""
    parts = urlsplit(url)
    return masked_url(url) if "@" in parts.netloc or parts.scheme in _WEB else url


def is_many(url: str) -> bool:
    """Whether a URL may stand for whatever is there: a pattern, or a prefix that ends in a slash."""
    return url.endswith("/") or (urlsplit(url).scheme not in _WEB and MAGIC.search(url) is not None)


def fixed(pattern: str) -> str:
    """The part of a pattern before its first wildcard, up to a slash."""
    magic = MAGIC.search(pattern)
    return pattern if magic is None else pattern[: pattern.rfind("/", 0, magic.start()) + 1]


def check(url: str) -> None:
    """Raise `JobError` when fsspec is missing, or the URL is none."""
    if importlib.util.find_spec("fsspec") is None:
        raise JobError(f"{told(url)}: an input behind a URL needs a package: {_install(url)}")
    if not url.partition("://")[2].strip("/"):
        raise JobError(f"{told(url)}: names nothing; example: s3://bucket/day/x.jsonl.gz")


def _install(url: str) -> str:
    return f"pip install 's2a-batch[{'s3' if url.startswith(('s3:', 's3a:')) else 'remote'}]'"


async def find(url: str, wanted: Callable[[str], bool], drain: anyio.Event | None) -> list[Stored]:
    """The objects that a URL stands for, in order of their names.

    Args:
        url: An object, a pattern, or a prefix that ends in a slash.
        wanted: Which names below a prefix count.
        drain: Ends the wait for the store (`Drained`).

    Raises:
        JobError: There is none, or no right to it, or a package is missing.
        InputError: The store cannot be reached.
    """
    check(url)
    return await apart(partial(_guarded, url, partial(_find, url, wanted)), drain)


def _find(url: str, wanted: Callable[[str], bool]) -> list[Stored]:
    from fsspec.core import url_to_fs  # noqa: PLC0415  an extra, and a tenth of a second

    system, path = cast("tuple[_System, str]", url_to_fs(url))
    system.invalidate_cache()  # a process that runs job after job would see what was there at first
    # As of files, a name that is there is that object, whatever signs it holds.
    many = url.endswith("/") or (is_many(url) and not system.isfile(path))
    if not many:
        rows = [system.info(path)]
        if rows[0].get("type") == "directory":
            raise JobError(f"{told(url)}: no object but a prefix; hint: end it in a slash to read all objects below it")
    elif url.endswith("/"):
        rows = [row for row in _listed(system, path) if wanted(posixpath.basename(row["name"]))]
    else:
        rows = list(system.glob(path, detail=True).values())
        if not rows:
            raise JobError(f"{told(url)}: no object matches")
    base = fixed(path) if many else posixpath.dirname(told(path).rstrip("/"))
    return [
        Stored(
            name=told(system.unstrip_protocol(row["name"])) if many else told(url),
            label=told(row["name"]).removeprefix(base).lstrip("/"),
            size_bytes=row.get("size"),
            open=partial(system.open, row["name"], "rb", cache_type="none", block_size=_BLOCK_BYTES),
            place=system.unstrip_protocol(row["name"]),
            listed=many,
        )
        for row in sorted(rows, key=lambda row: row["name"])
        if row["type"] == "file"
    ]


def _listed(system: _System, path: str) -> list[_Row]:
    """What lies below a prefix; a store has no empty directories, so a prefix without objects is an empty one."""
    try:
        return system.ls(path, detail=True)
    except FileNotFoundError:
        bucket = path.strip("/").partition("/")[0]
        if bucket == path.strip("/") or not system.exists(bucket):
            raise
        return []


async def read(stored: Stored, drain: anyio.Event | None) -> AsyncGenerator[bytes]:
    """The bytes of an object, piece by piece.

    Raises:
        JobError: It is gone, or there is no right to it.
        InputError: The store failed, or ended it early.
    """
    file = await apart(partial(_guarded, stored.name, stored.open), drain)
    count = 0
    try:
        while block := await apart(partial(_guarded, stored.name, partial(file.read, _BLOCK_BYTES)), drain):
            count += len(block)
            for begin in range(0, len(block), _PIECE_BYTES):
                yield block[begin : begin + _PIECE_BYTES]
    finally:
        file.close()
    if stored.size_bytes is not None and count < stored.size_bytes:
        raise InputError(f"{stored.name}: ended after {count} of {stored.size_bytes} bytes; run the same command again")


def _guarded(url: str, call: Callable[[], Result]) -> Result:
    """The call's result; each store has errors of its own, which become ours."""
    try:
        return call()
    except StopRun:
        raise
    except ImportError as error:
        how = f"; {_install(url)}" if "[s3]" in _install(url) else ""
        raise JobError(f"{told(url)}: its store needs a package: {_said(url, error)}{how}") from None
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise _broken(url, error.__cause__) from None  # what a web server that is down looks like in fsspec
        raise GoneError(f"{told(url)}: cannot read the input: no such object or bucket") from None
    except ValueError as error:  # no such kind of store
        raise JobError(f"{told(url)}: cannot read the input: {_said(url, error)}") from None
    except PermissionError as error:
        raise JobError(f"{told(url)}: cannot read the input: no right to it: {_said(url, error)}") from None
    except Exception as error:  # noqa: BLE001  botocore's, aiohttp's, ..: none of them is a bug of ours
        said = _said(url, error)
        if "credential" in f"{type(error).__name__} {said}".lower():
            raise JobError(f"{told(url)}: cannot read the input: {said}") from None
        raise _broken(url, error) from None


def _broken(url: str, error: Exception) -> InputError:
    return InputError(f"{told(url)}: reading failed: {_said(url, error)}; run the same command again")


def _said(url: str, error: Exception) -> str:
    text = Mask(secrets_in_url(url)).text(str(error) or type(error).__name__)
    return " ".join(text.split())[:_MESSAGE_CHARS]
