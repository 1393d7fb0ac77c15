"""`make` as a user calls it: listed, dry-run, and with text that a shell or make would like to change."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TARGETS = [
    *["setup", "train", "quickstart", "bert-tiny", "modernbert-large", "mine", "evaluate", "card", "predict", "sweep"],
    *[
        "check",
        "reproduce",
        "verify",
        "rerun",
        "faults",
        "push",
        "smoke",
        "test",
        "test-slow",
        "lint",
        "format",
        "typecheck",
        "clean",
        "help",
    ],
    "benchmark",
    "profile",
]


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **environment}
    return subprocess.run(["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A folder with the Makefile and an environment that counts as set up, whose python prints its arguments."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    (tmp_path / "conf").mkdir()
    shutil.copy(root / "conf" / "constraints.txt", tmp_path / "conf")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '<%s>\\n' \"$@\"\n")
    python.chmod(0o755)
    stamp = re.search(r"touch (\.venv/\.complete-\d+)", make(tmp_path, "-n", "setup").stdout)
    assert stamp is not None
    (tmp_path / stamp.group(1)).touch()
    return tmp_path


def test_help_is_the_default_and_lists_every_target(root: Path) -> None:
    shown = make(root)
    assert shown.stdout == make(root, "help").stdout
    listed = re.findall(r"^  make ([a-z-]+) +\S", shown.stdout, re.M)
    assert sorted(listed) == sorted(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_runs_dry(root: Path, target: str) -> None:
    assert make(root, "-n", target).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        (["train"], "scripts/train.py experiment=quickstart"),
        (["train", "EXPERIMENT=gooaq_bert_tiny", "ARGS=seed=3 data.limit=9"],
         "scripts/train.py experiment=gooaq_bert_tiny seed=3 data.limit=9"),
        (["bert-tiny"], "scripts/train.py experiment=gooaq_bert_tiny"),
        (["modernbert-large"], "scripts/train.py experiment=gooaq_modernbert_large"),
        (["mine"], "scripts/mine.py experiment=quickstart"),
        (["sweep", "ARGS=seed=1,2"], "scripts/train.py -m experiment=quickstart seed=1,2"),
        (["smoke"], "scripts/train.py experiment=smoke"),
        (["smoke", "EXPERIMENT=gooaq_bert_tiny"], "scripts/train.py experiment=gooaq_bert_tiny size=tiny"),
        (["train", "ARGS=training.eval_sets=[v]"], "scripts/train.py experiment=quickstart training.eval_sets=[v]"),
        (["train", "ARGS='data.path=\"a b.jsonl\"'"], 'scripts/train.py experiment=quickstart data.path="a b.jsonl"'),
        (["test", "ARGS=-k x"], "-m pytest -n auto --dist loadfile -k x"),
        (["check", "EXPERIMENT=gooaq_bert_tiny"], "scripts/check.py experiment=gooaq_bert_tiny"),
        (["reproduce", "ARGS=run=x"], "scripts/reproduce.py experiment=quickstart run=x"),
        (["reproduce", "STAGE=first", "EXPERIMENT=gooaq_bert_tiny"],
         "scripts/reproduce.py experiment=gooaq_bert_tiny stage=first"),
        (["reproduce", "MODEL=a/b", "EXPERIMENT=gooaq_bert_tiny"],
         "scripts/reproduce.py experiment=gooaq_bert_tiny weights=a/b"),
        (["verify", "ARGS=run=x"], "scripts/verify.py run=x"),
        (["rerun", "ARGS=manifest=x"], "scripts/rerun.py manifest=x"),
        (["faults", "ARGS=kills=2 seed=1"], "scripts/faults.py kills=2 seed=1"),
        (["benchmark", "ARGS=case=mine"], "scripts/benchmark.py case=mine"),
        (["profile", "ARGS=steps=2"], "scripts/profiling.py experiment=quickstart steps=2"),
        (["push", "ARGS=run=x repo=a/b"], "scripts/push.py run=x repo=a/b"),
    ],
)  # fmt: skip
def test_what_a_target_runs(copy: Path, arguments: list[str], ran: str) -> None:
    (copy / "training.eval_sets=v").touch()  # what an unquoted pattern would turn into
    done = make(copy, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(">\n<", " ").strip("<>\n") == ran


@pytest.mark.parametrize(
    "text", ["it's", 'say "x"', "cost $5 $HOME", "$(shell touch pwned)", "`id` \\ # ; & é", "a  b"]
)
def test_question_and_passage_arrive_as_typed(copy: Path, text: str) -> None:
    for done in (make(copy, "predict", f"Q={text}", f"P=p: {text}"), make(copy, "predict", Q=text, P=f"p: {text}")):
        assert done.stdout == f"<scripts/predict.py>\n<q={text}>\n<p=p: {text}>\n", done.stderr
    assert not (copy / "pwned").exists()


def test_a_failing_command_fails_make_and_its_status_is_shown(copy: Path) -> None:
    (copy / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 75\n")
    done = make(copy, "train")
    assert done.returncode == 2
    assert "Error 75" in done.stderr


def test_a_key_outside_args_is_refused(copy: Path) -> None:
    done = make(copy, "train", "data.path=a $(shell touch made) $HOME b", "EXPERIMENT=smoke")
    assert done.returncode == 2 and done.stdout == "" and not (copy / "made").exists()
    assert (
        "data.path is not a variable of this Makefile (ARGS EXPERIMENT PYTHON TORCH_INDEX STAGE MODEL Q P)."
        in done.stderr
    )
    assert "Keys go into ARGS: ARGS=\"data.path='a $(shell touch made) $HOME b'\"" in done.stderr


def test_what_the_environment_or_an_outer_make_holds_is_let_be(copy: Path) -> None:
    assert make(copy, "train", data="local").returncode == 0
    (copy / "outer.mk").write_text("all:\n\t$(MAKE) -f Makefile train\n")
    assert make(copy, "-f", "outer.mk", "data=local", "-j2").returncode == 0


def test_a_changed_pin_asks_for_a_new_set_up(copy: Path) -> None:
    assert "pip install" not in make(copy, "-n", "train").stdout
    with (copy / "conf" / "constraints.txt").open("a") as stream:
        stream.write("one-more==1\n")
    assert "pip install" in make(copy, "-n", "train").stdout


def test_an_old_python_is_named_before_anything_is_made(copy: Path) -> None:
    shutil.rmtree(copy / ".venv")
    old = copy / "python2.7"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 2.7.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make(copy, "train", "PYTHON=./python2.7")
    assert done.returncode == 2
    assert "error: Python must be 3.11 or newer, got Python 2.7.18. " in done.stderr
    assert not (copy / ".venv").exists()


def test_clean_leaves_outputs_and_the_environment(copy: Path) -> None:
    for name in ("outputs/runs/x/__pycache__", "pipeline/__pycache__", ".mypy_cache", "scripts", "tests"):
        (copy / name).mkdir(parents=True)
    assert make(copy, "clean").returncode == 0
    assert (copy / "outputs/runs/x/__pycache__").is_dir()
    assert (copy / ".venv/bin/python").is_file()
    assert not (copy / "pipeline/__pycache__").exists()
    assert not (copy / ".mypy_cache").exists()


def test_every_dependency_is_pinned(root: Path) -> None:
    text = (root / "conf" / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), "no local builds, no paths"
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    asked = re.findall(r'^    "([A-Za-z0-9_-]+)(?:[<>=]|")', (root / "pyproject.toml").read_text(), re.M)
    assert len(asked) > 20
    assert {name.lower().replace("_", "-") for name in asked} - pinned == set()
