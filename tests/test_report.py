"""summary.json's fixed keys, and the table that renders them and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import run_facts

from pipeline.core.records import MEASURES
from pipeline.reporting.model_card import metadata, render
from pipeline.reporting.report import closing_table, headline, summary

RIVALS = ("untrained", "bi_encoder", "fusion", "trained")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return summary(run_facts.write(tmp_path_factory.mktemp("run"), systems=RIVALS))


def test_the_summary_is_json_with_the_fixed_keys(run: dict[str, object]) -> None:
    read = json.loads(json.dumps(run, allow_nan=False))
    for protocol in ("as_retrieved", "positives_added"):
        dev = read["measures"]["gooaq-dev"][protocol]
        for system in ("first_stage", *RIVALS):
            assert set(dev[system]) == {"map", "mrr@10", "ndcg@10"}
        assert set(dev["differences"]["trained"]["ndcg@10"]) == {"mean", "low", "high", "p"}
        gain = dev["trained"]["ndcg@10"] - dev["first_stage"]["ndcg@10"]
        assert dev["differences"]["trained"]["ndcg@10"]["mean"] == pytest.approx(gain)
    assert read["pairs_per_second"] == 2345.67
    assert read["energy_kwh"] == 0.019
    assert read["emissions_kg"] == pytest.approx(0.0076)
    assert read["emissions"]["all_stages"]["energy_kwh"] == pytest.approx(0.022)
    assert list(read["emissions"]["stages"]) == ["mine", "train", "evaluate"]
    for key in ("run", "model", "card"):
        assert Path(read[key]).is_absolute()
    assert read["sizes"] == {
        "training_rows": 8,
        "queries": {"gooaq-dev": 40, "NanoMSMARCO": 40, "NanoNQ": 40, "NanoBEIR_R100_mean": 80},
    }


def test_every_set_protocol_and_system_has_its_row(run: dict[str, object]) -> None:
    text = closing_table(json.loads(json.dumps(run)), 100)
    assert "\x1b" not in text
    lines = text.splitlines()
    start = lines.index("gooaq-dev, 40 queries, as retrieved")
    dev = run["measures"]["gooaq-dev"]["as_retrieved"]  # type: ignore[index]
    rows = {line[:12].strip(): line for line in lines[start + 3 : start + 8]}
    assert list(rows) == ["first stage", "untrained", "bi encoder", "fusion", "trained"]
    for system, line in rows.items():
        of = dev[system.replace(" ", "_")]
        assert line.split()[len(system.split()) :][:3] == [
            f"{of[measure]:.4f}" for measure in ("ndcg@10", "mrr@10", "map")
        ]
    gain = dev["differences"]["trained"]["ndcg@10"]
    assert f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" in rows["trained"]
    assert rows["first stage"].split()[-1] == f"{dev['first_stage']['map']:.4f}"
    assert len([line for line in lines if ", positives added (no claim against the first stage)" in line]) == 4


def test_verdicts_speed_energy_and_paths_follow(run: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    text = closing_table(run, 200)  # type: ignore[arg-type]
    assert "gooaq-dev: trained beats the first stage by +" in text
    assert "NanoNQ: trained is below the first stage by " in text
    assert "2,345.7 pairs/s (578,402 pairs, 356.4 s with evaluations)" in text
    assert "train: 0.019000 kWh, 0.007600 kg CO2eq (partly measured; grid DEU)" in text
    assert "all stages: 0.022000 kWh, 0.008800 kg CO2eq" in text
    assert f"model    {run['model']}" in text.splitlines()
    monkeypatch.chdir(Path(str(run["run"])).parent)
    assert "model    run/model" in closing_table(run).splitlines(), "as it would be typed"  # type: ignore[arg-type]


def test_a_narrow_terminal_cuts_no_figure_and_no_path(run: dict[str, object]) -> None:
    text = closing_table(run, 20)  # type: ignore[arg-type]
    assert "…" not in text
    assert f"card     {run['card']}" in text.splitlines()


def test_a_run_in_a_line(run: dict[str, object]) -> None:
    dev = run["measures"]["gooaq-dev"]["as_retrieved"]  # type: ignore[index]
    figures = [f"{dev[system]['ndcg@10']:.4f}" for system in ("trained", "first_stage")]
    said = headline(run)  # type: ignore[arg-type]
    assert said.startswith(f"gooaq-dev nDCG@10 {figures[0]} (first stage {figures[1]}); NanoMSMARCO nDCG@10 ")


def test_a_long_name_takes_several_lines_and_cuts_no_figure(tmp_path: Path) -> None:
    rival = "cross-encoder-ms-marco-MiniLM-L6-v2-c5ee24cb16019beea0893ab7796b1df96625c6b8"
    run = summary(run_facts.write(tmp_path, systems=("untrained", rival, "trained")))
    text = closing_table(run, 80)
    assert "…" not in text
    found = run["measures"]["gooaq-dev"]["as_retrieved"][rival]
    figures = [f"{found[measure]:.4f}" for measure in ("ndcg@10", "mrr@10", "map")]
    assert any(line.startswith("cross-encoder-ms") and line.split()[1:4] == figures for line in text.splitlines())
    assert rival in "".join(line.split(" ")[0] for line in text.splitlines())


def test_an_unset_country_and_unmeasured_stages_are_said(tmp_path: Path) -> None:
    emissions = {"mine": {"enabled": False}, "train": run_facts.energy(0.01, None), "evaluate": {"error": "OSError: x"}}
    made = summary(run_facts.write(tmp_path, emissions=emissions))
    text = closing_table(made, 200)
    assert "mine: not measured (emissions.enabled=false)" in text
    assert "evaluate: not measured (OSError: x)" in text
    assert "grid world average, no country set" in text
    assert "all stages: 0.010000 kWh, 0.004750 kg CO2eq" in text
    assert "; 2 not measured" in text
    off = summary(run_facts.write(tmp_path, emissions={"train": {"enabled": False}}))
    assert off["energy_kwh"] is None
    assert off["emissions_kg"] is None


def test_an_interrupted_training_and_a_failed_tracker_are_said_in_card_and_table(tmp_path: Path) -> None:
    training = {**run_facts.TRAINING, "processes": 3, "wall_seconds": 1234.56, "tracking": "W&B failed (x)"}
    facts = run_facts.write(tmp_path, training=training)
    said = "1,234.6 s over 3 processes, including loading and work repeated after an interruption"
    text = closing_table(summary(facts), 200)
    assert f"time     {said}" in text.splitlines() and "tracking W&B failed (x)" in text.splitlines()
    assert f"356.4 s with evaluations ({said}), precision bf16." in render(facts)
    assert "processes" not in render(run_facts.write(tmp_path / "once", training={**training, "processes": 1}))


def test_a_figure_of_the_selection_set_says_so(tmp_path: Path) -> None:
    training = {**run_facts.TRAINING, "best_step": 20, "selection_set": "gooaq-dev"}
    text = closing_table(summary(run_facts.write(tmp_path, training=training)), 300)
    assert "gooaq-dev: selected on this set" in text
    assert "the last step's (283) is 0.5000" in text


def test_table_card_and_the_hubs_index_name_the_same_measures(tmp_path: Path) -> None:
    facts = run_facts.write(tmp_path)
    labels = list(MEASURES.values())
    head = next(line for line in closing_table(summary(facts)).splitlines() if line.startswith("ranking"))
    assert sorted(head.split()[1:4]) == sorted(labels)
    card = render(facts)
    assert all(f"\n| {measure} | " in card for measure in MEASURES)
    index = metadata(facts).eval_results
    assert index is not None and {(result.metric_type, result.metric_name) for result in index} == set(MEASURES.items())
