"""The command line: what it composes, prints and logs, its multiruns, and mistakes refused before anything is written.

How a command ends is in test_ending.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from job_script import run_job

from pipeline.config.compose import composed, keep_log, quoted
from pipeline.core.errors import ResourceError


def test_console_shows_our_lines_and_the_log_holds_all(tmp_path: Path) -> None:
    done = run_job(tmp_path, "outputs_dir=here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "job unnamed\ndone\n", "")
    (folder,) = (tmp_path / "here" / "logs").iterdir()  # a relative outputs_dir is the caller's
    assert folder.name.endswith("-job")
    log = (folder / "job.log").read_text()
    for line in (
        "INFO pipeline.job: job unnamed", "noisy.library: a library's line", "a library's warning", "outputs_dir"
    ):  # fmt: skip
        assert line in log
    assert {path.name for path in tmp_path.iterdir()} == {"job.py", "here"}


def test_hydras_own_flags_work(tmp_path: Path) -> None:
    assert "== Configuration groups ==" in run_job(tmp_path, "--help").stdout
    shown = run_job(tmp_path, "experiment=smoke", "--cfg", "job")
    assert shown.returncode == 0 and "max_steps: 60" in shown.stdout and shown.stderr == ""


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["training.batch_sze=3"], "error: training.batch_sze must be a key of the configuration, "),
        (["model=nope"], "error: model must be one of bert_tiny, "),
        (["=5"], "error: an argument must read key=value, got '=5'. Name the key "),
        (["seed=many"], "error: seed must be a whole number, got 'many'. "),
        (["-m", "seed=1,2", "model=nope"], "error: model must be one of bert_tiny, "),
    ],
    ids=["key", "option", "no key", "type", "multirun"],
)
def test_mistake_is_refused_before_anything_is_written(tmp_path: Path, arguments: list[str], start: str) -> None:
    done = run_job(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]


def test_interpolation_of_an_unknown_key_is_refused(tmp_path: Path) -> None:
    done = run_job(tmp_path, "data.path='${x}.jsonl'")
    assert done.returncode == 2
    assert done.stderr.startswith("error: a value with ${…} must name a key, got Interpolation key 'x' not found. ")
    assert done.stderr.count("\n") == 1
    assert run_job(tmp_path, "data.path='\\${x}.jsonl'").returncode == 0


@pytest.mark.parametrize("name", ["train", "mine", "evaluate", "card"])
def test_script_refuses_a_mistake_before_loading_torch(root: Path, tmp_path: Path, name: str) -> None:
    code = f"""
import runpy, sys
sys.argv = ["scripts/{name}.py", "training.batch_sze=1"]
try:
    runpy.run_path("scripts/{name}.py", run_name="__main__")
except SystemExit as left:
    assert left.code == 2, left.code
    assert "torch" not in sys.modules and "transformers" not in sys.modules
else:
    raise AssertionError("the mistake was not refused")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Did you mean training.batch_size?" in done.stderr


# Quotes


@pytest.mark.parametrize(
    "path",
    ["ünï中.jsonl", "a b.jsonl", "a=b.jsonl", "a#b.jsonl", "~/x.jsonl", "a&b;c.jsonl", "/x/y-z.csv"],
    ids=["unicode", "space", "equals sign", "number sign", "home", "ampersand", "absolute"],
)
def test_path_needs_no_quotes_of_its_own(path: str) -> None:
    assert composed(["data=local", f"data.path={path}"]).data.path == str(Path(path).expanduser())


@pytest.mark.parametrize(
    "word", ["seed=1,2", "training.eval_sets=[dev]", "x={a: 1}", "-m", "seed", "a='b c'", "seed=12"]
)
def test_word_with_syntax_of_hydras_is_left_as_typed(word: str) -> None:
    assert quoted(word) == word


def test_brackets_must_be_quoted_by_the_user(tmp_path: Path) -> None:
    done = run_job(tmp_path, "outputs_dir=a(1)")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: an argument must read key=value, got 'outputs_dir=a(1)'. Give the value its own quotes"
    )


# Credentials


@pytest.mark.parametrize(
    "words",
    [["name=good"], ["name=refused_path"], ["name=bug_with_path"], ["-m", "name=good,refused_path,bug_with_path"]],
    ids=["good", "refused", "bug", "multirun"],
)
def test_credentials_are_masked_in_logs(tmp_path: Path, words: list[str]) -> None:
    secret = ["note=hf_abcdefghijklmnop", "data=local", "data.path=https://user:pw@host/x.jsonl"]
    run_job(tmp_path, *words, *secret, "outputs_dir=here")
    files = [path for path in (tmp_path / "here" / "logs").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"job.log"} and len(files) == (3 if "-m" in words else 1)
    for path in files:
        log = path.read_text()
        assert "note=***" in log and "://***@host/x.jsonl" in log
        assert "hf_abc" not in log and "pw" not in log
        assert ("Traceback" in log) == ("name=good" not in log)


