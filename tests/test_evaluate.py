"""The EVALUATE stage: which sets and rivals it scores, what decides an evaluation's name, and what it checks early."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from hub_fixtures import sentences
from safetensors.torch import load_file, save_file
from script_process import script_process
from tiny_run import GRADES, TINY, collection, measures, mined_set, only, run_tiny, snapshot, tiny_config, write_grades

from pipeline.commands.verification import verify
from pipeline.config.command_arguments import Verification
from pipeline.core.errors import ModelError, PipelineError
from pipeline.data import storage
from pipeline.mining import embeddings
from pipeline.stages.evaluate import evaluation_key
from pipeline.stages.plan import RunPlan
from pipeline.stages.rivals import rival_names

# --- sets -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def added(own_run: Path, tmp_path: Path) -> list[str]:
    """Return overrides that add a collection, tiny-beir, whose first query the run was trained on."""
    trained_on = storage.read_rows(mined_set(own_run)).questions
    pairs = [(trained_on[0].upper(), f"About {trained_on[0]}."), *sentences(24)]
    return [f"evaluation.collections=[{collection(tmp_path / 'tiny-beir', pairs)}]", "evaluation.depth=10"]


def test_added_set_is_evaluated_without_training_again(own_run: Path, own_outputs: Path, added: list[str]) -> None:
    before = snapshot(own_outputs)
    assert run_tiny(own_outputs, *added) == own_run
    after = snapshot(own_outputs)
    new = {name for name in after if name not in before}
    changed = {name.split("/", 2)[2] for name in before if after.get(name) != before[name]}
    assert new and all("/evaluations/tiny-beir-" in name for name in new)
    assert changed and all(name.startswith(("card/", "README.md", "summary.json")) for name in changed), changed
    assert set(measures(own_run)) == {"dev", "tiny-beir"}
    lines = only(own_run, "evaluations/tiny-beir-*/run.trec").read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == 8
    assert measures(own_run)["tiny-beir"]["queries_trained_on"] == 1
    card = (own_run / "README.md").read_text()
    assert "tiny-beir: 1 of its 8 queries is a training question too" in card and "- First stage: BM25\n" in card
    (verdict,) = [line for line in verify(Verification(run=str(own_run))).checked if "not scored again" in line]
    assert verdict == "figures: tiny-beir not scored again, only their files compared"
    assert run_tiny(own_outputs) == own_run and set(measures(own_run)) == {"dev"}


def test_changed_collection_is_evaluated_again_with_notes_in_the_card(
    own_run: Path, own_outputs: Path, tmp_path: Path, added: list[str]
) -> None:
    folder = tmp_path / "tiny-beir"
    run_tiny(own_outputs, *added)
    # Its own first stage, for one query of eight, and a relevant passage that it lacks.
    (folder / "run.trec").write_text("q0 Q0 d0 1 1.0 own\n")
    write_grades(folder, GRADES + "q1\tgone\t1\n")
    run_tiny(own_outputs, *added)
    card = (own_run / "README.md").read_text()
    assert "- First stage: the run.trec in its folder\n" in card
    assert "- Note that 1 of 9 relevant passages are missing from the collection and count as not found\n" in card
    assert "- Note that the first stage finds no passage for 7 of 8 queries, which count 0 for it and for every" in card
    (folder / "run.trec").unlink()
    write_grades(folder, GRADES.replace("q7\td7", "q7\td1"))
    run_tiny(own_outputs, *added)
    assert len(list(own_run.glob("evaluations/tiny-beir-*"))) == 3


def test_bi_encoder_files_are_hashed_once_for_all_sets(
    own_outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [str(collection(tmp_path / name, sentences(24))) for name in ("one", "two")]
    hashed, digest_of = list[Path](), embeddings.folder_digest
    monkeypatch.setattr(embeddings, "folder_digest", lambda folder: hashed.append(folder) or digest_of(folder))
    keys = [f"evaluation.collections=[{','.join(sets)}]", "evaluation.depth=10", "evaluation.bi_encoder=true"]
    found = measures(run_tiny(own_outputs, *keys))
    assert len(found) == 3 and all("bi_encoder" in figures["as_retrieved"] for figures in found.values())
    assert len(hashed) == 1


@pytest.mark.parametrize(
    ("override", "sets"),
    [
        ("evaluation.resamples=777", {"dev", "tiny"}),
        ("evaluation.bi_encoder=true", {"dev", "tiny"}),
        ("evaluation.depth=7", {"tiny"}),
    ],
)
def test_evaluation_key_contains_the_settings_it_depends_on(
    finished_run: Path, tmp_path: Path, override: str, sets: set[str]
) -> None:
    (tmp_path / "tiny" / "qrels").mkdir(parents=True)
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv"):
        (tmp_path / "tiny" / name).write_text("{}\n")
    outputs, keys = finished_run.parents[1], [f"evaluation.collections=[{tmp_path / 'tiny'}]"]
    before, after = RunPlan(tiny_config(outputs, *keys)), RunPlan(tiny_config(outputs, *keys, override))
    assert {name for name in ("dev", "tiny") if evaluation_key(before, name) != evaluation_key(after, name)} == sets


# --- rivals -----------------------------------------------------------------------------------------------------------


def test_saved_run_serves_as_base_model_and_as_rival(own_run: Path, own_outputs: Path) -> None:
    saved = own_run / "model"
    start = ["model=custom", f"model.path={saved}", "model.max_length=128", "training.max_steps=1"]
    other = run_tiny(own_outputs, *start, f"evaluation.rivals=[{saved}]", "training.learning_rate=1.0e-9")
    assert other != own_run
    trained, before = (load_file(folder / "model" / "model.safetensors") for folder in (other, own_run))
    # One step at a rate of next to nothing: the head is the saved one, not one drawn from the seed.
    assert trained.keys() == before.keys()
    assert all(torch.allclose(trained[name], before[name], atol=1e-7) for name in before)
    figures = measures(other)["dev"]["as_retrieved"]
    (name,) = rival_names([str(saved)])
    assert name == own_run.name and figures[name] == figures["untrained"]
    assert figures[name] == measures(own_run)["dev"]["as_retrieved"]["trained"]
    assert own_run.name in (other / "README.md").read_text()


def test_weights_of_a_rival_name_the_evaluation(own_run: Path, own_outputs: Path, tmp_path: Path) -> None:
    rival = Path(shutil.copytree(own_run / "model", tmp_path / "rival"))
    run_tiny(own_outputs, f"evaluation.rivals=[{rival}]", "stop_after=evaluate")
    weights = {name: tensor + 0.01 for name, tensor in load_file(rival / "model.safetensors").items()}
    save_file(weights, rival / "model.safetensors", metadata={"format": "pt"})
    run_tiny(own_outputs, f"evaluation.rivals=[{rival}]", "stop_after=evaluate")
    assert len(list(own_run.glob("evaluations/dev-*"))) == 3


def test_base_model_without_a_head_is_refused_as_rival(own_run: Path, own_outputs: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(own_run / "model", tmp_path / "base"))
    settings = {**json.loads((base / "config.json").read_text()), "architectures": ["BertModel"]}
    (base / "config.json").write_text(json.dumps(settings))
    rule = r"evaluation\.rivals must name trained cross-encoders with one label, got .*, a base"
    with pytest.raises(ModelError, match=rule):
        run_tiny(own_outputs, "seed=4321", f"evaluation.rivals=[{base}]")


@pytest.mark.parametrize(
    ("key", "grades", "message"),
    [
        ("collections", None, "evaluation.collections must name a file or folder that exists"),
        ("collections", "q0\td0\tgreat\n", "qrels/test.tsv, line 2, grade must be a whole number up to 1000"),
        ("rivals", None, "evaluation.rivals must name a file or folder that exists"),
        ("rivals", "", "evaluation.rivals must be a folder with config.json"),
    ],
    ids=["no collection", "collection with a wrong grade", "no rival", "rival without config.json"],
)
def test_evaluation_inputs_are_checked_before_any_work(
    own_outputs: Path, tmp_path: Path, key: str, grades: str | None, message: str
) -> None:
    folder = tmp_path / "given"
    if grades is not None:
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text('{"_id": "d0", "text": "t"}\n')
        (folder / "queries.jsonl").write_text('{"_id": "q0", "text": "t"}\n')
        write_grades(folder, grades)
    before = snapshot(own_outputs)
    with pytest.raises(PipelineError) as error:
        run_tiny(own_outputs, "seed=4321", f"evaluation.{key}=[{folder}]")
    assert message in str(error.value)
    assert snapshot(own_outputs) == before


# --- what the command prints ------------------------------------------------------------------------------------------


def test_evaluate_ends_with_the_cards_table_also_if_nothing_was_left_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = tmp_path / "outputs"
    with script_process(tmp_path) as process:
        done = [process.run("scripts/evaluate.py", *TINY, f"outputs_dir={outputs}") for _ in range(2)]
    assert [one.status for one in done] == [0, 0], done
    first, second = (one.out for one in done)
    assert "evaluate  nothing to do" not in first and "evaluate  nothing to do" in second
    assert not (outputs / "latest" / "README.md").exists()
    tables = [text[text.index("\n\n") :] for text in (first, second)]
    assert tables[0] == tables[1] and re.search(r"^trained +\d\.\d{4}", tables[0], re.MULTILINE)
    with caplog.at_level(logging.INFO):
        run_tiny(outputs)
    lines = caplog.messages[-1].strip().splitlines()
    without_card = [line for line in lines if not line.startswith("card ")]
    assert tables[0].strip().splitlines() == without_card != lines
