"""Extraction from real packages on disk: what is read, what is dropped, the cache, and worker counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.core.errors import DataError, ResourceError
from pipeline.core.records import fold
from pipeline.data import python_sources
from pipeline.data.packaged_docs import extract

SUBJECTS = ("kernels", "graphs", "tensors", "splines", "matrices", "polynomials", "wavelets", "clusters")


def passage(subject: str) -> str:
    return (
        f"The {subject} are read from the {subject} table, weighted by how many {subject} there are, and "
        f"summed in the order of their {subject} names."
    )


def function(name: str, first: str, rest: str) -> str:
    return f'def {name}():\n    """{first}\n\n    {rest}\n    """\n\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package whose import would fail: reading must not run it."""
    folder = tmp_path / "site" / "docpack"
    (folder / "tests").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "__init__.py").write_text('raise RuntimeError("imported")\n')
    (folder / "a.py").write_text(
        function("f", "Sum all of the kernels.", passage("kernels"))
        + "class C:\n"
        + '    """Sum all of the graphs."""\n'
        + "if True:\n    "
        + function("g", "Sum all of the tensors.", passage("tensors")).replace("\n", "\n    ").rstrip(" ")
        + "\nadd_docstr(f, r'''f(x)\n\nSum all of the splines.\n\n"
        + passage("splines")
        + "\n'''.format(**args))\n"
    )
    (folder / "sub" / "b.py").write_text(
        function("f", "Sum  ALL of the kernels.", passage("matrices"))  # the query again
        + function("g", "Add up every one of the kernels.", passage("kernels") + " Twice.")  # the passage again
        + function("h", "Sum all of the wavelets.", passage("wavelets"))
        + "".join(function(f"k{i}", "Fit the given model.", passage(s)) for i, s in enumerate(SUBJECTS[4:]))
    )
    (folder / "tests" / "c.py").write_text(function("f", "Sum all of the clusters.", passage("clusters")))
    (folder / "broken.py").write_text('def f(:\n    """text"""\n')
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_pairs_of_a_package_and_what_was_dropped(package: Path, tmp_path: Path) -> None:
    extraction = extract(["docpack"], tmp_path / "cache")
    rows = extraction.rows
    assert list(zip(rows.questions, rows.groups or [], rows.lines, strict=True)) == [
        ("Sum all of the kernels.", "docpack.a", 2),
        ("Sum all of the tensors.", "docpack.a", 11),
        ("Sum all of the splines.", "docpack.a", 17),
        ("Sum all of the wavelets.", "docpack.sub.b", 14),
    ]
    assert rows.answers[0] == passage("kernels")
    assert extraction.counts == {
        "common_query": 4,
        "docstrings": 11,
        "duplicate_query": 1,
        "near_duplicate_passage": 1,
        "passage_short": 1,
        "unreadable_modules": 1,
    }
    assert "docpack" not in sys.modules


def test_the_cache_answers_until_it_is_damaged_or_the_package_changes(
    package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    first = extract(["docpack"], cache)
    (path,) = cache.iterdir()
    written = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_sources, "read_modules", None)  # reading sources again would fail
        assert extract(["docpack"], cache) == first
    path.write_bytes(written.replace(b"wavelets", b"wavelatz"))
    assert extract(["docpack"], cache) == first
    assert "damaged" in caplog.text
    assert path.read_bytes() == written
    for damaged in (b"", written.replace(b'"docstrings": ', b'"docstrings": 1')):
        path.write_bytes(damaged)
        assert extract(["docpack"], cache) == first
        assert path.read_bytes() == written
    (package / "d.py").write_text(function("f", "Sum all of the clusters.", passage("clusters")))
    assert len(extract(["docpack"], cache).rows) == len(first.rows) + 1


@pytest.mark.parametrize("name", ["no_such_package_here", "../networkx", "json.decoder", "this"])
def test_what_is_no_installed_package_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        extract([name], tmp_path)
    assert str(refusal.value) == (
        f"data.packages must name installed packages, got {name!r}. Run `make setup`, or remove it from data.packages."
    )


def test_a_process_that_is_killed_is_the_memorys_or_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_sources, "_ENTRY", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ResourceError) as refused:
        extract(["networkx"], tmp_path, workers=2)
    assert str(refused.value) == (
        "a process that reads sources must run to its end, got one that was killed by SIGKILL. "
        "Lower runtime.workers: there may be too little memory for so many."
    )


def test_networkx_gives_the_same_pairs_with_any_number_of_workers(tmp_path: Path) -> None:
    one = extract(["networkx"], tmp_path / "one", workers=1)
    two = extract(["networkx"], tmp_path / "two", workers=2)
    assert one == two
    rows = one.rows
    assert len(rows) > 800
    assert len({fold(question) for question in rows.questions}) == len(rows)
    assert all(80 <= len(answer) <= 400 for answer in rows.answers)
    assert not any(mark in text for text in rows.answers for mark in (">>>", "``", ":func:", "----", "\n"))
    assert all(group.startswith("networkx.") and "tests" not in group.split(".") for group in rows.groups or [])


@pytest.mark.slow
def test_eight_libraries_give_about_twenty_thousand_pairs(tmp_path: Path) -> None:
    packages = ["numpy", "scipy", "pandas", "sklearn", "torch", "transformers", "sympy", "networkx"]
    assert 15_000 <= len(extract(packages, tmp_path).rows) <= 25_000
