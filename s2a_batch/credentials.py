"""The keys and header values that a job names: looked up in the environment and in files, judged, never shown.

Invariants: no job holds a secret; what no HTTP header can carry is refused with the place it came from and not with its
value; a key goes to no endpoint that it was not named for.
"""

from __future__ import annotations

import base64
import re
import shutil
import stat
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from s2a_batch.errors import JobError
from s2a_batch.freeform import http_url
from s2a_batch.job import OPENAI_KEY, OPENAI_URL, is_embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from s2a_batch.job import Job
    from s2a_batch.operations import Hook
    from s2a_batch.records import StageName

_MOST_BYTES: Final = 16_384
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ASSIGNMENT: Final = re.compile(r"(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*[^=\s]")
_LIKE_A_KEY: Final = re.compile(r"(sk|gsk|xai|hf|pplx|nvapi|csk|fw|r8)[-_].{12,}|(?=.*\d)[A-Za-z0-9_-]{32,}")
_PUBLIC: Final = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a stage sends and nobody may print."""

    api_key: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)


def secrets_of(job: Job, name: StageName, environ: Mapping[str, str]) -> Secrets:
    """A stage's key and header values, from where the job says.

    `OPENAI_API_KEY` goes to OpenAI and to the job's own base URL, as with the SDK; an endpoint that a stage has to
    itself gets a key only when one is named for it.

    Raises:
        JobError: A named variable is not set, the key's file is of no use, or OpenAI is asked and there is no key.
    """
    stage = job.rewrite if name == "rewrite" else job.answer
    if stage.api_key_file is not None:
        key = _key_in(stage.api_key_file, f"{name}.api_key_file")
    else:
        usual = OPENAI_KEY if stage.base_url in (None, job.base_url) else None
        variable = stage.api_key_env or usual
        key = environ.get(variable, "").strip() if variable else ""
        if not key and (stage.api_key_env is not None or stage.base_url is None):
            raise JobError(
                f"{name}: the environment has no {variable}; hint: export {variable}=.., or name a file by "
                "api_key_file (a job file holds no keys)"
            )
        _check_value(name, str(variable), key)
    headers = headers_of(name, stage.headers_env, environ)
    if (stage.base_url or OPENAI_URL).startswith(OPENAI_URL):
        for variable in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):  # the SDK sends them there
            _check_value(name, variable, environ.get(variable, ""))
    # The SDK insists on a key; servers without keys ignore it.
    return Secrets(key or "none", headers)


def headers_of(place: str, headers_env: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The headers of a table `headers_env`, whose place in the job is told by what is wrong with them.

    Raises:
        JobError: A variable is not set, or a name or a value can be in no header.
    """
    missing = [variable for variable in headers_env.values() if not environ.get(variable)]
    if missing:
        raise JobError(f"{place}.headers_env: the environment has no {', '.join(missing)}")
    headers = {header: environ[variable].strip() for header, variable in headers_env.items()}
    for header, value in headers.items():
        _check_value(place, headers_env[header], value)
    if odd := [header for header in headers if not _HEADER.fullmatch(header)]:
        raise JobError(f"{place}.headers_env: {odd[0]!r} is no name of an HTTP header")
    return headers


def check_secrets(job: Job, environ: Mapping[str, str]) -> None:
    """Look up what every stage that runs will send; `JobError` names what is missing or of no use."""
    for name, stage in job.stages().items():
        if not is_embedded(stage):
            secrets_of(job, name, environ)


def hook_looks(job: Job, environ: Mapping[str, str]) -> dict[str, Callable[[], None]]:
    """What raises `JobError` for a hook that could not tell anybody anything, when nobody would be there to see."""
    hooks = {"hooks.on_success": job.hooks.on_success, "hooks.on_failure": job.hooks.on_failure}
    return {name: partial(_check_named, name, hook, environ) for name, hook in hooks.items() if hook is not None}


def _check_named(name: str, hook: Hook, environ: Mapping[str, str]) -> None:
    try:
        check_hook(hook, environ)
    except JobError as error:
        raise JobError(f"{name}: {error}") from None


def check_hook(hook: Hook, environ: Mapping[str, str]) -> None:
    """Raise `JobError` when it cannot be run, or its address or a header's value is missing or of no use."""
    if missing := [name for name in (hook.url_env, *hook.headers_env.values()) if name and not environ.get(name)]:
        raise JobError(f"the environment has no {', '.join(missing)}")
    for header, variable in hook.headers_env.items():
        _check_value(header, variable, environ[variable].strip())
        if not _HEADER.fullmatch(header):
            raise JobError(f"{header!r} is no name of an HTTP header")
    if hook.command:
        if any("\0" in word for word in hook.command) or not shutil.which(hook.command[0], path=environ.get("PATH")):
            raise JobError(f"{hook.command[0]!r}: no such command, or none that can be executed")
        return
    try:
        http_url(hook_address(hook, environ))
    except ValueError:
        raise JobError(f"the value of {hook.url_env} is no http(s) address") from None


def hook_address(hook: Hook, environ: Mapping[str, str]) -> str:
    """Where a webhook is."""
    return hook.url or environ[str(hook.url_env)].strip()


def login_header(netloc: str) -> dict[str, str]:
    """User and password of an address, as the header that stands for them."""
    login = netloc.rpartition("@")[0]
    coded = base64.b64encode(unquote(login).encode()).decode()
    return {"Authorization": f"Basic {coded}"} if login else {}


def warnings(job: Job) -> list[str]:
    """What is not as it should be with the places of the job's keys, one line each; nothing: all is well."""
    stages = job.stages().values()
    files = dict.fromkeys(stage.api_key_file for stage in stages if not is_embedded(stage))
    found = []
    for path in files:
        try:
            mode = None if path is None else path.expanduser().stat().st_mode
        except OSError:
            continue  # whoever looks up the key says so
        if mode is not None and mode & _PUBLIC:
            found.append(f"{path} holds a key and others may read it ({stat.filemode(mode)}); chmod 600 it")
    return found


def _key_in(path: Path, place: str) -> str:
    """The key in a file that holds one line and nothing else."""
    where = f"{place}: {_shown(path)}"
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait, and it can be read only once
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise JobError(f"{where} is {kind}; name the file that holds the key")
        with path.open("rb") as file:
            found = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no usable path"
        raise JobError(f"{where} cannot be read: {why}") from None
    key = found.strip()
    if not key:
        raise JobError(f"{where} is empty; it should hold the key")
    if len(found) > _MOST_BYTES or len(key.splitlines()) > 1:
        raise JobError(f"{where} has several lines; it should hold the key and nothing else")
    text = key.decode("ascii", "replace")
    _check_value(place, _shown(path), text)
    if _ASSIGNMENT.match(text):
        raise JobError(f"{where} reads like a line of a shell (NAME=..); it should hold the key and nothing else")
    return text


def _check_value(name: str, label: str, value: str) -> None:
    if not (value.isascii() and value.isprintable()):
        raise JobError(f"{name}: the value of {label} holds a character that no HTTP header can; was it pasted?")


def _shown(path: Path) -> str:
    """The path, but for a last part that looks like a key: people paste it where its file's name belongs."""
    return str(path.with_name("***")) if _LIKE_A_KEY.fullmatch(path.name) else str(path)
