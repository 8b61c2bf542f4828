"""The report: one HTML file of a run that needs no network, no script and no other file.

Invariants: the page loads nothing and runs nothing (its policy allows the one style sheet by its hash); its size is
bounded whatever the run; it is written at once or not at all, for its owner alone, and over nothing but a report.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Final

from s2a_batch import linefiles, rundir
from s2a_batch.errors import JobError, OutputError
from s2a_batch.htmlreport import htmltext, judged, sections, worked
from s2a_batch.htmlreport.digest import digest
from s2a_batch.htmlreport.htmltext import DASH, count, factor, seconds, share

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.htmlreport.readings import Reading

HEAD: Final = "<!doctype html>\n<!-- written by s2a-batch report -->\n"
NAME: Final = "report.html"
_SHOWN_FAILURES: Final = 4


def report(directory: Path, output: Path | None, *, as_json: bool) -> str:
    """Write the page of a run; returns where it is, or with `as_json` the numbers and writes nothing.

    Raises:
        JobError: There is no run, or something else than a report stands there.
        OutputError: The page cannot be written.
    """
    reading = digest(directory)
    if as_json:
        return json.dumps(reading, indent=2)
    path = output or directory / NAME
    write(path, page(reading, directory, fields_of(directory)))
    return str(path)


def page(reading: Reading, directory: Path, fields: Mapping[str, JsonValue]) -> str:
    """The whole page of a reading; the directory is where its examples' lines are read from."""
    style = resources.files("s2a_batch.htmlreport").joinpath("report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = htmltext.plain(f"{directory.resolve().name} {DASH} s2a-batch report")
    return (
        f'{HEAD}<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{style}</style></head><body>"
        f"{_header(reading, directory)}<main>{_body(reading, directory, fields)}</main>{_footer(reading)}"
        "</body></html>\n"
    )


def write(path: Path, content: str) -> None:
    """Put a page where it was asked for.

    Raises:
        JobError: Something else than a report stands there.
        OutputError: It cannot be written.
    """
    try:
        if path.exists() and not path.read_bytes()[: len(HEAD)] == HEAD.encode():
            raise JobError(f"{path}: there is a file that is no report of ours; choose another name with -o")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", opener=linefiles.open_private) as file:
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another place with -o") from None


def fields_of(directory: Path) -> Mapping[str, JsonValue]:
    """The `fields` table of the job that made a run."""
    job = (rundir.read_manifest(directory) or {}).get("job")
    fields = job.get("fields") if isinstance(job, dict) else None
    return fields if isinstance(fields, dict) else {}


def _body(reading: Reading, directory: Path, fields: Mapping[str, JsonValue]) -> str:
    shown = worked.examples(directory, reading["examples"], fields)
    parts = [
        ("time", "Over time", "", sections.time(reading)),
        ("rewrites", "What the rewrites kept", "", judged.rewrites(reading)),
        ("examples", "Worked examples", _LEGEND if shown else "", shown or "<p>There is no rewrite to show yet.</p>"),
        ("cost", "Tokens and cost", "", sections.money(reading)),
        ("requests", "Requests", "", sections.requests(reading)),
        ("failures", "Failed records", "", judged.failures(reading)),
        ("slowest", "Slowest records", "", sections.slowest(reading)),
        ("settings", "Settings", "", _settings(reading)),
    ]
    return "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{title}</h2>{lead}{content}</section>'
        for name, title, lead, content in parts
    )


_LEGEND: Final = (
    '<p class="note">Typical records, those of which least is left, and those that a check objects to. '
    "<del>Struck</del>: the rewrite left it out. <mark>Marked</mark>: the prompt has no such word.</p>"
)


def _header(reading: Reading, directory: Path) -> str:
    name = htmltext.text(directory.resolve().name)
    links = (("time", "Time"), ("rewrites", "Rewrites"), ("examples", "Examples"), ("cost", "Cost"))
    more = (("requests", "Requests"), ("failures", "Failures"), ("slowest", "Slowest"), ("settings", "Settings"))
    nav = "".join(f'<a href="#{place}">{told}</a>' for place, told in (*links, *more))
    figures = "".join(f"<div><dt>{told}</dt><dd>{value}</dd></div>" for told, value in _figures(reading))
    return (
        f'<header class="top"><p class="over">System 2 Attention {DASH} run report</p><h1>{name}</h1>'
        f'<p class="lead">{_headline(reading)}</p><p class="state">{_state(reading)}</p>'
        f'<dl class="figures">{figures}</dl><nav aria-label="Sections">{nav}</nav></header>'
    )


