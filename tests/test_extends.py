"""Job files that extend others: what wins, whose folder a path is relative to, and where a fault stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch import jobfile
from s2a_batch.errors import JobError
from s2a_batch.jobfile.jobfaults import Layer

if TYPE_CHECKING:
    from pydantic import JsonValue

LEAST = 'input = "in.jsonl"\noutput = "out"\n'


def written(folder: Path, **texts: str) -> Path:
    """Job files `NAME.toml` in a folder; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / f"{next(iter(texts))}.toml"


def refusal(path: Path) -> str:
    """What is said about a job, without the folder's name."""
    with pytest.raises(JobError) as caught:
        jobfile.load(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_a_file_wins_over_its_base_key_by_key(tmp_path: Path) -> None:
    """A team shares endpoint and limits; a job says what it alone has, and loses nothing of the rest."""
    base = 'model = "m"\n[rewrite]\nseed = 1\ntop_p = 0.5\n[limits]\nopen_requests = 4\nrequests_per_minute = 60'
    own = f'extends = "base.toml"\n{LEAST}[rewrite]\nseed = 2\n[limits]\nopen_requests = 9'
    made = jobfile.load(written(tmp_path, job=own, base=base))
    assert (made.model, made.rewrite.seed, made.rewrite.top_p) == ("m", 2, 0.5)
    assert (made.limits.open_requests, made.limits.requests_per_minute) == (9, 60)


def test_of_several_bases_the_later_wins_and_options_win_over_all(tmp_path: Path) -> None:
    """One order for everything: the more special comes last."""
    texts = {"a": 'model = "a"\nrewrite.seed = 1\nanswer.seed = 1', "b": 'extends = "c.toml"\nrewrite.seed = 2'}
    path = written(tmp_path, job=f'extends = ["a.toml", "b.toml"]\n{LEAST}', c='model = "c"\nrewrite.seed = 3', **texts)
    made = jobfile.load(path)
    assert (made.model, made.rewrite.seed, made.answer.seed) == ("c", 2, 1)
    assert jobfile.load(path, {"model": "n"}, ["rewrite.seed=9"]).rewrite.seed == 9


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    """A key's file beside the shared settings is found from every job that extends them."""
    shared = 'model = "m.gguf"\napi_key_file = "key"\n[answer]\nmodel = "a"\nschema_file = "s.json"'
    written(tmp_path / "shared", base=shared)
    made = jobfile.load(written(tmp_path / "jobs", job=f'extends = "../shared/base.toml"\n{LEAST}'))
    assert made.input == (str(tmp_path / "jobs" / "in.jsonl"),)
    assert made.model == str(tmp_path / "shared" / "m.gguf")
    assert (made.api_key_file, made.answer.schema_file) == (
        tmp_path / "shared" / "key",
        tmp_path / "shared" / "s.json",
    )


def test_paths_of_arms_and_of_the_judge_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    """A shared file that says who judges must not look for its key wherever cron happens to stand."""
    shared = """
        [compare]
        arms = ["s2a", "x"]
        score = "judge"
        judge = {model = "j.gguf", api_key_file = "~/key", schema_file = ""}
        [compare.variants.x]
        model = "x.gguf"
        api_key_file = "key"
        rewrite = {model = "r.gguf"}
        answer = {schema_file = "s.json"}
        hooks = {on_failure = {command = ["./tell"]}}
        """
    written(tmp_path / "shared", base=shared)
    found = jobfile.load(written(tmp_path / "jobs", job=f'extends = "../shared/base.toml"\n{LEAST}')).compare
    there = tmp_path / "shared"
    assert found.judge == {
        "model": str(there / "j.gguf"),
        "api_key_file": str(Path("~/key").expanduser()),
        "schema_file": "",
    }
    assert found.variants["x"] == {
        "model": str(there / "x.gguf"),
        "api_key_file": str(there / "key"),
        "rewrite": {"model": str(there / "r.gguf")},
        "answer": {"schema_file": str(there / "s.json")},
        "hooks": {"on_failure": {"command": [str(there / "tell")]}},
    }


@pytest.mark.parametrize("text", ["compare = 1", "compare.variants = 1", "compare.variants.x = 1", "compare.judge = 1"])
def test_what_is_no_table_of_a_comparison_is_a_fault_with_its_line(tmp_path: Path, text: str) -> None:
    """Whoever looks for paths in it must not fall over it first."""
    assert refusal(written(tmp_path, job=f'{LEAST}model = "m"\n{text}')).startswith("job.toml:4: compare")


def test_a_fault_is_told_where_it_stands(tmp_path: Path) -> None:
    """A typo in the shared file must not send anybody to the job file, nor the other way."""
    base = '# shared\nmodel = "m"\n[rewrite]\npreset = "relevanse"\n[retry]\nattemptz = 1'
    path = written(tmp_path, job=f'extends = "base.toml"\n{LEAST}[answer]\ntypee = "int"\n', base=base)
    assert refusal(path).splitlines() == [
        "job.toml:5: answer.typee: no such key; did you mean 'type'?",
        "base.toml:4: rewrite.preset: expected 'unbiased', 'relevance' or 'question'; did you mean 'relevance'?",
        "base.toml:6: retry.attemptz: no such key; did you mean 'attempts'?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('arms = ["s2b"]', "job.toml:7: compare.arms: there is no arm 's2b'; did you mean 's2a'?"),
        ('arms = ["s2a", "S2A"]', "job.toml:7: compare.arms: there is no arm 'S2A'"),
        ('judge = {model = "j"}', "job.toml:7: compare.judge: goes with score = 'judge'"),
        ("[compare.variants.z]\nonly = 1", "job.toml:8: compare.variants.z.only: is the same for all arms"),
        ('[compare.variants."z?"]\nseed = 1', "job.toml:7: compare.variants.z?: 'z?' is no name of an arm"),
    ],
)
def test_a_fault_of_a_comparison_is_told_where_it_stands(tmp_path: Path, text: str, said: str) -> None:
    """The heading of the table may be far away, and in another file."""
    path = written(tmp_path, job=f'{LEAST}model = "m"\n[compare.variants.x]\nmodel = "n"\n[compare]\n{text}')
    assert refusal(path).startswith(said)


