"""Every local input is identified by its content, and one that cannot be read is refused before anything else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from beir_folders import write_beir
from pair_files import data_config

from pipeline.config.data import Format, Source
from pipeline.core.errors import DataError
from pipeline.data.content import content_digest, refuse_changed

KEYS = ("path", "dev_path", "corpus_path")


def digests(path: Path, /, **keys: Any) -> dict[str, str]:
    return content_digest(data_config(**{"path": path, **keys}), source=None, cache=path.parent)


def refused(path: Path, /, **keys: Any) -> str:
    with pytest.raises(DataError) as error:
        digests(path, **keys)
    return str(error.value)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Return a folder of one query and one passage with a judgement, in a test file, and a run."""
    folder = write_beir(tmp_path / "beir", {"q": "a"}, {"p": "b"}, test=[("q", "p", 1)])
    (folder / "run.trec").write_text("q Q0 p 1 1 t\n")
    return folder


# What identifies an input


def test_local_files_are_identified_by_their_sha256(pairs_file: Path) -> None:
    dev, corpus = pairs_file.with_name("dev.jsonl"), pairs_file.with_name("corpus.jsonl")
    dev.write_text('{"question": "c", "answer": "d"}\n')
    corpus.write_text('{"text": "e"}\n')
    assert digests(pairs_file, dev_path=str(dev), corpus_path=str(corpus)) == {
        "path": sha256(pairs_file),
        "dev_path": sha256(dev),
        "corpus_path": sha256(corpus),
    }


def test_beir_folder_is_identified_by_the_files_its_pairs_come_from(beir: Path) -> None:
    read = ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv")
    assert digests(beir, format=Format.beir) == {f"path/{name}": sha256(beir / name) for name in read}
    (beir / "qrels" / "train.tsv").write_text("judgements to train on")
    assert digests(beir, format=Format.beir, dev_path=str(beir)) == {
        **{f"path/{name}": sha256(beir / name) for name in (*read[:2], "qrels/train.tsv")},
        **{f"dev_path/{name}": sha256(beir / name) for name in read},
    }


def test_hub_data_set_has_no_digest_but_its_own_corpus_has(pairs_file: Path) -> None:
    assert digests(pairs_file.parent, source=Source.hub) == {}
    assert digests(pairs_file.parent, source=Source.hub, corpus_path=str(pairs_file)) == {
        "corpus_path": sha256(pairs_file)
    }


def test_file_that_changes_while_a_run_reads_it_is_refused(beir: Path) -> None:
    corpus = beir.with_name("corpus.jsonl")
    corpus.write_text("a")
    (beir / "qrels" / "test.tsv").rename(beir / "qrels" / "train.tsv")
    config = data_config(beir, format=Format.beir, corpus_path=str(corpus))
    before = content_digest(config, source=None, cache=beir.parent)
    refuse_changed(config, before, source=None)
    for file, thing in (
        (beir / "corpus.jsonl", f"data.path={beir}, file corpus.jsonl"),
        (corpus, f"data.corpus_path={corpus}"),
    ):
        content = file.read_bytes()
        file.write_text("b")
        with pytest.raises(DataError) as error:
            refuse_changed(config, before, source=None)
        assert str(error.value) == (
            f"{thing} must stay unchanged while a run reads it, got new content. Run the same command again."
        )
        file.write_bytes(content)
    (beir / "qrels" / "train.tsv").rename(beir / "qrels" / "dev.tsv")  # of the same content, and other judgements
    with pytest.raises(DataError, match=r"file qrels/dev\.tsv must stay unchanged"):
        refuse_changed(config, before, source=None)


# What cannot be read


@pytest.mark.parametrize("key", KEYS)
def test_pipe_is_refused_without_waiting_for_it(pairs_file: Path, key: str) -> None:
    pipe = pairs_file.with_name("pipe.jsonl")
    os.mkfifo(pipe)
    assert refused(pairs_file, **{key: str(pipe)}) == (
        f"data.{key}={pipe} must be a file, got a pipe or device. "
        f"Write its content to a file and pass data.{key}=<file>."
    )


@pytest.mark.parametrize("key", KEYS)
def test_missing_file_is_refused_by_its_key(pairs_file: Path, key: str) -> None:
    gone = pairs_file.with_name("gone")
    assert refused(pairs_file, **{key: str(gone)}) == (
        f"data.{key}={gone} must exist, got nothing there. Correct data.{key} or data.format."
    )


def test_missing_file_of_a_beir_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert refused(gone, format=Format.beir).startswith(
        f"data.path={gone}, file queries.jsonl must exist, got nothing there. "
    )


def test_packed_file_of_a_beir_folder_refusal_asks_to_unpack_it(beir: Path) -> None:
    (beir / "queries.jsonl").rename(beir / "queries.jsonl.gz")
    assert "file queries.jsonl must exist, got nothing there. Unpack queries.jsonl.gz " in refused(
        beir, format=Format.beir
    )


def test_folder_refusal_names_the_beir_format(tmp_path: Path) -> None:
    message = refused(tmp_path)
    assert message.startswith(f"data.path={tmp_path} must be a file, got a folder. ") and "data.format=beir" in message


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["*.jsonl", "pairs.jsonl,b.jsonl", "pairs.jsonl b.jsonl"])
def test_several_files_for_one_key_refusal_asks_to_concatenate(
    pairs_file: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.chdir(pairs_file.parent)
    Path("b.jsonl").write_bytes(pairs_file.read_bytes())
    assert refused(pairs_file, **{key: value}) == (
        f"data.{key}={value} must exist, got nothing there. data.{key} names one file: concatenate several into one."
    )


@pytest.mark.parametrize("name", ["a,b.csv", "new/pairs 2.jsonl", "[b].jsonl"])
def test_missing_name_with_a_comma_space_or_bracket_is_one_file(
    pairs_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(pairs_file.parent)
    Path("b.jsonl").write_bytes(pairs_file.read_bytes())
    Path("new").mkdir()
    assert refused(Path(name)).endswith("Correct data.path or data.format.")


def test_loop_of_symbolic_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "b.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="must be a readable file, got Too many levels of symbolic links"):
        digests(tmp_path / "a.jsonl")
