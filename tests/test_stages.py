"""Whole runs on real text, tiny: what runs again and what does not, and the same bytes twice."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from composed_config import composed
from hub_fixtures import sentences
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from pipeline.commands.verification import verify
from pipeline.config.command_arguments import Verification
from pipeline.config.ending import unusable
from pipeline.core import artifacts
from pipeline.core.errors import ArtifactError, ConfigError, DataError, ModelError, PipelineError
from pipeline.data import storage
from pipeline.engine import checkpoints
from pipeline.engine.model_config import own_max_length
from pipeline.hub import location
from pipeline.mining import embeddings
from pipeline.stages.evaluate import evaluation_key
from pipeline.stages.metrics_log import MetricsLog
from pipeline.stages.plan import RunPlan
from pipeline.stages.rivals import rival_names
from pipeline.stages.run import run

CONF = Path(__file__).resolve().parents[1] / "conf"
SMALLER = [
    *["experiment=smoke", "data.limit=150", "data.dev_queries=20", "data.validation_queries=0", "runtime=cpu"],
    *["training.eval_sets=[]", "training.max_steps=6", "training.eval_steps=3", "mining.dev_depth=5"],
    *["runtime.workers=1", "runtime.threads=1", "emissions=off"],
    *["evaluation.bi_encoder=false", "evaluation.fusion=false"],
]
NOT_RESULTS = (".lock", "latest", "hub.lock.json")


def go(outputs: Path, *overrides: str) -> Path | None:
    return run(composed(*SMALLER, f"outputs_dir={outputs}", *overrides))


def ran(outputs: Path, *overrides: str) -> Path:
    folder = go(outputs, *overrides)
    assert folder is not None
    return folder


def snapshot(outputs: Path) -> dict[str, int]:
    """Every file under `outputs/` that holds a result, with the time it was written."""
    return {
        str(path.relative_to(outputs)): path.stat().st_mtime_ns
        for path in outputs.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.endswith(NOT_RESULTS)
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def summary(run: Path) -> Any:
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def first(outputs: Path) -> Path:
    """The run every test starts from."""
    return ran(outputs)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_a_run_leaves_what_the_design_says(outputs: Path, first: Path) -> None:
    assert first.parent == outputs / "runs" and (outputs / "latest").resolve() == first.resolve()
    mined = only(outputs / "mined", "*/manifest.json").parent
    for folder in (mined, first / "model", only(first, "evaluations/dev-*"), first / "card"):
        assert artifacts.is_complete(folder), folder
    assert {"config.yaml", "metrics.jsonl", "summary.json", "README.md", "model", "card", "evaluations"} <= {
        path.name for path in first.iterdir()
    }
    assert checkpoints.steps(first / "checkpoints") == [3, 6]
    dev = summary(first)["measures"]["dev"]
    assert {"as_retrieved", "positives_added"} <= set(dev)
    assert {"first_stage", "untrained", "trained", "differences"} <= set(dev["as_retrieved"])


def test_a_second_run_runs_nothing_and_says_so(outputs: Path, first: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = snapshot(outputs)
    with caplog.at_level(logging.INFO, "pipeline"):
        assert ran(outputs) == first
    assert snapshot(outputs) == before
    said = [record.getMessage().split()[0] for record in caplog.records if "nothing to do" in record.getMessage()]
    assert said == ["mine", "train", "evaluate", "card"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 3}'])
def test_a_broken_record_of_the_tracker_is_made_again(
    outputs: Path, first: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = first / "tracking.json"
    path.write_text(text)
    for warned in (True, False):
        with caplog.at_level(logging.WARNING, "pipeline"):
            MetricsLog(RunPlan(composed(*SMALLER, f"outputs_dir={outputs}")))
        assert ("tracking.json holds no id" in caplog.text) == warned
        caplog.clear()
    assert json.loads(path.read_text())["id"].startswith(f"{first.name}-")


def test_a_folder_where_a_run_makes_a_link_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(ArtifactError, match=r"latest must be a link, got a folder\. Rename it"):
        go(tmp_path)
    assert not (tmp_path / "mined").exists()
    assert go(tmp_path, "stop_after=mine") is None, "which makes no link"


@pytest.mark.parametrize("name", ["README.md", "config.yaml", "summary.json"])
def test_a_folder_where_a_run_writes_a_file_is_the_user_s_to_mend(outputs: Path, first: Path, name: str) -> None:
    before, kept = snapshot(outputs), (first / name).read_bytes()
    (first / name).unlink()
    (first / name).mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        go(outputs)
    said = f"{first / name} must be a file, got a folder. Move it away and run the same command again."
    assert str(unusable(refused.value)) == said
    (first / name).rmdir()
    assert ran(outputs) == first and (first / name).read_bytes() == kept
    assert snapshot(outputs).keys() == before.keys()


def test_a_torn_log_beside_a_finished_model_is_mended(outputs: Path, first: Path) -> None:
    before = snapshot(outputs)
    log = first / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:100])
    assert ran(outputs) == first
    assert log.read_bytes() == (first / "model" / "metrics.jsonl").read_bytes()
    assert snapshot(outputs).keys() == before.keys()


def test_runtime_and_tracking_are_no_part_of_a_name(outputs: Path, first: Path) -> None:
    before = snapshot(outputs)
    changed = ["runtime.micro_batch_tokens=999", "emissions=default", "tracking.project=other"]
    assert ran(outputs, *changed) == first
    assert snapshot(outputs) == before


def test_what_the_card_alone_shows_makes_the_card_alone_anew(outputs: Path, first: Path) -> None:
    before, card = snapshot(outputs), (first / "README.md").read_text()
    assert ran(outputs, "name=another", "model.license=mit", "model.language=de", "model.title=Other") == first
    after, changed = snapshot(outputs), (first / "README.md").read_text()
    here = first.relative_to(outputs)
    of_the_card = tuple(str(here / file) for file in ("card", "README.md", "summary.json"))
    assert all(name.startswith(of_the_card) for name in after if after[name] != before.get(name))
    assert "\nlicense: mit\n" in changed and "\n- de\n" in changed and summary(first)["name"] == "another"
    assert ran(outputs) == first and (first / "README.md").read_text() == card


def beir(collection: Path, pairs: list[tuple[str, str]], judged: str) -> Path:
    """A collection of passages, the first eight of which answer its queries."""
    (collection / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, (_, text) in enumerate(pairs)]
    (collection / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": f"q{i}", "text": text}) for i, (text, _) in enumerate(pairs[:8])]
    (collection / "queries.jsonl").write_text("\n".join(lines) + "\n")
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return collection


JUDGED = "".join(f"q{i}\td{i}\t1\n" for i in range(8))


def test_the_bi_encoders_files_are_hashed_once_for_all_sets(
    outputs: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [str(beir(tmp_path / name, sentences(24), JUDGED)) for name in ("one", "two")]
    hashed, digest_of = list[Path](), embeddings.folder_digest
    monkeypatch.setattr(embeddings, "folder_digest", lambda folder: hashed.append(folder) or digest_of(folder))
    own = shutil.copytree(outputs, tmp_path / "outputs", symlinks=True)
    added = [f"evaluation.collections=[{','.join(sets)}]", "evaluation.depth=10", "evaluation.bi_encoder=true"]
    measures = summary(ran(own, *added))["measures"]
    assert len(measures) == 3 and all("bi_encoder" in of["as_retrieved"] for of in measures.values())
    assert len(hashed) == 1


def test_a_set_added_to_the_evaluation_does_not_retrain(outputs: Path, first: Path, tmp_path: Path) -> None:
    trained_on = storage.read_rows(only(outputs, "mined/*/train").parent).questions
    pairs, judged = [(trained_on[0].upper(), f"About {trained_on[0]}."), *sentences(24)], JUDGED
    collection = beir(tmp_path / "tiny-beir", pairs, judged)

    before = snapshot(outputs)
    added = [f"evaluation.collections=[{collection}]", "evaluation.depth=10"]
    assert ran(outputs, *added) == first
    after = snapshot(outputs)
    new = {name for name in after if name not in before}
    changed = {name.split("/", 2)[2] for name in before if after.get(name) != before[name]}
    assert new and all("/evaluations/tiny-beir-" in name for name in new)
    assert changed and all(name.startswith(("card/", "README.md", "summary.json")) for name in changed), changed
    assert set(summary(first)["measures"]) == {"dev", "tiny-beir"}
    run_lines = only(first, "evaluations/tiny-beir-*/run.trec").read_text().splitlines()
    assert len({line.split()[0] for line in run_lines}) == 8
    assert summary(first)["measures"]["tiny-beir"]["queries_trained_on"] == 1
    card = (first / "README.md").read_text()
    assert "tiny-beir: 1 of its 8 queries is a training question too" in card and "- First stage: BM25\n" in card
    (verdict,) = [line for line in verify(Verification(run=str(first))).checked if "not scored again" in line]
    assert verdict == "figures: tiny-beir not scored again, only their files compared"

    # Its own first stage, for one query of eight, and a relevant passage that it lacks.
    (collection / "run.trec").write_text("q0 Q0 d0 1 1.0 own\n")
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged + "q1\tgone\t1\n")
    ran(outputs, *added)
    card = (first / "README.md").read_text()
    assert "- First stage: the run.trec in its folder\n" in card
    assert "- Note that 1 of 9 relevant passages are missing from the collection and count as not found\n" in card
    assert "- Note that the first stage finds no passage for 7 of 8 queries, which count 0 for it and for every" in card
    (collection / "run.trec").unlink()

    # The set's content is part of its name: another judgement, another evaluation; the run without it, as it was.
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged.replace("q7\td7", "q7\td1"))
    ran(outputs, *added)
    assert len(list(first.glob("evaluations/tiny-beir-*"))) == 3
    assert ran(outputs) == first and set(summary(first)["measures"]) == {"dev"}


@pytest.mark.parametrize(
    ("key", "content", "sentence"),
    [
        ("collections", None, "evaluation.collections must name a file or folder that exists"),
        ("collections", "q0\td0\tgreat\n", "qrels/test.tsv, line 2, grade must be a whole number up to 1000"),
        ("rivals", None, "evaluation.rivals must name a file or folder that exists"),
        ("rivals", "", "evaluation.rivals must be a folder with config.json"),
    ],
)
def test_what_evaluation_reads_is_looked_at_before_anything_is_made(
    outputs: Path, first: Path, tmp_path: Path, key: str, content: str | None, sentence: str
) -> None:
    folder = tmp_path / "asked"
    if content is not None:
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text('{"_id": "d0", "text": "t"}\n')
        (folder / "queries.jsonl").write_text('{"_id": "q0", "text": "t"}\n')
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + content)
    before = snapshot(outputs)
    with pytest.raises(PipelineError) as error:
        ran(outputs, "seed=4321", f"evaluation.{key}=[{folder}]")
    assert sentence in str(error.value)
    assert snapshot(outputs) == before


def test_a_base_model_is_no_rival(outputs: Path, first: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(first / "model", base)
    settings = {**json.loads((base / "config.json").read_text()), "architectures": ["BertModel"]}
    (base / "config.json").write_text(json.dumps(settings))
    with pytest.raises(
        ModelError, match=r"evaluation\.rivals must name trained cross-encoders with one label, got .*, a base"
    ):
        ran(outputs, "seed=4321", f"evaluation.rivals=[{base}]")


def test_a_cross_encoder_mines_nothing(outputs: Path, first: Path) -> None:
    before = snapshot(outputs)
    with pytest.raises(ModelError, match=r"^mining\.path must name a bi-encoder, .*, got a cross-encoder in "):
        ran(outputs, "mining=embedding", f"mining.path={first / 'model'}")
    assert snapshot(outputs) == before


@pytest.mark.parametrize(
    ("override", "sets"),
    [
        ("evaluation.resamples=777", {"dev", "tiny"}),
        ("evaluation.bi_encoder=true", {"dev", "tiny"}),
        ("evaluation.depth=7", {"tiny"}),
    ],
)
def test_what_decides_an_evaluation_names_it(
    outputs: Path, first: Path, tmp_path: Path, override: str, sets: set[str]
) -> None:
    (tmp_path / "tiny" / "qrels").mkdir(parents=True)
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv"):
        (tmp_path / "tiny" / name).write_text("{}\n")
    words = [*SMALLER, f"outputs_dir={outputs}", f"evaluation.collections=[{tmp_path / 'tiny'}]"]
    before, after = RunPlan(composed(*words)), RunPlan(composed(*words, override))
    assert {name for name in ("dev", "tiny") if evaluation_key(before, name) != evaluation_key(after, name)} == sets


@pytest.mark.parametrize("name", ["dev", "validation", "NanoNQ"])
def test_a_collection_is_not_mistaken_for_another_set(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    words = [*SMALLER, f"outputs_dir={tmp_path}/outputs", f"evaluation.collections=[{tmp_path / name}]"]
    planned = RunPlan(composed(*words))
    with pytest.raises(ConfigError, match=f"evaluation.collections must be folders with names that .*got '{name}'"):
        _ = planned.collections


def test_no_step_and_no_set_at_fixed_steps_leave_an_empty_log(outputs: Path, first: Path) -> None:
    folder = ran(outputs, "training.max_steps=0", "training.eval_sets=[]", "training.keep_best=false")
    assert (folder / "metrics.jsonl").read_text() == ""
    assert verify(Verification(run=str(folder), outputs_dir=str(outputs))).verified


def test_a_collection_of_the_hub_goes_by_its_name_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "0123456789ab"  # as the cache keeps it
    folder.mkdir()
    found = location.Located(folder, {"hub": "BeIR/SciFact", "commit": folder.name}, "")
    monkeypatch.setattr(RunPlan, "_locate", lambda *_: found)
    planned = RunPlan(composed(*SMALLER, f"outputs_dir={tmp_path}/outputs", "evaluation.collections=[BeIR/SciFact]"))
    assert list(planned.collections) == ["SciFact"]


def test_no_step_at_all_measures_a_model_as_it_is(
    outputs: Path, first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [
        "training.max_steps=0",
        "training.eval_sets=[dev]",
        "training.keep_best=true",
        "training.selection_set=dev",
    ]
    with caplog.at_level(logging.INFO, "pipeline"):
        untouched = ran(outputs, *asked)
    assert untouched != first and ran(outputs, *asked) == untouched
    found = summary(untouched)
    for protocol in ("as_retrieved", "positives_added"):
        assert found["measures"]["dev"][protocol]["trained"] == found["measures"]["dev"][protocol]["untrained"]
    assert found["selection"] is None and found["training"]["steps"] == 0
    table = " ".join(" ".join(record.getMessage() for record in caplog.records).split())
    assert (
        "No training step was taken (training.max_steps=0)" in table and "speed" not in table and "pairs/s" not in table
    )

    card = (untouched / "README.md").read_text()
    data = ModelCard(card).data
    assert data.model_name == "a random tiny BERT, not trained further" and data.eval_results
    assert data.tags == ["sentence-transformers", "cross-encoder", "text-classification"]
    for words in ("trained by this command", "### Training Dataset", "### Training Logs", "0.0 pairs/s", "finetuned"):
        assert words not in card
    assert "saved and measured by this command" in card and "- `training.max_steps`: 0" in card
    for said in (table, card):
        assert "its scoring head was drawn at random" in said and "as it is" not in said
    assert "with a scoring head drawn at random, saved in" in card

    again = ran(tmp_path, *asked, "model=custom", f"model.path={first / 'model'}")
    card = (again / "README.md").read_text()
    assert "the model is the base model as it is" in card and " as it is, saved in" in card and "at random" not in card


def test_training_may_take_shorter_pairs_than_are_scored(
    first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pipeline"):
        short = ran(tmp_path, "training.max_length=16")
    (logged,) = [row for row in map(json.loads, (short / "metrics.jsonl").open()) if row["kind"] == "train"][-1:]
    assert logged["tokens"] <= 16 * logged["pairs"]
    assert re.search(r"\d+ % of the rows are longer than training\.max_length=16 tokens and are cut there", caplog.text)
    assert own_max_length(short / "model") == own_max_length(first / "model") == 128
    assert "tokens, 16 in training (" in (short / "README.md").read_text()
    untrained = [summary(run)["measures"]["dev"]["as_retrieved"]["untrained"] for run in (first, short)]
    assert untrained[0] == untrained[1], "scoring sees the whole pair"
    verdict = verify(Verification(run=str(short), outputs_dir=str(tmp_path)))
    assert verdict.verified, verdict


def test_texts_that_the_tokenizer_does_not_know_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, script = tmp_path / "pairs.jsonl", str.maketrans("abcdefghijklmnopqrstuvwxyz", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณดตถทธนบ")
    rows = [{"question": q.translate(script), "answer": a.translate(script)} for q, a in sentences(130)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ran(tmp_path / "outputs", "data=local", f"data.path={path}", "data.limit=null")
    (said,) = [line for line in caplog.messages if "are unknown to its tokenizer" in line]
    assert said.startswith("model.path: ") and "Pass a model for the texts' language" in said
    assert "**Unknown Tokens:** " in (run / "README.md").read_text()


def test_a_sweep_over_the_seed_mines_once(outputs: Path, first: Path) -> None:
    runs = {ran(outputs, f"seed={seed}", "stop_after=train") for seed in (1, 2)} | {first}
    assert len(runs) == 3
    assert len(list((outputs / "mined").glob("*/manifest.json"))) == 1
    assert len(list((outputs / "tokens").glob("*/manifest.json"))) == 1
    assert len({digest(run / "model" / "model.safetensors") for run in runs}) == 3


@pytest.mark.parametrize("override", ["mining.negatives=2", "mining.seed=13", "data.split_seed=13"])
def test_another_mining_is_another_set(outputs: Path, first: Path, override: str) -> None:
    before = set((outputs / "mined").glob("*/manifest.json"))
    assert go(outputs, override, "stop_after=mine") is None
    (new,) = set((outputs / "mined").glob("*/manifest.json")) - before
    old = only_of(outputs, first)
    differ = digest(new.parent / "train" / "passage.npy") != digest(old.parent / "train" / "passage.npy")
    same_dev = digest(new.parent / "dev" / "queries.parquet") == digest(old.parent / "dev" / "queries.parquet")
    assert differ and same_dev is (not override.startswith("data"))
    shutil.rmtree(new.parent)  # the other tests count sets


def only_of(outputs: Path, run: Path) -> Path:
    """The mined set a run was trained on."""
    manifest = artifacts.manifest_of(run / "model")
    assert manifest is not None
    return only(outputs / "mined", f"*-{manifest['key']['mine']}/manifest.json")


def test_deleted_renderings_come_back_from_the_facts(outputs: Path, first: Path) -> None:
    texts = {name: (first / name).read_bytes() for name in ("README.md", "summary.json")}
    before = snapshot(outputs)
    for name in texts:
        (first / name).unlink()
        ran(outputs)
        assert (first / name).read_bytes() == texts[name]
    after = snapshot(outputs)
    assert {name for name in after if after[name] != before.get(name)} == {
        str((first / name).relative_to(outputs)) for name in texts
    }


def test_a_disk_without_links_keeps_a_finished_run(
    outputs: Path, first: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refusing)
    assert ran(outputs) == first
    assert (
        f"cannot make the link {outputs / 'latest'} (Operation not permitted): name this run with run={first}"
        in caplog.text
    )


def test_two_clean_runs_have_the_same_bytes(first: Path, tmp_path: Path) -> None:
    other = ran(tmp_path)
    assert other.name == first.name
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert digest(other / name) == digest(first / name), name
    for name in ("run.trec", "qrels.trec", "per_query.tsv", "measures.json"):
        assert digest(only(other, f"evaluations/dev-*/{name}")) == digest(only(first, f"evaluations/dev-*/{name}"))


def test_a_damaged_model_is_made_again_from_its_checkpoint(
    outputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = ran(outputs, "seed=3", "stop_after=train")
    path = run / "model" / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with caplog.at_level(logging.WARNING, "pipeline"):
        ran(outputs, "seed=3", "stop_after=train")
    assert "made again" in caplog.text and "was altered" in caplog.text
    assert path.read_bytes() == good and artifacts.is_complete(run / "model")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    outputs: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    update = MetricsLog.update

    def dying(self: MetricsLog, rows: Any) -> None:
        update(self, rows)
        if rows and rows[-1]["step"] == 5:
            raise Killed

    shutil.copytree(outputs / "cache", tmp_path / "cache")
    shutil.copytree(only_of(outputs, first).parent, tmp_path / "mined" / only_of(outputs, first).parent.name)
    monkeypatch.setattr(MetricsLog, "update", dying)
    with pytest.raises(Killed):
        go(tmp_path, "stop_after=train")
    run = only(tmp_path, f"runs/{first.name}")
    assert checkpoints.steps(run / "checkpoints") == [3] and not (run / "model").exists()
    assert not (tmp_path / "latest").exists()
    monkeypatch.setattr(MetricsLog, "update", update)
    assert ran(tmp_path, "stop_after=train") == run
    assert digest(run / "model" / "model.safetensors") == digest(first / "model" / "model.safetensors")
    losses = [
        [json.loads(line)["loss"] for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, first)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert json.loads((run / "model" / "training.json").read_text())["resumed_at"] == [3]


def local(path: Path, rows: int = 130) -> list[str]:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in sentences(rows)))
    return ["data=local", f"data.path={path}", "data.limit=null"]


def test_local_pairs_run_to_the_card_and_their_content_names_them(outputs: Path, first: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    run = ran(outputs, *local(path))
    measures = summary(run)["measures"]["dev"]["as_retrieved"]
    assert measures["first_stage"]["ndcg@10"] > 0.5, "the answers hold their questions' words"
    assert (run / "README.md").read_text().startswith("---\n")
    before = snapshot(outputs)
    assert ran(outputs, *local(path)) == run and snapshot(outputs) == before
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    assert ran(outputs, *local(moved)) == run and snapshot(outputs) == before
    renamed = moved.rename(tmp_path / "renamed.JSONL")
    assert ran(outputs, *local(renamed)) == run and "trained on renamed.JSONL\n" in (run / "README.md").read_text()
    kept = {name: mark for name, mark in before.items() if "/card/" not in name and "/model/" in name}
    assert len(kept) > 5 and kept.items() <= snapshot(outputs).items(), "the card alone is made again"
    assert ran(outputs, *local(path, 129), "stop_after=train") != run


@pytest.mark.parametrize(
    ("key", "reader", "made"),
    [
        ("data.path", "mine.mine_pairs", "mined/*"),
        ("data.dev_path", "mine.mine_pairs", "mined/*"),
        ("model.path", "train.load", "runs/*/model"),
        ("model.path", "evaluate.evaluation_set", "runs/*/evaluations/*"),
        ("evaluation.rivals", "evaluate.evaluation_set", "runs/*/evaluations/*"),
        ("evaluation.collections", "evaluate.evaluation_set", "runs/*/evaluations/beir*"),
    ],
)
def test_what_changes_between_being_named_and_being_read_makes_nothing_under_its_old_name(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, reader: str, made: str
) -> None:
    places = {name: tmp_path / name for name in ("pairs.jsonl", "dev.jsonl", "base", "rival", "beir")}
    pairs, dev, base, rival, beir = places.values()
    words = [*local(pairs), f"data.dev_path={dev}", "model=custom", f"model.path={base}", "model.max_length=128"]
    words += ["training.max_steps=1", f"evaluation.rivals=[{rival}]", f"evaluation.collections=[{beir}]"]
    lines = [json.dumps({"question": q, "answer": a}) + "\n" for q, a in sentences(150)]
    dev.write_text("".join(lines[130:]))
    for folder in (base, rival):
        shutil.copytree(first / "model", folder)
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text('{"_id": "a", "text": "apples"}\n{"_id": "b", "text": "houses"}\n')
    (beir / "queries.jsonl").write_text('{"_id": "1", "text": "apples"}\n')
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n")
    changing = {
        "data.path": (pairs, pairs), "data.dev_path": (dev, dev), "model.path": (base, base / "config.json"),
        "evaluation.rivals": (rival, rival / "config.json"), "evaluation.collections": (beir, beir / "corpus.jsonl"),
    }  # fmt: skip
    given, file = changing[key]
    module, name = reader.split(".")
    stage = sys.modules[f"pipeline.stages.{module}"]
    real = getattr(stage, name)

    def after_a_change(*arguments: Any, **others: Any) -> Any:
        with file.open("a") as stream:
            stream.write("\n")
        return real(*arguments, **others)

    last = f"stop_after={module}"
    with monkeypatch.context() as patch, pytest.raises(DataError) as refused:
        patch.setattr(stage, name, after_a_change)
        go(tmp_path / "out", *words, last)
    assert str(refused.value) == (
        f"{key}={given} must stay unchanged while a run reads it, got new content. Run the same command again."
    )
    assert not list((tmp_path / "out").glob(f"{made}/{artifacts.MANIFEST}"))
    assert not list((tmp_path / "out").glob("runs/*/checkpoints/*")) or module == "evaluate"
    go(tmp_path / "out", *words, last)
    assert list((tmp_path / "out").glob(f"{made}/{artifacts.MANIFEST}"))


def test_a_saved_run_is_a_model_to_start_from_and_a_rival(outputs: Path, first: Path) -> None:
    saved = first / "model"
    start = ["model=custom", f"model.path={saved}", "model.max_length=128", "training.max_steps=1"]
    run = ran(outputs, *start, f"evaluation.rivals=[{saved}]", "training.learning_rate=1.0e-9")
    assert run != first
    trained, before = (load_file(folder / "model" / "model.safetensors") for folder in (run, first))
    # One step at a rate of next to nothing: the head is the saved one, not one drawn from the seed.
    assert trained.keys() == before.keys()
    assert all(torch.allclose(trained[name], before[name], atol=1e-7) for name in before)
    measures = summary(run)["measures"]["dev"]["as_retrieved"]
    (name,) = rival_names([str(saved)])
    assert name == first.name and measures[name] == measures["untrained"]
    assert measures[name] == summary(first)["measures"]["dev"]["as_retrieved"]["trained"]
    assert first.name in (run / "README.md").read_text()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["owner/ranker", "runs/x-1/model"], ["ranker", "x-1"]),
        (["a/reranker", "b/reranker", "c/other@main"], ["a-reranker", "b-reranker", "other-main"]),
        (["x/trained", "y/bi_encoder", "z/differences"], ["x-trained", "y-bi_encoder", "z-differences"]),
        (["/models/first_stage/model"], ["models-first_stage"]),
        (["a/x@refs/pr/1", "a/y@refs/pr/1", ""], ["x-refs-pr-1", "y-refs-pr-1", "unnamed"]),
        (["."], [Path.cwd().name]),
    ],
)
def test_a_rivals_name_is_its_own(paths: list[str], names: list[str]) -> None:
    assert rival_names(paths) == names


@pytest.mark.parametrize("paths", [["a/model-1", "b/x", "a/model-1"], ["trained"], ["a/b-c", "a-b/c", "x/b-c", "y/c"]])
def test_two_rivals_of_one_name_are_refused(paths: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^evaluation\.rivals must be models with distinct names that the report"):
        rival_names(paths)


def test_pairs_that_are_not_there_are_missed_before_a_hub_is_asked(tmp_path: Path) -> None:
    hub = ["model=bert_tiny", "model.path=no/such-model", "data=local", f"data.path={tmp_path / 'gone.jsonl'}"]
    with pytest.raises(PipelineError, match=r"^data\.path=.*gone\.jsonl must exist, got nothing there\. "):
        go(tmp_path / "outputs", *hub)


def test_mining_needs_no_base_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert go(tmp_path, "model=custom", "model.path=no/such-model", "stop_after=mine") is None
    assert artifacts.is_complete(only(tmp_path, "mined/*/manifest.json").parent)
    assert "base model  such-model (no/such-model)" in caplog.messages


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["model=custom", "model.path={folder}"],
            r"model\.path must be a folder with config\.json, weights and ",
        ),
        (["model.max_length=100000"], r"model\.max_length must be at most the 512 positions of "),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_mining(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    outputs = tmp_path / "outputs"
    with pytest.raises(ModelError, match=f"^{said}"):
        go(outputs, "training.max_length=null", *(override.format(folder=tmp_path) for override in overrides))
    assert not list(outputs.glob("mined/*")) and not list(outputs.glob("runs/*"))


def test_a_rivals_weights_name_the_evaluation(outputs: Path, first: Path, tmp_path: Path) -> None:
    rival = tmp_path / "rival"
    shutil.copytree(first / "model", rival)
    before = len(list(first.glob("evaluations/dev-*")))
    ran(outputs, f"evaluation.rivals=[{rival}]", "stop_after=evaluate")
    weights = {name: tensor + 0.01 for name, tensor in load_file(rival / "model.safetensors").items()}
    save(weights, rival)
    ran(outputs, f"evaluation.rivals=[{rival}]", "stop_after=evaluate")
    assert len(list(first.glob("evaluations/dev-*"))) == before + 2


def save(weights: dict[str, torch.Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_model_that_cannot_be_read_leaves_nothing_behind(outputs: Path, first: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    before = snapshot(outputs)
    with pytest.raises(ModelError):
        go(outputs, "model=custom", f"model.path={tmp_path}")
    after = snapshot(outputs)
    assert {name.rsplit("/", 1)[1] for name in after if name not in before} <= {"config.yaml", ".model.pieces.json"}
