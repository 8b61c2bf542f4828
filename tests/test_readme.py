"""The README against the code: what it says is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from s2a_batch import errors, inputs, jobfile, rundir
from s2a_batch.bounds import Limits, Retry
from s2a_batch.caps import Budget, Price
from s2a_batch.checks.verdicts import VERDICTS
from s2a_batch.forms import Fields
from s2a_batch.job import Job
from s2a_batch.operations import Hooks, Log, Metrics, Schedule, Telemetry
from s2a_batch.records import Outcome
from s2a_batch.stagejob import AnswerJob, RewriteJob, StageJob
from tests.processes import ROOT
from tests.server import Plan, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)


def _rows(header: str) -> list[list[str]]:
    """Cells of the table rows under a heading line of this text, or under a section heading."""
    body = README.partition(header)[2].lstrip("\n")
    rows = []
    for line in body.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def _keys(rows: list[list[str]]) -> dict[str, str]:
    return {key.strip("` "): row[1].strip("`") for row in rows for key in row[0].split(", ")}


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and default as the README writes them; nested tables are left to their own rows."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            continue
        shown = "" if default in (PydanticUndefined, None) else json.dumps(to_jsonable_python(default))
        yield prefix + (field.alias or name), shown


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """Two ways to test are two truths."""
    assert len(COMMANDS) == 2
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text()


def test_every_key_of_a_job_is_documented_with_its_default() -> None:
    """A key that is not in the reference does not exist for a user, and a wrong default costs money."""
    expected = dict(_fields(Job))
    for prefix, model in (
        ("fields.", Fields),
        ("limits.", Limits),
        ("retry.", Retry),
        ("budget.", Budget),
        ("price.", Price),
        ("schedule.", Schedule),
        ("hooks.", Hooks),
        ("log.", Log),
        ("metrics.", Metrics),
        ("telemetry.", Telemetry),
    ):
        expected |= dict(_fields(model, prefix))
    assert _keys(_rows("## Job file")) == expected


def test_every_key_of_the_stages_is_documented_with_its_default() -> None:
    """As for the job's own keys."""
    assert _keys(_rows("`[rewrite]` and `[answer]` both take:")) == dict(_fields(StageJob))
    own = {name: shown for name, shown in _fields(AnswerJob) if name not in StageJob.model_fields}
    assert _keys(_rows("`[answer]` also takes:")) == own
    of_rewrite = {name: shown for name, shown in _fields(RewriteJob) if name not in StageJob.model_fields}
    assert _keys(_rows("`[rewrite]` also takes:")) == of_rewrite
    presets = get_args(RewriteJob.model_fields["preset"].annotation)
    assert all(f'`"{preset}"`' in README for preset in presets)


def test_every_reason_code_has_its_remedy() -> None:
    """Somebody reads the code in a cron mail and looks here."""
    assert [row[0].strip("`") for row in _rows("## Errors and remedies")] == list(get_args(errors.FailureKind))


def test_exit_statuses_are_those_of_the_errors() -> None:
    """Schedulers act on these numbers."""
    documented = {int(n) for row in _rows("## Exit status") for n in row[0].split(", ")}
    stops = {errors.JobError.exit_status, errors.StoppedEarly.exit_status, errors.LockedError.exit_status}
    assert documented == {0, 1, 70, 129, 130, 143} | stops
    assert stops == {2, 3, 4}


def test_files_and_fields_are_those_that_are_written() -> None:
    """Whoever parses the output goes by these tables."""
    names = {row[0].strip("`") for row in _rows("A run's directory holds")}
    assert names == {*rundir.LINE_FILES, rundir.MANIFEST}
    fields = {key.strip("` ") for row in _rows("Each line:") for key in row[0].split(", ")}
    assert fields == {"schema", "key", "line", "id", "input", *Outcome.model_fields}


def test_every_check_is_named_with_its_level() -> None:
    """A check that nobody can look up is noise."""
    rows = _rows("## Checks")
    named = {name.strip("`"): row[1] for row in rows for name in row[0].split(", ")}
    assert named == {name: level for name, (level, _) in VERDICTS.items()}


def test_layers_and_modules_are_those_of_the_package() -> None:
    """The picture that newcomers learn must be the one that is enforced."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    picture = README.partition("(checked):")[2].split("```")[1]
    drawn = [[name.strip() for name in layer.split("|")] for layer in picture.split(">")]
    assert drawn == [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    modules = {path.stem for path in (ROOT / "s2a_batch").glob("[a-z]*.py")}
    modules |= {path.parent.name for path in (ROOT / "s2a_batch").glob("*/__init__.py")}
    table = README.partition("| module | role |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == modules


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda p: p.stem)
def test_every_job_file_loads(path: Path) -> None:
    """A sample that does not load teaches distrust."""
    job = jobfile.load(path)
    inputs.check(job.input)
    assert job.output.parent == ROOT / "runs"


def _shown(part: object, whole: object) -> bool:
    """Whether an abridged value has the shape of the true one: fields left out, texts and numbers of their own."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return bool(part) and all(name in whole and _shown(value, whole[name]) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(_shown, part, whole))
    return isinstance(part, type(whole))


def test_the_candy_example_comes_out_as_written(tmp_path: Path) -> None:
    """The first screen is a promise: this line in, this rewrite, this typed answer."""
    given, rewrite, result = (json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", README, re.DOTALL)[:3])
    assert "Max" not in json.dumps(rewrite)
    (tmp_path / "in.jsonl").write_text(json.dumps(given) + "\n")
    plan: Plan = {"script": {"Max has 1000": {"rewrite": rewrite, "answer": result["answer"]}}, "keep_bodies": True}
    with Upstream(plan) as upstream:
        command = ["run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", upstream.base_url, "--answer", "int"]
        subprocess.run([sys.executable, "-m", "s2a_batch", *command], cwd=tmp_path, check=True, capture_output=True)
        sent = upstream.requests()
    line = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert line["answer"] == result["answer"] == {"answer": 25}
    assert (line["id"], line["status"], line["input"]) == ("candy", "answered", given)
    assert {name: line["rewrite"][name] for name in rewrite} == rewrite
    assert _shown(result, line)
    for stage, request in zip(("rewrite", "answer"), sent, strict=True):
        audit = line["stages"][stage]
        assert audit["messages"] == request["body"]["messages"]
        assert audit["usage"]["input_tokens"] > 0
        assert audit["usage"] == audit["attempts"][0]["usage"]
    assert "Max" not in json.dumps(line["stages"]["answer"]["messages"])


def test_options_that_the_readme_names_exist() -> None:
    """A command that is copied from here must run."""
    shown = ""
    commands = ("run", "show", "verify", "estimate", "export", "compare", "report", "view", "status", "tune", "prune")
    for command in (*commands, "init", "schema", "check", "schedule"):
        done = subprocess.run(
            [sys.executable, "-m", "s2a_batch", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        )
        shown += done.stdout
    named = set(re.findall(r"(?<=[ `])--[a-z][a-z-]+", README)) - {"--port", "--max-num-seqs"}
    assert named <= set(re.findall(r"--[a-z][a-z-]+", shown))
