"""Every outside input is known by what it holds, and what cannot be read is refused before anything else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.data import DataConfig, Format, Source
from pipeline.core.errors import DataError
from pipeline.data.content import content_digest, refuse_changed


def digests(path: Path, /, **keys: Any) -> dict[str, str]:
    section = DataConfig(**{"source": Source.local, "name": "x", "path": str(path), **keys})
    return content_digest(section, source=None, cache=path.parent)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n')
    return path


def test_files_of_ones_own_are_known_by_their_sha256(jsonl: Path) -> None:
    dev, corpus = jsonl.with_name("dev.jsonl"), jsonl.with_name("corpus.jsonl")
    dev.write_text('{"question": "c", "answer": "d"}\n')
    corpus.write_text('{"text": "e"}\n')
    assert digests(jsonl, dev_path=str(dev), corpus_path=str(corpus)) == {
        "path": sha256(jsonl),
        "dev_path": sha256(dev),
        "corpus_path": sha256(corpus),
    }


def test_a_beir_folder_is_known_by_the_files_its_pairs_are_read_from(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv", "run.trec"):
        (folder / name).write_text(name)
    read = ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv")
    assert digests(folder, format=Format.beir) == {f"path/{name}": sha256(folder / name) for name in read}
    (folder / "qrels" / "train.tsv").write_text("judgements to train on")
    assert digests(folder, format=Format.beir, dev_path=str(folder)) == {
        **{f"path/{name}": sha256(folder / name) for name in (*read[:2], "qrels/train.tsv")},
        **{f"dev_path/{name}": sha256(folder / name) for name in read},
    }


def test_a_data_set_of_the_hub_is_known_by_its_commit_alone(jsonl: Path) -> None:
    assert digests(jsonl.parent, source=Source.hub) == {}
    assert digests(jsonl.parent, source=Source.hub, corpus_path=str(jsonl)) == {"corpus_path": sha256(jsonl)}


def test_a_pipe_is_refused_and_not_waited_for(jsonl: Path) -> None:
    pipe = jsonl.with_name("pipe.jsonl")
    os.mkfifo(pipe)
    for key in ("path", "dev_path", "corpus_path"):
        with pytest.raises(DataError) as refused:
            digests(jsonl, **{key: str(pipe)})
        assert str(refused.value) == (
            f"data.{key}={pipe} must be a file, got a pipe or device. "
            f"Write its content to a file and pass data.{key}=<file>."
        )


def test_a_missing_file_is_refused_by_its_key(tmp_path: Path, jsonl: Path) -> None:
    gone = tmp_path / "gone"
    for key in ("path", "dev_path", "corpus_path"):
        with pytest.raises(DataError) as refused:
            digests(jsonl, **{key: str(gone)})
        assert str(refused.value) == (
            f"data.{key}={gone} must exist, got nothing there. Correct data.{key} or data.format."
        )
    with pytest.raises(DataError, match=rf"^data\.path={gone}, file queries\.jsonl must exist, got nothing there\. "):
        digests(gone, format=Format.beir)
    with pytest.raises(DataError, match=rf"^data\.path={tmp_path} must be a file, got a folder\. .* data\.format=beir"):
        digests(tmp_path)


def test_files_that_are_no_longer_those_that_were_named_are_refused(tmp_path: Path) -> None:
    folder, corpus = tmp_path / "beir", tmp_path / "corpus.jsonl"
    (folder / "qrels").mkdir(parents=True)
    for file in (corpus, *(folder / name for name in ("queries.jsonl", "corpus.jsonl", "qrels/train.tsv"))):
        file.write_text("a")
    section = DataConfig(
        source=Source.local, format=Format.beir, name="x", path=str(folder), corpus_path=str(corpus)
    )  # fmt: skip
    before = content_digest(section, source=None, cache=tmp_path)
    refuse_changed(section, before, source=None)
    for file, thing in (
        (folder / "corpus.jsonl", f"data.path={folder}, file corpus.jsonl"),
        (corpus, f"data.corpus_path={corpus}"),
    ):
        file.write_text("b")
        with pytest.raises(DataError) as refused:
            refuse_changed(section, before, source=None)
        assert str(refused.value) == (
            f"{thing} must stay unchanged while a run reads it, got new content. Run the same command again."
        )
        file.write_text("a")
    (folder / "qrels" / "train.tsv").rename(folder / "qrels" / "dev.tsv")  # of the same content, and other judgements
    with pytest.raises(DataError, match=r"file qrels/dev\.tsv must stay unchanged"):
        refuse_changed(section, before, source=None)


@pytest.mark.parametrize("given", ["*.jsonl", "pairs.jsonl,b.jsonl", "pairs.jsonl b.jsonl"])
def test_several_files_are_told_to_be_one(jsonl: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(jsonl.parent)
    Path("b.jsonl").write_bytes(jsonl.read_bytes())
    for key in ("path", "dev_path", "corpus_path"):
        with pytest.raises(DataError) as refused:
            digests(jsonl, **{key: given})
        assert str(refused.value) == (
            f"data.{key}={given} must exist, got nothing there. "
            f"data.{key} names one file: concatenate several into one."
        )
    Path("new").mkdir()
    for other in ("a,b.csv", "new/pairs 2.jsonl", "[b].jsonl"):
        with pytest.raises(DataError, match=r"Correct data\.path or data\.format\.$"):
            digests(Path(other))


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "b.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="must be a readable file, got Too many levels of symbolic links"):
        digests(tmp_path / "a.jsonl")
