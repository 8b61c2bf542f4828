"""A run over objects in a store, killed twice: ``python -m tests.bench.objects``.

Rows in two gzip objects of a real S3 server on loopback; the program is a real child process that is killed with
SIGKILL while it asks, and run again until it ends. Says what came of it, and exits 1 unless every row was answered
once, `verify` holds and nothing that was written was asked again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.session import Session
from moto.server import ThreadedMotoServer

from s2a_batch.keys import line_hash
from s2a_batch.rundir import RESULTS, REWRITES
from tests.processes import run, running
from tests.server import Upstream

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKET = "bucket"
KILLS = 2


def put(endpoint: str, rows: Sequence[bytes]) -> None:
    """The rows in two objects."""
    client = Session().create_client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    half = len(rows) // 2
    for name, part in (("a", rows[:half]), ("b", rows[half:])):
        client.put_object(Bucket=BUCKET, Key=f"day/{name}.jsonl.gz", Body=gzip.compress(b"".join(part)))


def keys_in(path: Path) -> list[str]:
    """Of all whole lines of a run's file."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["key"] for line in lines]


def killed(folder: Path, argv: Sequence[str], up: Upstream, rows: int) -> list[str]:
    """Kill it twice while it asks; a line of what was written by then for each."""
    told = []
    for number in range(1, KILLS + 1):
        with running(folder, *argv, environ=dict(os.environ)) as program:
            up.wait_until(lambda stats, end=2 * rows * number // (KILLS + 1): stats.requests >= end, 300)  # type: ignore[misc]
            program.kill()
        up.wait_until(lambda stats: stats.in_flight == 0)
        told.append(f"kill {number}: {len(keys_in(folder / 'out' / RESULTS))} results written")
    return told


def faults(folder: Path, rows: Sequence[bytes], up: Upstream, left: int, rewrites: int) -> list[str]:
    """What is not as it must be."""
    found, wanted = keys_in(folder / "out" / RESULTS), [line_hash(row.strip()).hex() for row in rows]
    stages = up.stats().by_stage
    proof = run(folder, "verify", "out", environ=dict(os.environ), within_s=300)
    checks = {
        f"{len(rows)} rows and {len(found)} results": sorted(found) == sorted(wanted),
        f"{stages['answer']} answers asked where {left} were left": stages["answer"] == left,
        f"{stages['rewrite']} rewrites asked where {rewrites} were left": stages["rewrite"] == rewrites,
        f"verify: {proof.out}{proof.err}": proof.status == 0,
    }
    return [said for said, holds in checks.items() if not holds]


def main() -> int:
    """Run it and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    count = parser.parse_args().rows
    rows = [b'{"id":%d,"prompt":"Is [[r-%d]] right? I think it is."}\n' % (n, n) for n in range(count)]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with tempfile.TemporaryDirectory() as name, Upstream({"latency_s": 0.01}, seconds=1_200) as up:
        put(endpoint, rows)
        folder = Path(name) / "work"
        folder.mkdir()
        usual = ("--model", "m", "--base-url", up.base_url, "--open-requests", "64")
        argv = ("run", f"s3://{BUCKET}/day/*.jsonl.gz", "-o", "out", *usual)
        began = time.monotonic()
        told = killed(folder, argv, up, count)
        done, rewritten = keys_in(folder / "out" / RESULTS), keys_in(folder / "out" / REWRITES)
        up.reset_stats()
        last = run(folder, *argv, environ=dict(os.environ), within_s=600)
        wrong = faults(folder, rows, up, count - len(done), count - len({*done, *rewritten}))
        wrong += [] if last.status == 0 else [f"exit {last.status}: {last.err}"]
        print("\n".join([*told, last.err.splitlines()[-4], f"{time.monotonic() - began:.1f} s in all"]))
        print("\n".join(wrong) or "exact: every row was answered once, and nothing that was written was asked again")
    server.stop()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
