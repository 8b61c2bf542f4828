"""What `schedule --print` writes for other schedulers, judged by their own tools where this machine has them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from s2a_batch.cron import parse
from s2a_batch.errors import JobError
from s2a_batch.schedule import units
from s2a_batch.schedule.kubernetes import fields
from s2a_batch.schedule.systemd import calendars
from s2a_batch.schedule.times import Times
from tests.processes import ROOT, read_lines, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Plan, Upstream

RECORDS = 3
ODD = "50% \"odd\" $HOME 'n' \\x ö"
FORMS: tuple[units.Form, ...] = ("systemd", "cron", "kubernetes")
EXPRESSIONS = [
    "30 2 * * *",
    "*/20 1-5 1-7 * mon-fri",
    "0 0 13 * fri",
    "5 4 * * 7",
    "0 12 1-31 * 1",
    "0 0 */2 * *",
    "@monthly",
    "7,37 */6 * 2-11/3 *",
]
ANALYZE = shutil.which("systemd-analyze") or ""
needs_systemd = pytest.mark.skipif(not ANALYZE, reason="no systemd-analyze here")


def odd_job(folder: Path, *more: str, base_url: str = "http://127.0.0.1:9/v1") -> Path:
    """A job in a folder whose name holds all that a shell, cron, systemd or YAML might take for its own."""
    place = folder / ODD
    place.mkdir()
    (place / "in.jsonl").write_text((folder / "in.jsonl").read_text())
    path = place / "my job.toml"
    head = ['input = "in.jsonl"', 'output = "out"', 'model = "m"', f'base_url = "{base_url}"', "[schedule]"]
    path.write_text("\n".join([*head, 'cron = "30 2 * * *"', *more]))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_the_deployed_examples_are_what_the_command_prints(form: str, tmp_path: Path) -> None:
    """An example that was edited by hand goes stale, and is what people copy."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "jobs").symlink_to(ROOT / "jobs")
    where = ("--root", "/srv/s2a", "-o", tmp_path / "units")
    done = run(tmp_path / "copy", "schedule", "--print", form, "jobs/nightly.toml", *where)
    assert done.status == 0, done.err
    found = {path.name: path.read_text() for path in (tmp_path / "units").glob("s2a-batch-nightly.*")}
    assert found
    assert found == {name: (ROOT / "jobs" / "deploy" / name).read_text() for name in found}


@needs_systemd
def test_systemd_takes_the_units_as_they_are(folder: Path) -> None:
    """A unit that does not load is a night that does not happen; paths may hold whatever a path may hold."""
    job = odd_job(folder, "jitter_s = 60", "timeout_s = 90")
    done = run(job.parent, "schedule", "--print", "systemd", job.name, "-o", "units")
    assert done.status == 0, done.err
    found = [job.parent / line for line in done.out.splitlines()]
    (service,) = (path.read_text() for path in found if path.suffix == ".service")
    verified = subprocess.run([ANALYZE, "verify", *found], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    (line,) = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    words = [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]
    words = [words[0], *(word.replace("$$", "$") for word in words[1:])]
    assert words == [sys.executable, "-P", "-m", "s2a_batch", "run", str(job), "--quiet"]
    assert f"WorkingDirectory={str(job.parent).replace('%', '%%')}\n" in service
    assert "TimeoutStartSec=90\nTimeoutStopSec=45\n" in service


@needs_systemd
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_systemds_calendar_has_the_times_of_the_crontab_line(expression: str) -> None:
    """Two dialects for one time: the other program's own reckoning is the judge."""
    since, zone = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC), "Europe/Berlin"
    met: set[datetime] = set()
    for text in calendars(parse(expression), zone):
        command = [ANALYZE, "calendar", "--iterations=40", "--base-time=2026-06-01 12:00:30 UTC", text]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "LC_ALL": "C"})
        for stamp in re.findall(r"(?:Next elapse|Iter\. #\d+|\(in UTC\)): \w+ (\S+ \S+) UTC", done.stdout):
            met.add(datetime.fromisoformat(stamp).replace(tzinfo=UTC))
    times, found, moment = Times(expression, ZoneInfo(zone)), sorted(met)[:20], since
    assert len(found) == 20
    for elapse in found:
        assert elapse == (moment := times.after(moment))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_fields_of_a_cronjob_are_plain_numbers_of_the_same_times(expression: str) -> None:
    """Kubernetes reads `*/2` beside a weekday in its own way and knows no 7, so it gets neither."""
    given, made = parse(expression), parse(fields(parse(expression), Path("job.toml")))
    assert re.fullmatch(r"[\d,* ]+", " ".join(made.fields))
    assert "7" not in made.fields[4]
    since = datetime(2026, 6, 1, tzinfo=UTC)
    mine, other = (Times(" ".join(cron.fields), ZoneInfo("UTC")) for cron in (given, made))
    for _ in range(30):
        since = mine.after(since)
        assert other.after(since - timedelta(seconds=1)) == since


def test_a_time_that_kubernetes_cannot_say_is_refused(folder: Path) -> None:
    """A job that runs on other days than its file says is worse than none."""
    job = odd_job(folder)
    job.write_text(job.read_text().replace("30 2 * * *", "0 2 */2 * mon"))
    done = run(job.parent, "schedule", "--print", "kubernetes", job.name)
    assert (done.status, done.out) == (2, "")
    assert "day and weekday must both fit" in done.err


