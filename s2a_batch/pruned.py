"""What became of the runs that were to be deleted: a line each for a person, one object for machines.

Invariant: of a dry run all of it says what the deletion would.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, Literal

SCHEMA: Final = 1
_UNITS: Final = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_DONE: Final = {"deleted": "deleted", "emptied": "emptied", "stays": "stays"}
_COMING: Final = {"deleted": "would go", "emptied": "would be emptied", "stays": "stays"}


@dataclass(slots=True)
class Found:
    """A run, or what one set aside.

    Attributes:
        written_at: When its last execution ended; None when that is not known.
        bytes: The size of its own files.
        state: `emptied`: its own files went, and the directory stays for what is somebody else's.
        why: Why it stays, or what of it.
        freed: So many bytes went, or would go.
        failed: Whether something of it could not be deleted.
    """

    path: str
    written_at: str | None
    bytes: int
    state: Literal["deleted", "emptied", "stays"] = "stays"
    why: str | None = None
    freed: int = 0
    failed: bool = False

    def to_text(self, words: dict[str, str]) -> str:
        """One line."""
        size = _size(self.bytes if self.state == "stays" else self.freed)
        why = f" (written {self.written_at})" if self.why is None else f": {self.why}"
        return f"{self.path}: {size}, {words[self.state]}{why}"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of all that was found, the oldest first."""

    directory: str
    dry_run: bool
    runs: list[Found]

    @property
    def failed(self) -> bool:
        """Whether something could not be deleted."""
        return any(found.failed for found in self.runs)

    def to_text(self) -> str:
        """A line each, and a sum."""
        words = _COMING if self.dry_run else _DONE
        states = [found.state for found in self.runs]
        gone = f"{states.count('deleted')} {words['deleted']}"
        gone += f", {states.count('emptied')} {words['emptied']}" if "emptied" in states else ""
        freed = _size(sum(found.freed for found in self.runs))
        rows = [found.to_text(words) for found in self.runs]
        return "\n".join([*rows, f"{gone}, {freed}; {states.count('stays')} stay"])

    def to_json(self) -> str:
        """The same as one object."""
        runs = [asdict(found) | {"deleted": found.state == "deleted" and not self.dry_run} for found in self.runs]
        return json.dumps({"schema": SCHEMA, "directory": self.directory, "dry_run": self.dry_run, "runs": runs})


def _size(count: int) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if count >= size), (1, "bytes"))
    return f"{count / size:.3g} {unit}"
