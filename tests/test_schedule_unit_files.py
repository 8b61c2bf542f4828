"""The files of units: no two jobs share one, and each says what the job file says, whatever signs that holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2a_batch.cron import parse
from s2a_batch.errors import JobError
from s2a_batch.job import Job
from s2a_batch.schedule import kubernetes, units
from s2a_batch.schedule.times import Times
from tests.processes import run

yaml = pytest.importorskip("yaml")

HEAD = 'input = "in.jsonl"\noutput = "out"\nmodel = "m"\n'
FORMS: tuple[units.Form, ...] = ("systemd", "cron", "kubernetes")
ANALYZE = shutil.which("systemd-analyze") or ""


def write(path: Path, cron: str = "30 4 * * *", more: str = "") -> Path:
    """A scheduled job."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{HEAD}{more}[schedule]\ncron = "{cron}"\ntimezone = "Europe/Berlin"\n')
    return path


@pytest.mark.parametrize("form", FORMS)
def test_the_units_of_another_job_are_not_replaced(tmp_path: Path, form: str) -> None:
    """Two regions with a `nightly.toml` each: the second would silently take the first one's nights, key and volume."""
    write(tmp_path / "eu" / "nightly.toml")
    write(tmp_path / "us" / "nightly.toml", "30 9 * * *")
    command = ("schedule", "--print", form, "-o", "units")
    first = run(tmp_path, *command, "eu/nightly.toml")
    assert first.status == 0, first.err
    assert run(tmp_path, *command, "eu/nightly.toml").status == 0, "the same again"
    before = {path: path.read_bytes() for path in (tmp_path / "units").iterdir()}
    done = run(tmp_path, *command, "us/nightly.toml")
    assert (done.status, done.out) == (2, "")
    assert "--force" in done.err
    assert {path: path.read_bytes() for path in (tmp_path / "units").iterdir()} == before
    write(tmp_path / "us" / "nightly.toml", "30 9 * * *", 'name = "us-nightly"\n')
    named = run(tmp_path, *command, "us/nightly.toml")
    assert named.status == 0, named.err
    assert "s2a-batch-us-nightly." in named.out
    write(tmp_path / "eu" / "nightly.toml", "31 4 * * *")
    assert run(tmp_path, *command, "eu/nightly.toml", "--force").out == first.out


@given(
    st.lists(
        st.sampled_from(
            ["\u4e00", "\u591c", "\u043d\u043e\u0447\u044c", "n\xe4chtlich", "n\xfcchtlich", "x" * 50, "x" * 51, "a"]
        ),
        unique=True,
    )
)
def test_names_without_latin_letters_and_long_ones_stay_apart(names: list[str]) -> None:
    """`s2a-batch-job` for each of them would be one unit for all."""
    made = {units.called(name) for name in names}
    assert len(made) == len(names)
    assert all(re.fullmatch(r"s2a-batch-[a-z0-9]([a-z0-9-]{,38}[a-z0-9])?", name) for name in made)


@given(st.lists(st.text(), max_size=4).map("\n".join))
@example("  # indented\nx")
@example("\n\n   # indented\n # less\n     ")
@example("\t\U0001f600 \u2028 \ufeff")
@example("")
def test_a_config_map_holds_the_job_file_as_it_is(text: str) -> None:
    """A prompt with a tab and a smiling face, or a first line that is indented, made a file that no cluster takes."""
    job = Job.model_validate({"input": "i", "output": "o", "schedule": {"cron": "@daily"}})
    here = Path("/srv")
    unit = units.Unit("u", job, parse("@daily"), here / "n\xe4cht lich.toml", here, here, here / "python", text)
    (found,) = next(yaml.safe_load_all(kubernetes.files(unit)["u.yaml"]))["data"].items()
    assert re.fullmatch(r"[-._a-zA-Z0-9]+", found[0])
    assert found[1].rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    ("folder", "root"),
    [("back\\", None), ("space ", None), ("plain", '/srv/a"b'), ("plain", "/srv/it's"), ("plain", "/srv/a\\b")],
)
def test_a_path_that_systemd_misreads_is_refused(tmp_path: Path, folder: str, root: str | None) -> None:
    """The unit would be refused, or run elsewhere, and the one who wrote it had exit status 0."""
    job = write(tmp_path / folder / "job.toml")
    more = () if root is None else ("--root", root)
    done = run(job.parent, "schedule", "--print", "systemd", job.name, *more)
    assert (done.status, done.out) == (2, "")
    assert "systemd" in done.err
    assert run(job.parent, "schedule", "--print", "cron", job.name, *more).status == 0


@pytest.mark.skipif(not ANALYZE, reason="no systemd-analyze here")
@pytest.mark.parametrize(("cron", "told"), [("*/15 * * * *", True), ("30 2 * * *", False), ("*/15 9 * * *", False)])
def test_the_hour_that_comes_twice_and_that_systemd_skips_is_said(tmp_path: Path, cron: str, told: bool) -> None:
    """Four runs are missing that night; systemd's own reckoning is the judge of what is said."""
    done = run(tmp_path, "schedule", "--print", "systemd", write(tmp_path / "job.toml", cron).name)
    assert ("twice, and systemd" in done.out) == told
    (calendar,) = re.findall(r"^OnCalendar=(.*)$", done.out, re.MULTILINE)
    since, end = datetime(2026, 10, 24, 22, 59, tzinfo=UTC), datetime(2026, 10, 25, 3, tzinfo=UTC)
    command = [ANALYZE, "calendar", "--iterations=30", f"--base-time={since:%F %T} UTC", calendar]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "LC_ALL": "C"})
    stamps = re.findall(r"(?:Next elapse|Iter\. #\d+|\(in UTC\)): \w+ (\S+ \S+) UTC", shown.stdout)
    theirs = {found for stamp in stamps if (found := datetime.fromisoformat(stamp).replace(tzinfo=UTC)) < end}
    ours, moment = set[datetime](), since
    while (moment := Times(cron, ZoneInfo("Europe/Berlin")).after(moment)) < end:
        ours.add(moment)
    second = datetime(2026, 10, 25, 1, tzinfo=UTC)
    assert ours - theirs == ({second + timedelta(minutes=n) for n in (0, 15, 30, 45)} if told else set())


def test_a_path_with_a_colon_is_refused_for_kubernetes(tmp_path: Path) -> None:
    """It mounts nothing there."""
    job = write(tmp_path / "a:b" / "job.toml")
    with pytest.raises(JobError, match="colon"):
        units.files("kubernetes", job, None, None)
