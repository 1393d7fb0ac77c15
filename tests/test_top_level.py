"""The top level holds what the layout names and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

ALLOWED = {
    "conf", "pipeline", "scripts", "tests", "outputs", "pyproject.toml", "Makefile", "README.md",
    ".ci", ".github", ".gitignore", ".gitattributes",
}  # fmt: skip


def tracked(root: Path, *paths: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *paths], cwd=root, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_top_level_holds_only_the_named_entries(root: Path) -> None:
    assert {name.split("/")[0] for name in tracked(root)} - ALLOWED == set()


def test_of_outputs_only_the_placeholder_is_tracked(root: Path) -> None:
    assert tracked(root, "outputs") == ["outputs/.gitkeep"]


def test_no_tracked_file_is_ignored_or_large(root: Path) -> None:
    assert tracked(root, "-ci", "--exclude-standard") == []
    assert {name: size for name in tracked(root) if (size := (root / name).stat().st_size) > 2_000_000} == {}
