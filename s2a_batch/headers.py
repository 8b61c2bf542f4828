"""What the headers of a reply say in numbers and durations."""

from __future__ import annotations

import math
import re


def number(text: str | None) -> float | None:
    """The number that a header holds; None for anything else."""
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def seconds(text: str | None) -> float | None:
    """Seconds of `12`, `0.5`, `250ms`, `6m0s`, `1h2m3.5s`; None for anything else."""
    if (plain := number(text)) is not None:
        return plain
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", text or "")
    if not parts or "".join(map("".join, parts)) != text:
        return None
    return sum(float(amount) * units[unit] for amount, unit in parts)
