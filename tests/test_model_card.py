"""Both experiments' cards against golden files, parsed back by the hub's own reader; one with hostile text in it.

`PYTHONPATH=. python tests/test_model_card.py` writes the golden files again after an intended change; read the
difference. A published experiment's is of what is composed, its published log and number of rows; `RIVALLED` has
rivals, hostile text and a best checkpoint.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import run_facts
from huggingface_hub import ModelCard, ModelCardData
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipeline.config.data import DataConfig, Format, MiningConfig, Retriever, Source
from pipeline.data.source import load
from pipeline.mining.miner import mine
from pipeline.reporting.facts import Facts
from pipeline.reporting.model_card import of_repository, render
from pipeline.reporting.report import summary

GOLDEN = Path(__file__).resolve().parent / "golden"
RIVALLED, TINY, LARGE = "rivalled", run_facts.TINY, run_facts.LARGE
FILES = {
    RIVALLED: GOLDEN / "model_card.md",
    TINY: GOLDEN / "model_card_bert_tiny.md",
    LARGE: GOLDEN / "model_card_modernbert_large.md",
}

RIVALS = ("untrained", "bi_encoder", "fusion", "trained")

BERT_TINY = {"base_model": "prajjwal1/bert-tiny", "title": "BERT-tiny trained on GooAQ"}

HEADS: dict[str, dict[str, Any]] = {
    RIVALLED: {**BERT_TINY, "size": 8, "sets": 4},
    TINY: {**BERT_TINY, "size": 578_402, "sets": 5},
    LARGE: {
        "base_model": "answerdotai/ModernBERT-large",
        "size": 578_402,
        "title": "ModernBERT-large trained on GooAQ",
        "sets": 5,
    },
}
"""What differs between the cards' YAML heads; `sets` counts the evaluated ones, their mean included."""


def _golden_facts(experiment: str, folder: Path) -> Facts:
    if experiment != RIVALLED:
        return run_facts.write_recipe(folder, experiment)
    training = {**run_facts.TRAINING, "best_step": 20, "saved_step": 20, "selection_set": "gooaq-dev"}
    return run_facts.write(folder, training=training, systems=RIVALS)


@pytest.fixture(scope="module")
def all_facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    return {experiment: _golden_facts(experiment, tmp_path_factory.mktemp("run")) for experiment in FILES}


@pytest.fixture(scope="module")
def cards(all_facts: dict[str, Facts]) -> dict[str, str]:
    return {experiment: render(facts) for experiment, facts in all_facts.items()}


@pytest.fixture
def facts(all_facts: dict[str, Facts]) -> Facts:
    return all_facts[RIVALLED]


@pytest.fixture
def card(cards: dict[str, str]) -> str:
    return cards[RIVALLED]


@pytest.mark.parametrize("experiment", FILES)
def test_the_card_is_the_golden_file(cards: dict[str, str], experiment: str) -> None:
    assert cards[experiment] == FILES[experiment].read_text(encoding="utf-8")


@pytest.mark.parametrize("experiment", FILES)
def test_the_hub_s_reader_finds_every_field(cards: dict[str, str], experiment: str) -> None:
    data, expected = ModelCard(cards[experiment]).data, HEADS[experiment]
    assert isinstance(data, ModelCardData)
    assert data.language == ["en"]
    assert data.license == "apache-2.0"
    assert data.base_model == expected["base_model"]
    assert data.datasets == ["sentence-transformers/gooaq"]
    assert data.pipeline_tag == "text-ranking"
    assert data.library_name == "sentence-transformers"
    assert data.metrics == ["map", "mrr@10", "ndcg@10"]
    assert data.tags == [
        "sentence-transformers",
        "cross-encoder",
        "text-classification",
        "generated_from_trainer",
        f"dataset_size:{expected['size']}",
        "loss:BinaryCrossEntropyLoss",
    ]
    assert data.model_name == expected["title"]
    assert data.to_dict()["co2_eq_emissions"] == {
        "emissions": 7.6,
        "energy_consumed": 0.019,
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "on_cloud": False,
        "cpu_model": "13th Gen Intel(R) Core(TM) i7-13700K",
        "ram_total_size": 31.777088165283203,
        "hours_used": 0.099,
        "hardware_used": "1 x NVIDIA GeForce RTX 3090",
    }