def test_refused_multirun_leaves_no_file_with_credentials(tmp_path: Path) -> None:
    (of_another := tmp_path / "here" / "logs" / "x-multirun" / "multirun.yaml").parent.mkdir(parents=True)
    of_another.write_text("seed: 1")
    done = run_job(tmp_path, "-m", "seed=abc,2", "note=hf_abcdefghijklmnop", "outputs_dir=here")
    assert done.returncode == 2 and "seed must be a whole number" in done.stderr
    assert of_another.is_file() and len(list(of_another.parents[1].iterdir())) == 2
    assert run_job(tmp_path, "-m", "seed=7,12", "note=hf_abcdefghijklmnop", "hydra.sweep.dir=own").returncode == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_abc" in path.read_bytes()]


# Multiruns


def test_failed_job_of_a_multirun_does_not_stop_the_others(tmp_path: Path) -> None:
    done = run_job(tmp_path, "-m", "name=first,refused,last", "outputs_dir=here")
    table = "name=first    done\nname=refused  failed with status 2\nname=last     done\n"
    assert done.stdout.endswith(f"\n\n{table}")
    assert done.returncode == 2
    started = [line for line in done.stdout.splitlines() if line.startswith("job ")]
    assert started == ["job first", "job refused", "job last"]
    first, second = done.stderr.splitlines()
    assert first.startswith("error: pairs.jsonl must hold rows, got none. Write some. (log: here/logs/")
    assert second == "error: 1 of 3 jobs failed."
    (folder,) = (tmp_path / "here" / "logs").iterdir()
    assert sorted(path.parent.name for path in folder.rglob("job.log")) == ["0", "1", "2"]


def test_job_of_a_multirun_sees_its_own_arguments(tmp_path: Path) -> None:
    done = run_job(tmp_path, "-m", "name=arguments_1,arguments_2", "outputs_dir=here")
    lines = [line for line in done.stdout.splitlines() if line.startswith("arguments")]
    assert lines == [f"arguments ['name=arguments_{number}', 'outputs_dir=here']" for number in (1, 2)]


def test_interrupted_job_ends_a_multirun(tmp_path: Path) -> None:
    done = run_job(tmp_path, "-m", "name=first,saved_and_interrupted,last")
    assert done.returncode == 75
    assert "job first" in done.stdout and "job last" not in done.stdout


# The outputs folder

ONE_OR_SEVERAL = pytest.mark.parametrize("words", [[], ["-m", "seed=7,8"]], ids=["one job", "multirun"])


@ONE_OR_SEVERAL
def test_outputs_dir_that_is_not_utf8_is_refused(tmp_path: Path, words: list[str]) -> None:
    done = run_job(tmp_path, *words, os.fsdecode(b"outputs_dir=caf\xe9"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "error: outputs_dir must be text in UTF-8, got 'caf\\udce9'. Use a folder with another "
    )
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]


def test_outputs_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_job(tmp_path, "outputs_dir=file")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [["outputs_dir="], ["outputs_dir=' '"], ["-m", "seed=7,8", "outputs_dir="]],
    ids=["empty", "blank", "multirun"],
)
def test_empty_outputs_dir_is_refused_not_resolved_to_slash(tmp_path: Path, words: list[str]) -> None:
    before = os.listdir("/")
    done = run_job(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: outputs_dir must be a folder, got '") and done.stderr.count("\n") == 1
    assert os.listdir("/") == before
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]


@ONE_OR_SEVERAL
def test_outputs_dir_that_is_a_dangling_link_is_refused(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "link").symlink_to("gone")
    done = run_job(tmp_path, *words, "outputs_dir=link")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "link must be usable, got a link to nothing (gone). Make the folder it links to, or pass " in done.stderr


def test_outputs_dir_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    done = run_job(tmp_path, "outputs_dir=/proc/x")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: /proc/x must be usable, got No such file or directory. Free space, ")
    with pytest.raises(ResourceError, match=r"^/proc/x must be usable, got No such file or directory\."):
        keep_log("/proc/x", "job")


@ONE_OR_SEVERAL
def test_tilde_in_outputs_dir_is_expanded(tmp_path: Path, words: list[str]) -> None:
    for folder in ("outputs_dir='~/here'", "outputs_dir=~/there"):
        assert run_job(tmp_path, *words, folder, HOME=str(tmp_path / "home")).returncode == 0
    for name in ("here", "there"):
        assert len(list((tmp_path / "home" / name / "logs").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"job.py", "home"}