def _headline(reading: Reading) -> str:
    """The run in a sentence or two."""
    counts = reading["counts"]
    good = "rewritten" if reading["run"]["only_rewrite"] else "answered"
    done = counts["rewritten"] if good == "rewritten" else counts["answered"]
    waiting = counts["rewritten"] if good == "answered" else 0
    known = done + counts["failed"] + (waiting if counts["pending"] is None else counts["pending"])
    if not known:
        return "Nothing is finished yet." if reading["run"]["running"] else "There are no records."
    total = "" if counts["pending"] is None else f" of {count(known)}"
    stop = ", " if counts["failed"] else "."
    parts = [f"{count(done)}{total} records {good}{stop}"]
    if counts["failed"]:
        kinds = [f"{count(f['records'])} {htmltext.text(f['kind'])}" for f in reading["failures"][:_SHOWN_FAILURES]]
        more = ["more"] if len(reading["failures"]) > _SHOWN_FAILURES else []
        parts.append(f"{count(counts['failed'])} failed ({', '.join([*kinds, *more])}).")
    if waiting:
        parts.append(f" {count(waiting)} finished rewrites wait for their answer.")
    return "".join(parts)


def _state(reading: Reading) -> str:
    """Whether it goes on, was stopped, or is done, and when it was."""
    run, counts = reading["run"], reading["counts"]
    parts = []
    if run["running"]:
        parts.append("It is still running: these are the numbers up to now.")
    elif run["stopped"]:
        parts.append(f"The last execution was stopped: {htmltext.text(run['stopped'])}.".replace("..", "."))
    elif counts["pending"] is None:
        parts.append("How many records are pending is not known: the last execution did not read the input to its end.")
    if counts["pending"]:
        parts.append(f"{count(counts['pending'])} are pending: the same command goes on.")
    if counts["superseded"]:
        parts.append(f"{count(counts['superseded'])} results are superseded: their lines are gone from the input.")
    if reading["first"] is not None and reading["last"] is not None:
        times = f"{_moment(reading['first'])} to {_moment(reading['last'])} UTC"
        many = f", in {count(run['executions'])} executions" if run["executions"] > 1 else ""
        parts.append(f"{times}{many}.")
    return " ".join(parts)


def _figures(reading: Reading) -> list[tuple[str, str]]:
    """The numbers that everybody looks for first."""
    counts, stages, one = reading["counts"], reading["stages"].values(), reading["one_call"]["total"]
    tokens = sum(stage["input_tokens"] + stage["output_tokens"] for stage in stages)
    retried = sum(stage["retries"] + stage["reasks"] + stage["rate_limited"] for stage in stages)
    kept = reading["compression"]
    found = [
        ("answered", count(counts["answered"])),
        ("failed", count(counts["failed"])),
        ("pending", count(counts["pending"])),
        ("a record, median", seconds(reading["seconds"]["p50"])),
        ("requests", count(sum(stage["requests"] for stage in stages))),
        ("asked again", count(retried)),
        ("tokens", htmltext.short(tokens)),
        ("cost", sections.money_of(list(stages))),
        ("tokens of one call", factor(one["token_factor"] if one else None)),
        ("words left", share(kept["rewrite_words"], kept["prompt_words"])),
    ]
    if reading["run"]["only_rewrite"]:
        found[0] = ("rewritten", count(counts["rewritten"]))
    return found


def _settings(reading: Reading) -> str:
    run = reading["run"]
    rows = [
        ("directory", run["directory"]),
        ("input", run["input"]),
        ("fingerprint", run["fingerprint"]),
        *run["settings"].items(),
    ]
    made = reading["counts"]["fingerprints"]
    if len(made) > 1:  # settings were changed on the way, with --accept-changes
        rows.append(("results by fingerprint", ", ".join(f"{name} ({count(n)})" for name, n in made.items())))
    for name, stage in reading["stages"].items():
        models = ", ".join(f"{model} ({count(n)})" for model, n in stage["models_answered"].items())
        rows.append((f"{name}: models that answered", models or "unknown"))
    cells = ([htmltext.text(name), f"<code>{htmltext.text(value)}</code>"] for name, value in rows)
    return htmltext.table(["setting", "value"], cells, caption="What was run", texts=2)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _footer(reading: Reading) -> str:
    made = reading["made_at"].replace("T", " ").replace("+00:00", " UTC")
    version = htmltext.text(reading["run"]["version"])
    return f"<footer><p>Made {made} by s2a-batch {version} from the files of the run alone.</p></footer>"
