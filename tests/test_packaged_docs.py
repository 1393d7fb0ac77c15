"""Pairs from the docstrings of packages on disk: what is read and dropped, the cache, workers, and the split."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.data import DataConfig, Source
from pipeline.core.errors import DataError, ResourceError
from pipeline.core.records import fold
from pipeline.data import python_sources
from pipeline.data.content import content_digest
from pipeline.data.packaged_docs import Extraction, extract
from pipeline.data.source import load

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


def test_pairs_are_read_without_importing_and_drops_are_counted(package: Path, tmp_path: Path) -> None:
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


def test_second_extraction_reads_the_cache_alone(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract(["docpack"], tmp_path / "cache")
    monkeypatch.setattr(python_sources, "read_modules", None)  # reading sources again would fail
    assert extract(["docpack"], tmp_path / "cache") == first


def test_damaged_cache_is_reported_and_written_again(
    package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = extract(["docpack"], tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    written = path.read_bytes()
    changed_text, changed_count = (b"wavelets", b"wavelatz"), (b'"docstrings": ', b'"docstrings": 1')
    for damaged in (written.replace(*changed_text), b"", written.replace(*changed_count)):
        caplog.clear()
        path.write_bytes(damaged)
        assert extract(["docpack"], tmp_path / "cache") == first
        assert "damaged" in caplog.text
        assert path.read_bytes() == written


def test_changed_package_is_extracted_again(package: Path, tmp_path: Path) -> None:
    first = extract(["docpack"], tmp_path / "cache")
    (package / "d.py").write_text(function("f", "Sum all of the clusters.", passage("clusters")))
    assert len(extract(["docpack"], tmp_path / "cache").rows) == len(first.rows) + 1


@pytest.mark.parametrize("name", ["no_such_package_here", "../networkx", "json.decoder", "this"])
def test_name_of_no_installed_package_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        extract([name], tmp_path)
    assert str(error.value) == (
        f"data.packages must name installed packages, got {name!r}. Run `make setup`, or remove it from data.packages."
    )


def test_killed_worker_refusal_suggests_fewer_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_sources, "_ENTRY", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ResourceError) as error:
        extract(["networkx"], tmp_path, workers=2)
    assert str(error.value) == (
        "a process that reads sources must run to its end, got one that was killed by SIGKILL. "
        "Lower runtime.workers: there may be too little memory for so many."
    )


# A whole package


@pytest.fixture(scope="module")
def networkx_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that holds the pairs of networkx, read by one worker."""
    cache = tmp_path_factory.mktemp("networkx")
    extract(["networkx"], cache, workers=1)
    return cache


@pytest.fixture
def networkx(networkx_cache: Path) -> Extraction:
    return extract(["networkx"], networkx_cache)


def test_pairs_do_not_depend_on_the_number_of_workers(networkx: Extraction, tmp_path: Path) -> None:
    assert extract(["networkx"], tmp_path, workers=2) == networkx


def test_pairs_of_networkx_are_distinct_plain_paragraphs(networkx: Extraction) -> None:
    rows = networkx.rows
    assert len(rows) > 800
    assert len({fold(question) for question in rows.questions}) == len(rows)
    assert all(80 <= len(answer) <= 400 for answer in rows.answers)
    assert not any(mark in text for text in rows.answers for mark in (">>>", "``", ":func:", "----", "\n"))
    assert all(group.startswith("networkx.") and "tests" not in group.split(".") for group in rows.groups or [])


def test_packaged_docs_are_split_by_module(networkx_cache: Path) -> None:
    keys: dict[str, Any] = {"dev_queries": 60, "validation_queries": 20, "limit": 600}
    config = DataConfig(source=Source.packaged_docs, name="docs", packages=["networkx"], **keys)
    split = load(config, source=None, cache=networkx_cache)
    assert split.validation is not None
    assert (len(split.dev), len(split.validation)) == (60, 20)
    assert not set(split.train.groups or []) & (set(split.dev.groups or []) | set(split.validation.groups or []))
    reading: Any = split.statistics["reading"]
    assert reading["docstrings"] > 1000


def test_packaged_docs_are_identified_by_one_digest(networkx_cache: Path) -> None:
    config = DataConfig(source=Source.packaged_docs, name="docs", packages=["networkx"])
    (digest,) = content_digest(config, source=None, cache=networkx_cache).values()
    assert len(digest) == 64


@pytest.mark.slow
def test_eight_libraries_give_about_twenty_thousand_pairs(tmp_path: Path) -> None:
    packages = ["numpy", "scipy", "pandas", "sklearn", "torch", "transformers", "sympy", "networkx"]
    assert 15_000 <= len(extract(packages, tmp_path).rows) <= 25_000
