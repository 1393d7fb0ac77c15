"""Installed packages, found by import name and not imported."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.core.packages import folder_of, version_of


def test_a_package_is_found_by_its_import_name() -> None:
    found = folder_of("sklearn")
    assert found is not None and (found / "__init__.py").is_file()
    assert version_of("sklearn") == version("scikit-learn")
    assert version_of("numpy") == version("numpy")


@pytest.mark.parametrize("name", ["no_such_package_here", "../networkx", "json.decoder", "this", "__main__", "a b", ""])
def test_what_is_no_package_has_no_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("__main__.__spec__", None)  # as in `python scripts/train.py`
    assert folder_of(name) is None


def test_a_folder_without_metadata_has_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unowned").mkdir()
    (tmp_path / "unowned" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert folder_of("unowned") == tmp_path / "unowned" and version_of("unowned") is None
