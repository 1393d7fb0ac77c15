"""A command's own arguments: taken as typed, refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmark.cases import Benchmark
from pipeline.config.argument_parser import described, keys, near, nearest, parse_arguments, rule
from pipeline.config.command_arguments import (
    Faults,
    Prediction,
    Profile,
    Publication,
    Reproduction,
    Rerun,
    Verification,
)
from pipeline.config.paths import ARGUMENTS
from pipeline.core.errors import ConfigError

Case = Enum("Case", "train evaluate")


@dataclass(kw_only=True)
class Asked:
    q: str
    run: str | None = None
    kills: int = 3
    share: float = 0.5
    case: Case | None = None
    strict: bool = False


def test_values_become_their_types_and_defaults_stay() -> None:
    asked = parse_arguments(Asked, ["q=a", "kills=20", "share=1e-3", "case=evaluate", "strict=True"])
    assert asked == Asked(q="a", kills=20, share=0.001, case=Case.evaluate, strict=True)
    assert parse_arguments(Asked, ["q=", "run="]) == Asked(q="", run=None)
    assert parse_arguments(Asked, ["q=null", "case=null"]) == Asked(q="null", case=None)


@pytest.mark.parametrize("text", ['it\'s $5 = "x"', "${oc.env:HOME}", "???", "[1, 2]", "a=b", "\n", "é 🙂", "null"])
def test_text_is_taken_as_it_stands(text: str) -> None:
    assert parse_arguments(Asked, [f"q={text}"]).q == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "q must be given, got nothing. Pass q=<value>."),
        (["hello"], "an argument must read key=value, got 'hello'. The keys are q= run= kills= share= case= strict="),
        (
            ["q=a", "kils=3"],
            "kils must be one of q= run= kills= share= case= strict=, got 'kils=3'. Did you mean kills?",
        ),
        (["q=a", "kills=3.5"], "kills must be a whole number, got '3.5'. Pass kills=<value>."),
        (["q=a", "kills="], "kills must be a whole number, got ''. Pass kills=<value>."),
        (["q=a", "case=mine"], "case must be one of train, evaluate or null, got 'mine'. Pass case=<value>."),
        (["q=a", "strict=yes"], "strict must be true or false, got 'yes'. Pass strict=<value>."),
        (["q=a", "q=b"], "q must be given once, got 'q=b'. Remove one of them."),
    ],
)
def test_a_mistake_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_arguments(Asked, arguments)
    assert str(refused.value) == said


def test_the_home_folder_is_expanded_in_paths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_arguments(Asked, ["q=~/x", "run=~/x"]) == Asked(q="~/x", run="/home/someone/x")
    assert parse_arguments(Asked, ["q=a", "run=a~/x"]).run == "a~/x"
    commands = (Publication, Verification, Rerun, Faults, Reproduction, Prediction, Benchmark)
    others = {name for command in commands for name in keys(command)} - set(ARGUMENTS)
    assert others == {
        *("repo", "private", "kills", "chain", "files", "seed", "experiment", "cut", "stage", "weights_revision"),
        *("q", "p", "case", "pairs", "warmup", "rows", "note"),
    }


def test_keys_are_dotted_and_in_order() -> None:
    @dataclass
    class Inner:
        a: int
        b: list[str]

    Outer = type("Outer", (), {"__annotations__": {"first": Inner, "last": str}})
    assert list(keys(dataclass(Outer))) == ["first.a", "first.b", "last"]
    assert rule(keys(Inner)["b"]) == "a list such as [a,b]"


def test_near_names() -> None:
    names = ["training.batch_size", "training.epochs", "model.path", "data.path", "quickstart"]
    assert near("training.batch_sze", names) == ["training.batch_size"]
    assert near("path", names) == ["model.path", "data.path"]
    assert near("quick", names) == ["quickstart"]
    assert near("zebra", names) == []
    assert nearest("training.foo", names) == "Choose among training.batch_size, training.epochs."
    assert nearest("zebra", names) == "Choose among training, model, data, quickstart."


@pytest.mark.parametrize(
    "schema", [Benchmark, Faults, Prediction, Profile, Publication, Reproduction, Rerun, Verification]
)
def test_help_says_rule_default_and_meaning_of_every_argument(schema: type[Any]) -> None:
    lines = described(schema).splitlines()
    assert [line.partition("=")[0] for line in lines[::2]] == list(keys(schema))
    assert all(line.startswith("    ") and line.endswith(".") for line in lines[1::2])


def test_help_shows_defaults_as_they_are_typed() -> None:
    shown = described(Faults).splitlines()
    assert "seed=  a whole number; 1 by default" in shown
    assert "cut=  true or false or null; null by default" in shown
    assert "note=  text; '' by default" in described(Benchmark).splitlines()
    assert "private=  true or false; false by default" in described(Publication).splitlines()
    assert "repo=  text" in described(Publication).splitlines()


@pytest.mark.parametrize(
    ("script", "first", "later"),
    [
        ("predict", "Score a passage with a finished run: predict.py q=", "\n    The question.\n"),
        ("reproduce", "Lay figures beside the published ones: ", "\n    A finished run: "),
        ("profiling", "Where a training step's time goes: ", "steps=  a whole number; 5 by default\n"),
    ],
)
def test_help_of_a_script_begins_with_what_it_does(root: Path, script: str, first: str, later: str) -> None:
    command = [sys.executable, f"scripts/{script}.py", "--help"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(first) and later in shown.stdout