def test_parameters_and_rows_are_those_that_were_used(tmp_path: Path) -> None:
    evaluation = {**run_facts.CONFIG["evaluation"], "depth": 20}
    logged = [row for row in run_facts.LOG if row["kind"] == "train"]
    logged.append({"kind": "evaluation", "step": 20, "epoch": 0.07, "seconds": 1.0,
                   "evaluation": {"validation": {"map": 0.5, "mrr@10": 0.5, "ndcg@10": 0.5}}})  # fmt: skip
    facts = run_facts.write(tmp_path, config={**run_facts.CONFIG, "evaluation": evaluation}, log=logged)
    facts.statistics |= {"given_negatives": 3, "leaks": {
        "train_rows_with_a_held_out_question": 1000, "train_rows_with_a_held_out_positive": 234, "dropped": True,
    }}  # fmt: skip
    card = render(facts)
    assert '"rerank_k": 100' in card and '"rerank_k": 20' not in card  # NanoBEIR's lists are cut at 100 whatever asked
    assert "validation_ndcg@10" in card and "| saved model |" not in card  # no set of the log is reported at the end
    assert "Its negatives were given or mined" in card
    assert "- Left out: 1,234 rows: 1,000 that share a question with a held-out part, 234 whose passage is" in card
    facts.statistics["leaks"]["dropped"] = False
    assert "Left out" not in render(facts)


def test_emissions_are_grams_in_the_head_and_kg_in_the_body(card: str, facts: Facts) -> None:
    kg = summary(facts)["emissions_kg"]
    impact = ModelCard(card).data.to_dict()["co2_eq_emissions"]
    assert impact["emissions"] == pytest.approx(1000 * kg)
    assert impact["energy_consumed"] == facts.emissions["train"]["energy_kwh"]
    assert f"- **Carbon Emitted:** {kg:.6f} kg of CO2eq" in card
    assert "| all stages | 0.022000 | 0.008800 |" in card


@pytest.mark.parametrize("experiment", FILES)
def test_the_model_index_holds_every_figure_once(
    cards: dict[str, str], all_facts: dict[str, Facts], experiment: str
) -> None:
    facts, results = all_facts[experiment], ModelCard(cards[experiment]).data.eval_results
    assert results is not None
    found = {(r.dataset_type, r.dataset_config, r.metric_type): r.metric_value for r in results}
    assert len(found) == len(results) == HEADS[experiment]["sets"] * 2 * 3
    for (name, protocol, measure), value in found.items():
        assert value == facts.measures[name][protocol]["trained"][measure]


def test_text_from_data_acts_on_nothing(card: str) -> None:
    assert run_facts.HOSTILE.startswith("Is <script>")
    assert "<script" not in card
    assert "<b>" not in card
    assert "\n# not a heading" not in card
    prose = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert "[link](" not in prose
    assert "**bold**" not in prose
    rows = card[card.index("- Samples:") :].splitlines()[2:7]
    assert [row.count("|") for row in rows] == [4] * 5


