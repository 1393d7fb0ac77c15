"""The stages in order: what a run leaves, what a second run does, and what is refused before any work."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_run import measures, only, run_tiny, sha256, snapshot, tiny_config

from pipeline.config.ending import unusable
from pipeline.core import artifacts
from pipeline.core.errors import ArtifactError, ModelError, PipelineError
from pipeline.engine import checkpoints
from pipeline.stages.run import run

# --- results ----------------------------------------------------------------------------------------------------------


def test_run_leaves_complete_folders_and_a_link(finished_run: Path) -> None:
    outputs = finished_run.parents[1]
    assert finished_run.parent == outputs / "runs" and (outputs / "latest").resolve() == finished_run.resolve()
    mined = only(outputs / "mined", "*/manifest.json").parent
    evaluation = only(finished_run, "evaluations/dev-*")
    for folder in (mined, finished_run / "model", evaluation, finished_run / "card"):
        assert artifacts.is_complete(folder), folder
    assert {"config.yaml", "metrics.jsonl", "summary.json", "README.md", "model", "card", "evaluations"} <= {
        path.name for path in finished_run.iterdir()
    }
    assert checkpoints.steps(finished_run / "checkpoints") == [3, 6]
    dev = measures(finished_run)["dev"]
    assert {"as_retrieved", "positives_added"} <= set(dev)
    assert {"first_stage", "untrained", "trained", "differences"} <= set(dev["as_retrieved"])


def test_second_run_does_nothing_and_logs_it(
    own_run: Path, own_outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = snapshot(own_outputs)
    with caplog.at_level(logging.INFO, "pipeline"):
        assert run_tiny(own_outputs) == own_run
    assert snapshot(own_outputs) == before
    stages = [message.split()[0] for message in caplog.messages if "nothing to do" in message]
    assert stages == ["mine", "train", "evaluate", "card"]


def test_two_clean_runs_write_the_same_bytes(finished_run: Path, tmp_path: Path) -> None:
    other = run_tiny(tmp_path)
    assert other.name == finished_run.name
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert sha256(other / name) == sha256(finished_run / name), name
    for name in ("run.trec", "qrels.trec", "per_query.tsv", "measures.json"):
        expected = sha256(only(finished_run, f"evaluations/dev-*/{name}"))
        assert sha256(only(other, f"evaluations/dev-*/{name}")) == expected, name


def test_sweep_over_the_seed_mines_once(own_run: Path, own_outputs: Path) -> None:
    runs = {run_tiny(own_outputs, f"seed={seed}", "stop_after=train") for seed in (1, 2)} | {own_run}
    assert len(runs) == 3
    assert len(list((own_outputs / "mined").glob("*/manifest.json"))) == 1
    assert len(list((own_outputs / "tokens").glob("*/manifest.json"))) == 1
    assert len({sha256(run / "model" / "model.safetensors") for run in runs}) == 3


def test_mining_alone_needs_no_base_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert run(tiny_config(tmp_path, "model=custom", "model.path=no/such-model", "stop_after=mine")) is None
    assert artifacts.is_complete(only(tmp_path, "mined/*/manifest.json").parent)
    assert "base model  such-model (no/such-model)" in caplog.messages


def test_country_without_a_grid_is_warned_of_once_before_any_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    run(tiny_config(tmp_path, "emissions=default", "emissions.country_iso_code=MCO", "stop_after=mine"))
    messages = "\n".join(caplog.messages)
    assert messages.count("codecarbon has no grid for emissions.country_iso_code=MCO") == 1
    assert messages.index("codecarbon has no grid") < messages.index("experiment  smoke")
    assert "grid" not in "".join(capfd.readouterr())


def test_file_system_without_links_keeps_a_finished_run(
    own_run: Path, own_outputs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refusing)
    assert run_tiny(own_outputs) == own_run
    link = own_outputs / "latest"
    assert f"cannot make the link {link} (Operation not permitted): name this run with run={own_run}" in caplog.text


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_folder_in_place_of_the_link_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(ArtifactError, match=r"latest must be a link, got a folder\. Rename it"):
        run_tiny(tmp_path)
    assert not (tmp_path / "mined").exists()
    assert run(tiny_config(tmp_path, "stop_after=mine")) is None, "mining makes no link"


@pytest.mark.parametrize("name", ["README.md", "config.yaml", "summary.json"])
def test_folder_in_place_of_a_file_is_refused(own_run: Path, own_outputs: Path, name: str) -> None:
    before, content = snapshot(own_outputs), (own_run / name).read_bytes()
    (own_run / name).unlink()
    (own_run / name).mkdir()
    with pytest.raises(IsADirectoryError) as error:
        run_tiny(own_outputs)
    expected = f"{own_run / name} must be a file, got a folder. Move it away and run the same command again."
    assert str(unusable(error.value)) == expected
    (own_run / name).rmdir()
    assert run_tiny(own_outputs) == own_run and (own_run / name).read_bytes() == content
    assert snapshot(own_outputs).keys() == before.keys()


def test_missing_data_file_is_reported_before_the_hub_is_asked(tmp_path: Path) -> None:
    hub = ["model=bert_tiny", "model.path=no/such-model", "data=local", f"data.path={tmp_path / 'gone.jsonl'}"]
    with pytest.raises(PipelineError, match=r"^data\.path=.*gone\.jsonl must exist, got nothing there\. "):
        run_tiny(tmp_path / "outputs", *hub)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=custom", "model.path={folder}"], r"model\.path must be a folder with config\.json, weights and "),
        (["model.max_length=100000"], r"model\.max_length must be at most the 512 positions of "),
    ],
    ids=["folder without a model", "length beyond the positions"],
)
def test_base_model_that_cannot_be_trained_is_refused_before_mining(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    outputs = tmp_path / "outputs"
    with pytest.raises(ModelError, match=f"^{message}"):
        run_tiny(outputs, "training.max_length=null", *(override.format(folder=tmp_path) for override in overrides))
    assert not list(outputs.glob("mined/*")) and not list(outputs.glob("runs/*"))


def test_unreadable_base_model_leaves_no_new_results(own_outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    before = snapshot(own_outputs)
    with pytest.raises(ModelError):
        run_tiny(own_outputs, "model=custom", f"model.path={tmp_path}")
    after = snapshot(own_outputs)
    assert {name.rsplit("/", 1)[1] for name in after if name not in before} <= {"config.yaml", ".model.pieces.json"}


def test_cross_encoder_is_refused_as_retriever(own_run: Path, own_outputs: Path) -> None:
    before = snapshot(own_outputs)
    with pytest.raises(ModelError, match=r"^mining\.path must name a bi-encoder, .*, got a cross-encoder in "):
        run_tiny(own_outputs, "mining=embedding", f"mining.path={own_run / 'model'}")
    assert snapshot(own_outputs) == before
