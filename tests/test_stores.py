"""Objects in a store, against a real S3 server on loopback: which are read, what goes wrong, a run that is killed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import aclosing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import anyio
import pytest
from botocore.session import Session
from moto.server import ThreadedMotoServer

from s2a_batch import inputs, source
from s2a_batch.errors import Drained, InputError, JobError, StopRun
from s2a_batch.forms import Fields
from s2a_batch.inputs import stores
from s2a_batch.inputs.waiting import apart
from s2a_batch.keys import KeyIndex, line_hash
from s2a_batch.records import Record
from s2a_batch.rundir import RESULTS
from tests.processes import read_lines, run, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server import Plan, Upstream

RECORDS = 1
ROWS = 400
BUCKET = "bucket"


def line(number: int) -> bytes:
    """One good line with its end."""
    return json.dumps({"id": number, "prompt": f"Is [[r-{number}]] right? I think it is."}).encode() + b"\n"


class Store:
    """A bucket, and how programs find it."""

    def __init__(self, endpoint: str) -> None:
        self.environ = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        key = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self._client = Session().create_client("s3", endpoint_url=endpoint, **key)
        self._client.create_bucket(Bucket=BUCKET)

    def put(self, name: str, content: bytes) -> None:
        """Write one object."""
        self._client.put_object(Bucket=BUCKET, Key=name, Body=content)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """One for all tests of this module; each has a folder of its own in it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    before = dict(os.environ)
    try:
        found = Store("http://{}:{}".format(*server.get_host_and_port()))
        os.environ.update(found.environ)
        yield found
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()


def read(*names: str) -> list[Record]:
    """All that an input holds."""

    async def all_of() -> list[Record]:
        with KeyIndex() as keys:
            async with aclosing(source.records(names, Fields(), keys)) as records:
                return [record async for record in records if isinstance(record, Record)]

    return asyncio.run(all_of())


def test_a_prefix_and_a_pattern_are_the_objects_below_them_in_order(store: Store) -> None:
    """Each night's objects are read as files of a directory would be: by name, without what is hidden."""
    for n, name in enumerate(("c.jsonl", "a.jsonl.gz", ".d.jsonl", "e.txt", "deep/f.jsonl", "b.jsonl")):
        store.put(f"kinds/{name}", gzip.compress(line(n)) if name.endswith(".gz") else line(n))
    found = read(f"s3://{BUCKET}/kinds/")
    assert [(record.file, record.line) for record in found] == [("a.jsonl.gz", 1), ("b.jsonl", 1), ("c.jsonl", 1)]
    assert [record.file for record in read(f"s3://{BUCKET}/kinds/**/*.jsonl")][-1] == "deep/f.jsonl"
    assert [record.file for record in read(f"s3://{BUCKET}/kinds/e.txt")] == [None]
    assert len(read(f"s3://{BUCKET}/kinds/e.txt", f"s3://{BUCKET}/kinds/b.jsonl")) == 2
    assert read(f"s3://{BUCKET}/not-yet/") == []


def test_an_object_whose_name_looks_like_a_pattern_is_that_object(store: Store) -> None:
    """`answers[1].jsonl` is uploaded as it was downloaded; a pattern that matches no name would refuse it."""
    store.put("signs/in[1].jsonl", line(1))
    assert [(record.file, record.id_json) for record in read(f"s3://{BUCKET}/signs/in[1].jsonl")] == [(None, b"1")]
    store.put("signs/in1.jsonl", line(2))
    assert [record.id_json for record in read(f"s3://{BUCKET}/signs/in[1].jsonl")] == [b"1"]
    assert [record.file for record in read(f"s3://{BUCKET}/signs/in[12].jsonl")] == ["in1.jsonl"]