def test_a_fault_of_two_files_together_is_told_of_the_higher_one(tmp_path: Path) -> None:
    """The shared file was right before this job came."""
    path = written(
        tmp_path, job=f'extends = "base.toml"\n{LEAST}\nonly = "rewrite"', base='model = "m"\narm = "baseline"'
    )
    assert refusal(path).startswith("job.toml:5: only: only = 'rewrite' and arm = 'baseline' exclude each other")


@pytest.mark.parametrize(
    ("base", "own", "place", "value"),
    [
        ('api_key_env = "A"', 'api_key_file = "f"', ("api_key_env",), None),
        ("[answer]\nmax_tokens = 1", "[answer]\nmax_completion_tokens = 2", ("answer", "max_tokens"), None),
        ('[answer]\ntype = "choice"\nchoices = ["a"]', '[answer]\ntype = "int"', ("answer", "choices"), ()),
        ('[answer]\ntype = "int"', '[answer]\nclass = "a:B"', ("answer", "type"), "text"),
        ('[answer]\ntype = "choice"\nchoices = ["a"]', '[answer]\nchoices = ["b"]', ("answer", "choices"), ("b",)),
        (
            "[answer]\nextra_body = {type = 1}",
            "[answer]\nextra_body = {class = 2}",
            ("answer", "extra_body", "type"),
            1,
        ),
        (
            '[hooks.on_failure]\ncommand = ["a"]',
            '[hooks.on_failure]\nurl_env = "U"',
            ("hooks", "on_failure", "command"),
            (),
        ),
        (
            '[hooks.on_failure]\nurl = "https://h/x"\nheaders_env = {authorization = "A"}',
            '[hooks.on_failure]\ncommand = ["a"]',
            ("hooks", "on_failure", "headers_env"),
            {},
        ),
        (
            '[hooks.on_failure]\nurl = "https://h/x"\nheaders_env = {authorization = "A"}',
            '[hooks.on_failure]\nurl_env = "U"',
            ("hooks", "on_failure", "headers_env"),
            {"authorization": "A"},
        ),
    ],
)
def test_what_a_file_says_in_another_way_replaces_what_its_base_says(
    tmp_path: Path, base: str, own: str, place: tuple[str, ...], value: object
) -> None:
    """TOML cannot unset a key: without this a base that names a key's variable would forbid every key's file."""
    path = written(tmp_path, job=f'extends = "base.toml"\nmodel = "m"\n{LEAST}{own}', base=base)
    found: Any = jobfile.load(path).model_dump(by_alias=True)
    for name in place:
        found = found[name]
    assert found == value


