"""A real Chromium without a window, spoken to through a pipe by its own protocol; tests skip where there is none.

What a page makes of a hostile record, a key or a narrow screen only a browser can tell.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine (apt-get install chromium)")
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars --mute-audio"
)


# The page itself waits for its next frame: nobody polls from outside in between.
_UNTIL = """(async () => {
  for (let n = 0; n < 30; n++) {
    const found = CONDITION;
    if (found) return found instanceof Node ? true : found;
    await new Promise(requestAnimationFrame);
  }
  return null;
})()"""


class Browser:
    """One browser with one page at a time."""

    def __init__(self, process: subprocess.Popen[bytes], to_fd: int, from_fd: int) -> None:
        self._process, self._to, self._from = process, to_fd, from_fd
        self._rest, self._number, self._session, self._context = b"", 0, "", ""
        self.events: list[dict[str, Any]] = []

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """A new page in a fresh profile (no cookies of others), at an address."""
        if self._context:
            self.call("Target.disposeBrowserContext", session="", browserContextId=self._context)
        context = self._context = self.call("Target.createBrowserContext", session="")["browserContextId"]
        target = self.call("Target.createTarget", session="", url="about:blank", browserContextId=context)["targetId"]
        self._session = self.call("Target.attachToTarget", session="", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self._loading("Page.navigate", {"url": url})

    def reload(self) -> None:
        """Load the page once more, and wait for it."""
        self._loading("Page.reload", {})

    def _loading(self, method: str, parameters: dict[str, str]) -> None:
        self.events.clear()
        self.call(method, session=None, **parameters)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def size(self, width: int, height: int) -> None:
        """Make the window another size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def colours(self, scheme: str) -> None:
        """Prefer `light` or `dark`, as the system would."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, script: str) -> Any:  # noqa: ANN401  what the page says
        """The value of an expression in the page; a promise is awaited; raise AssertionError when it throws."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, within_s: float = 20) -> Any:  # noqa: ANN401  what the page says
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if found := self.run(_UNTIL.replace("CONDITION", script)):
                return found
        raise AssertionError(f"never so: {script}; the page: {self.run('document.body.innerText')[:2000]}")

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")

    def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def call(self, method: str, *, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if session is None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self._number:
                assert "error" not in found, (method, found)
                result = found["result"]
                assert isinstance(result, dict)
                return result
            self.events.append(found)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], 60)[0], "the browser is silent"
            block = os.read(self._from, 1 << 20)
            assert block, f"the browser ended: {self._process.poll()}"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(message)
        assert isinstance(found, dict)
        return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A started browser that does not outlive the block."""
    assert PROGRAM is not None
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # It reads commands from descriptor 3 and answers on 4.
        shell = f'exec "$0" "$@" 3<&{theirs_read} 4>&{theirs_write}'
        command = ["bash", "-c", shell, PROGRAM, *_FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(
            command, pass_fds=(theirs_read, theirs_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            os.close(theirs_read)
            os.close(theirs_write)
            try:
                yield Browser(process, ours_write, ours_read)
            finally:
                process.terminate()
                process.wait(20)
                os.close(ours_read)
                os.close(ours_write)