def test_the_usage_code_is_python_with_five_pairs_of_the_data(card: str) -> None:
    code = card.partition("```python\n")[2].partition("\n```")[0]
    tree = ast.parse(code)
    assigned = {
        node.targets[0].id: node.value  # type: ignore[attr-defined]
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    pairs = ast.literal_eval(assigned["pairs"])
    assert pairs == [[run_facts.HOSTILE, f"passage {number} of <b>text</b>"] for number in range(5)]
    assert "# (5,)" in code
    assert ast.unparse(assigned["scores"]) == "model.predict(pairs)"
    assert "model.rank(" in code


def test_no_path_of_this_machine_is_in_it(card: str, facts: Facts) -> None:
    assert "/home/someone" not in card
    assert facts.paths["run"] not in card


def test_the_kept_row_is_bold_and_the_selection_said(card: str, tmp_path: Path) -> None:
    assert "| **0.0707** | **20** | **1.1664** |" in card
    assert "selected on this set" in card
    last = render(run_facts.write(tmp_path))
    assert "| 0.0707 | 20 | 1.1664 |" in last
    assert "selected on this set" not in last


def test_a_recipe_without_best_checkpoint_has_no_bold_row(cards: dict[str, str]) -> None:
    log = cards[TINY].partition("### Training Logs")[2].partition("## Environmental Impact")[0]
    assert "| 1.0000 | 283 | " in log and "**" not in log
    assert "selected on this set" not in cards[TINY] and "`keep_best`" not in cards[TINY]


def test_being_below_the_first_stage_is_said_plainly(card: str) -> None:
    assert "**This model is below its first stage in nDCG@10, as retrieved, on: NanoNQ.**" in card


def test_the_share_of_pairs_that_were_cut_is_said(card: str, tmp_path: Path) -> None:
    cut = render(run_facts.write(tmp_path, training={**run_facts.TRAINING, "cut_share": 0.254}))
    assert "tokens (25.4 % of the training pairs are longer and were cut)\n- **Number" in cut
    assert "were cut" not in card
    training = {**run_facts.TRAINING, "cut_share": 0.254, "steps": 0}
    untrained = render(run_facts.write(tmp_path / "untrained", training=training))
    assert "were cut" not in untrained


def test_the_usage_loads_the_runs_own_model_until_it_has_a_name_on_the_hub(tmp_path: Path) -> None:
    card = render(run_facts.write(tmp_path))
    assert card.count("CrossEncoder('outputs/runs/run/model')") == 1 and str(tmp_path) not in card
    for place in ("runs/run", "runs/bert-tiny-0123456789ab", "latest"):
        pushed = of_repository(card.replace("outputs/runs/run/", f"outputs/{place}/"), "me/reranker")
        assert pushed == card.replace("'outputs/runs/run/model'", "'me/reranker'"), place


def test_an_unset_country_is_said(tmp_path: Path) -> None:
    card = render(run_facts.write(tmp_path, emissions={"train": run_facts.energy(0.01, None)}))
    assert "- **Grid:** world average, 475.0 g CO2eq/kWh (no country set)" in card
    assert "| all stages |" not in card


@pytest.mark.parametrize(
    ("record", "said"),
    [({"enabled": False}, "not measured"), ({"error": "OSError: no | sensor"}, "OSError: no &#124; sensor")],
)
def test_energy_that_is_not_known_is_no_figure(record: dict[str, object], said: str, tmp_path: Path) -> None:
    card = render(run_facts.write(tmp_path, emissions={"train": record}))
    assert f"The energy used in training is not known: {'codecarbon failed: ' * ('error' in record)}{said}." in card
    assert "co2_eq_emissions" not in ModelCard(card).data.to_dict()


def test_local_data_and_models_claim_no_name_on_the_hub(tmp_path: Path) -> None:
    config = {
        **run_facts.CONFIG,
        "model": {
            **run_facts.CONFIG["model"],
            "path": "package:some_package",
            "title": None,
            "name": "my|model",
            "language": None,
            "license": None,
        },
        "data": {**run_facts.CONFIG["data"], "source": "local", "path": "/home/someone/pairs.jsonl", "title": None},
    }
    card = render(run_facts.write(tmp_path, config=config, base_id=None, data_id=None))
    data = ModelCard(card).data.to_dict()
    assert "base_model" not in data
    assert "datasets" not in data and "language" not in data and "license" not in data
    assert "- **Language:** not stated\n- **License:** not stated\n" in card
    assert "\n# my&#124;model trained on gooaq\n" in card
    assert ModelCard(card).data.model_name == "my|model trained on gooaq"


@pytest.mark.parametrize("experiment", FILES)
def test_the_page_has_its_sections_and_whole_tables(cards: dict[str, str], experiment: str) -> None:
    expected = HEADS[experiment]
    body = cards[experiment].split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    for section in (
        expected["title"],
        "Model Details",
        "Model Description",
        "Model Sources",
        "Usage",
        "Direct Usage (Sentence Transformers)",
        "Evaluation",
        "Cross Encoder Nano BEIR: NanoBEIR_R100_mean, `positives_added`",
        "Training Details",
        "Training Dataset",
        "Training Hyperparameters",
        "Non-Default Hyperparameters",
        "All Hyperparameters",
        "Training Logs",
        "Environmental Impact",
        "Training Hardware",
        "Framework Versions",
        "Limitations",
        "Citation",
        "BibTeX",
    ):
        assert headings.count(section) == 1, section
    widths: list[list[int]] = []
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("td_open", "th_open"):
            widths[-1][-1] += 1
    assert len(widths) == 2 * expected["sets"] + 2 + 1 + 1  # evaluations, statistics and samples, log, energy
    assert all(len(set(of)) == 1 and len(of) > 1 for of in widths)
    assert all(line.count("|") == 0 for line in _paragraphs(tokens)), "a table row outside a table"


def _paragraphs(tokens: list[Token]) -> list[str]:
    """Texts of paragraphs, where a broken table would end up."""
    return [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "paragraph_open"]


def test_every_reason_why_a_source_row_is_no_training_row_is_in_the_card(tmp_path: Path) -> None:
    """Their counts, the training rows and the held-out rows add up to the rows that were read."""
    rows: list[dict[str, Any]] = []
    for number in range(300):
        group = f"g{number // 10}"
        own = {"question": f"what is thing {number}", "group": group}
        rows.append({**own, "answer": f"Thing {number} is number {number}.", "label": 1})
        rows.append({**own, "answer": f"Thing {number + 1} is a stone.", "label": 0})
        if number % 10 == 0:
            rows.append({**own, "answer": f"THING {number} is number {number}. ", "label": 1})  # the same, folded
            rows.append(dict(rows[-2]))
            rows.append({**own, "question": f"what else is {number}", "answer": "No answer to this.", "label": 0})
            rows.append({**own, "question": " ", "answer": "An answer without a question.", "label": 1})
            rows.append({**own, "question": f"what is missing {number}", "answer": None, "label": 1})
            rows.append({**own, "question": f"what is all {number}", "answer": "Everything is a thing.", "label": 1})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(
        source=Source.local, name="x", path=str(path), format=Format.labelled, group_column="group",
        dev_queries=25, validation_queries=25, queries_per_group=5,
    )  # fmt: skip
    split = load(data, source=None, cache=tmp_path / "cache")
    split.train.questions[0] = split.dev.questions[0]  # as a dev file of its own may repeat a training question
    mined = mine(split, MiningConfig(retriever=Retriever.bm25, negatives=1), tmp_path / "cache")
    assert split.validation is not None
    facts = run_facts.write(tmp_path)
    facts.statistics = {**split.statistics, **mined.statistics}
    (line,) = re.findall(r"^- Left out: (.*)$", render(facts), re.MULTILINE)
    total, _, reasons = line.partition(" rows: ")
    counts = {words: int(count) for count, words in re.findall(r"(\d+) ([^,]+)", reasons)}
    assert sum(counts.values()) == int(total)
    held = [part["rows_loaded"] for name, part in split.statistics["parts"].items() if name != "train"]  # type: ignore[attr-defined]
    own = mined.statistics["positives"] + mined.statistics["given_negatives"]
    assert int(total) == len(rows) - sum(held) - own
    assert list(counts) == [
        "without a question", "without an answer", "that repeat an earlier row", "of questions without a positive",
        "of held-out groups beyond the questions chosen from them", "that share a question with a held-out part",
        "whose passage is a positive of a held-out part", "that repeat an earlier pair",
    ]  # fmt: skip
    facts.statistics = {"parts": {"train": {"dropped": {"blank_or_null_answer": 1}}}}
    assert "\n- Left out: 1 row without an answer\n" in render(facts)
    facts.statistics = {"rows_read": 900, "rows_after_limit": 600}
    assert "\n- Left out: 300 rows beyond `data.limit`\n" in render(facts)
    facts.statistics = {**split.statistics, **mined.statistics}
    facts.statistics["leaks"]["dropped"] = False
    assert "held-out part" not in render(facts).partition("- Left out: ")[2].partition("\n")[0]


def test_the_card_says_how_the_first_stage_s_map_differs_from_published_ones(tmp_path: Path) -> None:
    said = "ranks the positives that the first stage missed below its list: its MAP of the first stage can be higher"
    assert render(run_facts.write(tmp_path / "nano")).count(said) == 1
    own = {**run_facts.CONFIG, "evaluation": {**run_facts.CONFIG["evaluation"], "nano_beir": []}}
    assert said not in render(run_facts.write(tmp_path / "own", config=own))


def test_each_stage_names_its_grid(tmp_path: Path) -> None:
    stages = {"mine": run_facts.energy(0.01, None), "train": run_facts.energy(0.02, "FRA")}
    card = render(run_facts.write(tmp_path, emissions=stages))
    rows = [line.strip("| ").split(" | ") for line in card.splitlines()]
    grids = {row[0]: row[3] for row in rows if row[0] in ("mine", "train", "all stages")}
    assert grids == {"mine": "world average", "train": "FRA", "all stages": "world average, FRA"}
    assert "- **Grid:** FRA, " in card


@pytest.mark.parametrize(
    ("steps", "trained"), [(42, ""), (1, ", of which 64 were trained on")], ids=["a whole epoch", "one step"]
)
def test_size_states_the_samples_trained_on(tmp_path: Path, steps: int, trained: str) -> None:
    facts = run_facts.write(tmp_path)
    facts.rows = {**facts.rows, "size": 2687}
    facts.training = {**facts.training, "rows": 2687, "steps": steps, "batch_size": 64, "epochs": 1}
    card = render(facts)
    assert f"- Size: 2,687 training samples{trained}\n- Columns" in card and "dataset_size:2687\n" in card
    assert ("\n1 step, 64 pairs, " in card) is (steps == 1)


def test_single_thread_is_in_the_singular(tmp_path: Path) -> None:
    facts = run_facts.write(tmp_path)
    facts.provenance = {**facts.provenance, "threads": {"intra_op": 1, "inter_op": 1}}
    assert re.search(r"CPU Model:.*, 1 thread$", render(facts), re.MULTILINE)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for experiment, file in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            file.write_text(render(_golden_facts(experiment, Path(folder))), encoding="utf-8")