def test_both_ways_in_one_file_stay_a_fault(tmp_path: Path) -> None:
    """Which of the two was meant nobody can know."""
    path = written(tmp_path, job=f'{LEAST}model = "m"\napi_key_env = "A"\napi_key_file = "f"')
    assert "give api_key_env or api_key_file, not both" in refusal(path)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"job": '# x\nextends = "no.toml"\n'}, "job.toml:2: extends: no.toml: cannot be read: No such file"),
        ({"job": 'extends = "b.toml"', "b": '\nextends = "no.toml"'}, "b.toml:2: extends: no.toml: cannot be read"),
        ({"job": 'extends = "."'}, "cannot be read: Is a directory"),
        ({"job": 'extends = "job.toml"'}, "job.toml:1: extends: these files extend each other: job.toml -> job.toml"),
        (
            {"job": 'extends = "b.toml"', "b": '\nextends = "./x/../c.toml"', "c": 'extends = ["b.toml"]'},
            "c.toml:1: extends: these files extend each other: job.toml -> b.toml -> c.toml -> b.toml",
        ),
        ({"job": "extends = 5"}, "job.toml:1: extends: expected the path of a job file, or a list of them"),
        ({"job": 'extends = ["a.toml", 5]', "a": ""}, "job.toml:1: extends: expected the path of a job file"),
        ({"job": 'extends = ""'}, "job.toml:1: extends: expected the path of a job file"),
        ({"job": 'extends = "b.toml"', "b": "x = 1 1"}, "b.toml:1: not TOML: "),
        (
            {"job": 'extends = "b0.toml"', **{f"b{n}": f'extends = "b{n + 1}.toml"' for n in range(30)}},
            "b9.toml:1: extends: more than 10 files deep: job.toml -> b0.toml",
        ),
        ({"job": f"extends = {['b.toml'] * 200}", "b": ""}, "job.toml:1: extends: more than 100 files in all"),
    ],
)
def test_a_base_that_is_of_no_use_is_told_with_the_line_that_names_it(
    tmp_path: Path, texts: dict[str, str], said: str
) -> None:
    """A moved file at three in the morning: which one, and who asks for it."""
    assert said in refusal(written(tmp_path, **texts))


def test_ten_files_deep_and_the_same_base_twice_are_fine(tmp_path: Path) -> None:
    """A limit against mistakes must not meet anybody who makes none."""
    chain = {f"b{n}": f'extends = "b{n + 1}.toml"' for n in range(9)}
    texts = {"job": f'extends = ["b0.toml", "b9.toml"]\n{LEAST}', **chain, "b9": 'model = "deep"'}
    assert jobfile.load(written(tmp_path, **texts)).model == "deep"


def test_extends_stands_in_a_file_alone(tmp_path: Path) -> None:
    """An option that names a base would be ignored in silence, or win over what it should lie under."""
    path = written(tmp_path, job=f'{LEAST}model = "m"')
    with pytest.raises(JobError, match=r"--set extends: extends: stands in a job file"):
        jobfile.load(path, None, ["extends=base.toml"])


VALUES = st.dictionaries(st.sampled_from("ab"), st.integers() | st.lists(st.integers()))
TABLES = st.recursive(
    VALUES,
    lambda inner: st.builds(
        lambda values, tables: values | tables, VALUES, st.dictionaries(st.sampled_from("XY"), inner)
    ),
    max_leaves=8,
)


@given(st.lists(TABLES, min_size=2, max_size=4))
def test_merging_is_the_same_in_whatever_groups_it_is_done(tables: list[dict[str, JsonValue]]) -> None:
    """A base of a base is as good as two bases: chains and lists must not differ."""
    left: dict[str, JsonValue] = {}
    for table in tables:
        left = jobfile.merge(left, table)
    right: dict[str, JsonValue] = {}
    for table in reversed(tables):
        right = jobfile.merge(table, right)
    assert left == right


def test_layers_of_nothing_are_asked_for_an_input() -> None:
    """A fault that stands nowhere has an origin too."""
    with pytest.raises(JobError, match=r"here: no input; give input"):
        jobfile.job_of([Layer("here", {})])
