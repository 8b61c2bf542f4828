"""`s2a-batch view` as a child process, and plain HTTP to it."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.processes import JsonObject


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True)
class Viewer:
    """A server that runs, and what it printed."""

    process: subprocess.Popen[str]
    directory: Path
    url: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(re.findall(r":(\d+)/", self.url)[0])

    @property
    def token(self) -> str:
        """What lets in."""
        return self.url.partition("token=")[2]

    @property
    def path(self) -> str:
        """The printed address without its host."""
        return f"/?token={self.token}"

    def get(
        self, path: str, *, cookie: bool = True, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> Reply:
        """Ask for a path, as the browser that was let in unless told otherwise."""
        sent = {"Cookie": f"s2a-view-{self.port}={self.token}"} if cookie else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=sent | (headers or {}))
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, found, reply.read().decode())
        finally:
            connection.close()

    def json(self, path: str) -> JsonObject:
        """What a path answers."""
        reply = self.get(path)
        assert reply.status == 200, reply
        found = json.loads(reply.text)
        assert isinstance(found, dict)
        return found

    def until_indexed(self, records: int, within_s: float = 30) -> None:
        """Wait until so many records can be seen."""
        end = time.monotonic() + within_s
        while self.json("/api/rows?count=1")["count"] != records or not self.json("/api/run")["progress"]["ready"]:
            assert time.monotonic() < end, self.json("/api/run")

    def child(self) -> int:
        """The process that fills the index."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])

    def end(self, number: int) -> int:
        """Send a signal; returns how it ended."""
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def viewing(directory: Path, *program: str, cwd: Path | None = None) -> Iterator[Viewer]:
    """A server over a run's directory that does not outlive the block."""
    command = [*(program or (sys.executable, "-m", "s2a_batch")), "view", str(directory), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        assert process.stdout
        try:
            yield Viewer(process, directory, process.stdout.readline().strip())
        finally:
            process.kill()