def test_what_comes_between_two_looks_is_seen(store: Store) -> None:
    """A scheduler lives for weeks: a listing that is remembered would never show it the next day's object."""
    store.put("grows/a.jsonl", line(1))
    assert len(read(f"s3://{BUCKET}/grows/")) == 1
    store.put("grows/b.jsonl", line(2))
    store.put("grows/a.jsonl", line(1) + line(3))
    assert len(read(f"s3://{BUCKET}/grows/")) == 3


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"s3://{BUCKET}/none.jsonl", "no such object or bucket"),
        ("s3://nobody/x.jsonl", "no such object or bucket"),
        ("s3://nobody/day/", "no such object or bucket"),
        (f"s3://{BUCKET}/*.none", "no object matches"),
        (f"s3://{BUCKET}/kind", "end it in a slash"),
        ("s3://", "names nothing"),
        ("nosuch://bucket/x.jsonl", "Protocol not known"),
        ("gs://bucket/x.jsonl", "its store needs a package"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_url(store: Store, url: str, says: str) -> None:
    """Nothing was sent, and the same command again would not help: a fault of the command, with the URL to mend."""
    store.put("kind/x.jsonl", line(1))
    with pytest.raises(JobError) as caught:
        read(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert says in str(caught.value)


def test_objects_of_many_blocks_come_whole(store: Store) -> None:
    """An object is fetched range by range: no byte at an edge may be lost or doubled."""
    content = b"".join(line(n) + b" " * (n * 7919 % 3_000) + b"\n" for n in range(8_000))
    assert len(content) > 8 << 20
    store.put("large/a.jsonl", content)
    assert [int(record.id_json) for record in read(f"s3://{BUCKET}/large/a.jsonl")] == [*range(8_000)]


def test_an_object_that_ends_early_is_named() -> None:
    """Half of an object must not look like all of it."""

    class Short:
        def __init__(self) -> None:
            self.blocks = [line(1), b""]

        def read(self, _size: int, /) -> bytes:
            return self.blocks.pop(0)

        def close(self) -> None:
            pass

    async def read_all() -> None:
        stored = stores.Stored("s3://bucket/x.jsonl", "x.jsonl", 1_000, Short)
        async with aclosing(stores.read(stored, None)) as blocks:
            async for _ in blocks:
                pass

    with pytest.raises(InputError, match=rf"s3://bucket/x\.jsonl: ended after {len(line(1))} of 1000 bytes"):
        asyncio.run(read_all())


@pytest.mark.parametrize(
    ("error", "kind"),
    [(FileNotFoundError(2, "gone"), JobError), (PermissionError("Forbidden"), JobError), (OSError("Busy"), InputError)],
)
def test_a_fault_of_a_store_says_whether_to_try_again_and_no_secret(error: OSError, kind: type[StopRun]) -> None:
    """Exit 2 for what a person must mend, 3 for what the next night may find healed; a signed address is a key."""

    def fail() -> None:
        error.args = (*error.args[:-1], f"{error.args[-1]} at ?sig=hush-hush-hush")
        raise error

    async def read_all() -> None:
        stored = stores.Stored("https://host/x?sig=hush-hush-hush", "x", None, fail)  # type: ignore[arg-type]
        await anext(stores.read(stored, None))

    with pytest.raises(kind) as caught:
        asyncio.run(read_all())
    assert str(caught.value).startswith("https://host/x: ")
    assert "hush" not in str(caught.value)


def test_a_drain_ends_the_wait_for_a_call_that_hangs() -> None:
    """A server that never answers must not hold up a stop for minutes, nor the end of the process."""
    release = threading.Event()

    async def drained() -> None:
        drain = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_set_soon, drain)
            with anyio.fail_after(20), pytest.raises(Drained):
                await apart(release.wait, drain)

    asyncio.run(drained())
    thread = next(thread for thread in threading.enumerate() if thread.name == "input")
    assert thread.daemon
    release.set()
    thread.join()


async def _set_soon(event: anyio.Event) -> None:
    await anyio.lowlevel.checkpoint()
    event.set()


def test_without_fsspec_the_way_to_it_is_told(tmp_path: Path) -> None:
    """The package is an extra: whoever lacks it needs one line, and no traceback."""
    code = "import sys; sys.modules['fsspec'] = None; from s2a_batch.__main__ import main; main()"
    argv = ["run", "s3://bucket/x.jsonl", "-o", "out", "--model", "m", "--base-url", "http://127.0.0.1:9/v1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 's2a-batch[s3]'" in done.stderr
    assert not list(tmp_path.iterdir())


def command(url: str, up: Upstream) -> tuple[str, ...]:
    """The usual run of an input."""
    return ("run", url, "-o", "out", "--model", "m", "--base-url", up.base_url, "--open-requests", "16")


def test_killed_while_it_reads_from_a_store_a_run_goes_on_to_an_exact_result(
    store: Store, folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The objects are read anew from their beginning; what is written is known by content and not asked again."""
    up = upstream({"latency_s": 0.01})
    rows = [line(n % (ROWS - 10)) for n in range(ROWS)]  # with equal lines, in both objects
    store.put("kill/a.jsonl.gz", gzip.compress(b"".join(rows[: ROWS // 2])))
    store.put("kill/b.jsonl.gz", gzip.compress(b"".join(rows[ROWS // 2 :])))
    argv = command(f"s3://{BUCKET}/kill/*.jsonl.gz", up)
    with running(folder, *argv, environ=store.environ) as program:
        up.wait_until(lambda stats: stats.answered >= ROWS)
        program.kill()
    up.wait_until(lambda stats: stats.in_flight == 0)
    kept = {row["key"] for row in read_lines_whole(folder / "out" / RESULTS)}
    assert 0 < len(kept) < ROWS
    up.reset_stats()
    done = run(folder, *argv, environ=store.environ)
    assert (done.status, f"{len(kept)} done before of {ROWS} lines read" in done.err) == (0, True)
    results = read_lines(folder / "out" / RESULTS)
    met = dict.fromkeys(rows, -1)
    for row in rows:
        met[row] += 1
    wanted = {line_hash(row.strip()).hex() + suffix for row, n in met.items() for suffix in ("", "-1")[: n + 1]}
    assert sorted(row["key"] for row in results) == sorted(wanted)
    assert {row["file"] for row in results} == {"a.jsonl.gz", "b.jsonl.gz"}
    assert up.stats().by_stage["answer"] == ROWS - len(kept)
    proof = run(folder, "verify", "out", environ=store.environ)
    assert (proof.status, f"{ROWS} lines: {ROWS} answered, 0 failed" in proof.out) == (0, True)


def read_lines_whole(path: Path) -> list[dict[str, object]]:
    """The objects of a file whose last line a kill may have torn."""
    return [json.loads(row) for row in path.read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_whose_store_never_answers(
    store: Store, folder: Path, upstream: Callable[[Plan], Upstream], number: int
) -> None:
    """The SDK waits for a minute and tries again; a service that is told to stop must not."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        environ = {**store.environ, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        with running(folder, *command(f"s3://{BUCKET}/x.jsonl", upstream({})), environ=environ) as program:
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                program.send(number)
                done = program.wait(10)
    assert done.status == 128 + number


def test_a_store_that_cannot_be_reached_leaves_all_pending(
    store: Store, folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Nothing is wrong with the job: exit 3, so that the next night tries again."""
    environ = {**store.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for url in (f"s3://{BUCKET}/x.jsonl", "http://127.0.0.1:9/x.jsonl"):
        done = run(folder, *command(url, upstream({})), environ=environ)
        assert (done.status, "run the same command again" in done.err) == (3, True), url


def test_what_is_secret_in_a_web_address_names_no_file_and_hides_none(tmp_path: Path) -> None:
    """Two signed addresses may differ in what is masked alone: both are read, and no result repeats a signature."""
    (tmp_path / "x.jsonl").write_bytes(line(1))
    with _served(tmp_path) as address:
        names = [f"{address}/x.jsonl?sig=hush{n}/hush" for n in range(2)]
        parts = asyncio.run(inputs.find(names)).parts
        assert [part.file for part in parts] == [f"{address}/x.jsonl"] * 2
        assert "hush" not in repr(parts)
        assert [record.file for record in read(*names)] == [f"{address}/x.jsonl"] * 2


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The files of a folder on a web server of loopback."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_other_stores_and_files_behind_urls_work_by_the_way(folder: Path) -> None:
    """What fsspec can read is read: a mirror on the disk stands in for the bucket in a trial."""
    assert [part.file for part in asyncio.run(inputs.find([f"file://{folder}/"])).parts] == ["in.jsonl"]
    assert len(read(f"file://{folder}/in.jsonl")) == RECORDS