@pytest.mark.parametrize("image", [None, "mine:1"])
def test_the_cronjob_fits_the_schema_of_kubernetes(folder: Path, image: str | None) -> None:
    """What the cluster would refuse is refused here, unknown keys included."""
    job = odd_job(folder, "timeout_s = 90", 'misfire = "skip"')
    more = () if image is None else ("--image", image)
    done = run(job.parent, "schedule", "--print", "kubernetes", job.name, "-o", "units", *more)
    assert done.status == 0, done.err
    path = job.parent / done.out.strip()
    tool = Path(sys.executable).parent / "kubernetes-validate"
    for version in ("1.27", "1.33"):
        command = [str(tool), "--strict", "-k", version, str(path)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    text = path.read_text()
    assert ("to be set" in text) == (image is None)
    assert json.dumps(str(job.parent), ensure_ascii=False) in text


@pytest.mark.parametrize("address", ["http://me:pw@h/v1", "http://h/v1?api-key=abc"])
def test_no_password_goes_into_a_config_map(folder: Path, address: str) -> None:
    """Everybody who may look at a namespace reads its ConfigMaps."""
    job = odd_job(folder, base_url=address)
    done = run(job.parent, "schedule", "--print", "kubernetes", job.name)
    assert (done.status, done.out) == (2, "")
    assert "ConfigMap" in done.err
    for form in ("systemd", "cron"):
        assert not {"pw@", "abc"} & set(run(job.parent, "schedule", "--print", form, job.name).out.split())


@pytest.mark.parametrize("output", ["/elsewhere/out", "../out"])
def test_a_volume_holds_all_that_a_job_writes(folder: Path, output: str) -> None:
    """A result in the container's own file system is gone with it."""
    job = odd_job(folder)
    job.write_text(job.read_text().replace('output = "out"', f'output = "{output}"'))
    done = run(job.parent, "schedule", "--print", "kubernetes", job.name)
    assert done.status == 2
    assert f"output: {output}: lies outside" in done.err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('rewrites = "/old/run"', "rewrites: /old/run: lies outside"),
        ('api_key_file = "/etc/keys/a"', "api_key_file: /etc/keys/a: lies outside"),
        ('answer.schema_file = "../s.json"', "answer.schema_file: ../s.json: lies outside"),
        ('metrics.textfile = "/var/lib/m.prom"', "metrics.textfile: /var/lib/m.prom: lies outside"),
        ('answer.model = "/models/a.gguf"', "model: /models/a.gguf: lies outside"),
        ('hooks.on_failure.command = ["/opt/tell", "me"]', ""),
    ],
)
def test_a_volume_holds_all_that_a_job_reads(folder: Path, more: str, told: str) -> None:
    """A job that finds its key or schema on the desk where it was written, and nowhere else, fails in its first night.

    A hook's program may be of the image: that it must be there is said.
    """
    job = odd_job(folder)
    job.write_text(job.read_text().replace("[schedule]", f"{more}\n[schedule]"))
    done = run(job.parent, "schedule", "--print", "kubernetes", job.name)
    assert done.status == (2 if told else 0), done.err
    assert told in done.err
    assert ('# The image must hold "/opt/tell"' in done.out) == (not told)


def test_the_line_of_the_crontab_runs_the_job_with_next_to_no_environment(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """To a job cron gives no locale, no PATH and no home, reads % as a line end, and mails whatever is printed."""
    job = odd_job(folder, "jitter_s = 0.01", "timeout_s = 90", base_url=upstream({}).base_url)
    done = run(job.parent, "schedule", "--print", "cron", job.name)
    assert done.status == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("30 2 * * * "))
    assert not re.search(r"(?<!\\)%", line)
    command = line.removeprefix("30 2 * * * ").replace("\\%", "%")
    for name in ("queue.py", "random.py", "typer.py"):  # which Python would take for its own
        (job.parent / name).write_text("raise SystemExit('a module of the job')")
    environ = ["env", "-i", "LC_ALL=C", "PATH=/usr/local/bin:/usr/bin:/bin", "/bin/sh", "-c", command]
    ran = subprocess.run(environ, cwd="/", capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert len(read_lines(job.parent / "out" / "results.jsonl")) == RECORDS
    variables = dict(row.split("=", 1) for row in done.out.splitlines() if re.match(r"[A-Z_]+=", row))
    assert variables == {
        "SHELL": "/bin/sh",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "CRON_TZ": "UTC",
    }
    assert "timeout --kill-after=45 90 " + shlex.quote(sys.executable) in command


@pytest.mark.parametrize(
    ("zone", "told"), [("Europe/Berlin", True), ("UTC", False), ("Asia/Kolkata", False), ("America/New_York", True)]
)
def test_a_time_that_the_other_scheduler_leaves_out_in_spring_is_said(folder: Path, zone: str, told: bool) -> None:
    """Both systemd and Kubernetes run nothing at a time that does not come; who knows it can choose another."""
    job = odd_job(folder, f'timezone = "{zone}"')
    for form in ("systemd", "kubernetes"):
        done = run(job.parent, "schedule", "--print", form, job.name)
        assert ("leave out 02:30" in done.out) == told
        assert zone in done.out


def test_a_path_with_a_line_end_is_refused(tmp_path: Path) -> None:
    """It would begin a line of its own in every one of these files."""
    path = tmp_path / "a\nb.toml"
    path.write_text('input = "i"\noutput = "o"\n[schedule]\ncron = "@daily"\n')
    for form in FORMS:
        with pytest.raises(JobError, match="line end"):
            units.files(form, path, None, None)
