"""The gate: linters, types, layers, dead code, dependencies, spelling; and the promises about the code's own shape."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "s2a_batch").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
BIN = Path(sys.executable).parent
HOMES = {
    "openai": {"client", "asker"},
    "httpx2": {"transport"},
    "aiohttp": {"transport"},
    "truststore": {"transport"},
    "instructor": {"asker"},
    "tenacity": {"retry"},
    "aiofiles": {"inputs", "sink"},
    "fsspec": {"stores"},
    "zstandard": {"unzstd"},
    "genai_prices": {"prices"},
    "rapidfuzz": {"compared"},
    "jsonschema_rs": {"answers"},
    "rich": {"display", "progress"},
    "typer": {"cli", "options", "results", "jobs", "operate", "timing"},
    "platformdirs": {"model_file", "memory"},
    "apscheduler": {"times"},
    "xllamacpp": {"embedded"},
    "pyarrow": {"parquet"},
    "starlette": {"viewsite"},
    "uvicorn": {"viewsite"},
    "prometheus_client": {"metrics", "exposition"},
    "opentelemetry": {"traces", "histograms"},
}


@pytest.mark.parametrize(
    "command",
    [
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint-imports",
        "vulture",
        "deptry .",
        "codespell",
    ],
)
def test_the_gate_passes(command: str) -> None:
    """A finding of any of these tools is a defect that a person would have to find later."""
    tool, *arguments = command.split()
    done = subprocess.run(
        [str(BIN / tool), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: p.stem)
def test_a_module_says_what_it_is_and_fits_in_a_head(path: Path) -> None:
    """Whoever opens a module reads its role first and its end soon after."""
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert len(text.splitlines()) <= 300


def test_functions_are_short() -> None:
    """Long functions hide two ideas: none over 50 lines, half of them under 13."""
    lengths = {
        f"{path.stem}.{node.name}": _body_lines(node)
        for path in PACKAGE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: n for name, n in lengths.items() if n > 50}
    assert median(lengths.values()) < 13


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: p.stem)
def test_each_third_party_package_has_its_home(path: Path) -> None:
    """A library that is imported in one place can be replaced in one place."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    name = path.parent.name if path.stem == "__init__" else path.stem
    strangers = {package for package in imported & HOMES.keys() if name not in HOMES[package]}
    assert not strangers


def test_every_test_says_why_it_matters() -> None:
    """A test without a reason is deleted by the first person whom it annoys."""
    silent = [
        f"{path.name}:{node.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        *([command, "--help"] for command in ("run", "estimate", "compare", "export", "report", "view", "prune")),
        *([command, "--help"] for command in ("init", "schema", "check", "schedule", "tune")),
    ],
)
def test_help_loads_no_sdk(arguments: list[str]) -> None:
    """The SDKs cost a second; whoever asks for help shall not wait for them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "s2a_batch", *arguments], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in loaded, "the measure itself"
    assert not loaded & {
        "openai",
        "instructor",
        "httpx2",
        "aiohttp",
        "s2a_batch.worker",
        "s2a_batch.job",
        "genai_prices",
        "pyarrow",
        "starlette",
        "prometheus_client",
        "opentelemetry",
        "apscheduler",
    }


def test_importing_the_package_loads_nothing_else() -> None:
    """A library that is imported for its version must not bring a second of imports."""
    code = "import sys, s2a_batch; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"s2a_batch", *HOMES, "anyio", "pydantic"} == {"s2a_batch"}
