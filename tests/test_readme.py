"""What the README says, held to the files it speaks of."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture()
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def record(root: Path, name: str) -> Any:
    return json.loads((root / ".github" / "records" / name).read_text(encoding="utf-8"))


def test_every_path_it_names_is_there(root: Path, readme: str) -> None:
    named = set(re.findall(r"`((?:tests|pipeline|scripts|conf)/[\w./-]+\.\w+)`", readme))
    named |= set(re.findall(r"\]\(([\w./-]+)\)", readme))
    named |= {f".github/records/{name}" for name in re.findall(r"records/([\w-]+\.json)", readme)}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (root / name).exists()] == []


def test_every_make_target_it_names_is_there(root: Path, readme: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert len(named) > 10
    assert named - targets == set()


def test_its_quickstart_figures_are_the_records(root: Path, readme: str) -> None:
    measures = record(root, "quickstart.json")["measures"]["dev"]["as_retrieved"]
    for system in ("first_stage", "untrained", "bi_encoder", "fusion", "trained"):
        row = next(line for line in readme.splitlines() if line.startswith(system.replace("_", " ")))
        assert [f"{measures[system][name]:.4f}" for name in ("ndcg@10", "mrr@10", "map")] == re.findall(
            r"(?<![+\-\[.\d])\d\.\d{4}", row
        )[:3]
    gain = measures["difference"]["ndcg@10"]
    assert f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" in readme
    assert readme.count(f"{measures['first_stage']['ndcg@10']:.4f} → {measures['trained']['ndcg@10']:.4f}") == 2
    assert readme.count(f"{gain['low']:+.3f} to {gain['high']:+.3f}") >= 2
    assert f"({measures['trained_minus']['bi_encoder']['ndcg@10']['mean']:+.4f})" in readme


def test_nothing_is_left_to_fill_in(root: Path, readme: str) -> None:
    assert re.findall(r"@[A-Z0-9]+@", readme) == []
    assert "minutes" in record(root, "quickstart.json")["conditions"]


def test_its_figures_on_own_data_are_the_records(root: Path, readme: str) -> None:
    measures = record(root, "local_qed_scifact.json")["measures"]
    for name in ("dev", "scifact"):
        found = measures[name]["as_retrieved"]
        gain = found["difference"]["ndcg@10"]
        assert readme.count(f"{found['first_stage']['ndcg@10']:.4f} → {found['trained']['ndcg@10']:.4f}") == 2
        assert f"{gain['low']:+.3f} to {gain['high']:+.3f}" in readme
    assert f"{measures['dev']['as_retrieved']['bi_encoder']['ndcg@10']:.4f}" in readme


def test_its_ratios_are_the_records(root: Path, readme: str) -> None:
    found = sorted((root / ".github" / "records").glob("benchmark_*.json"))
    assert {"benchmark_train_minilm.json", "benchmark_train_minilm_dropout.json"} <= {path.name for path in found}
    for path in found:
        result = record(root, path.name)
        row = next((line for line in readme.splitlines() if path.name in line), None)
        assert row is not None, f"{path.name} has no row"
        assert result["pairs"] == len(result["ratio"]["pairs"]) == 5, path.name
        cells = [cell.strip() for cell in row.split("|")]
        ratio, recipe = result["ratio"], result["ratio_recipe"]
        assert cells[3].startswith(f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}), ")
        assert cells[4] == f"{recipe['median']:.2f}"
        assert cells[6] == f"{result['peak_rss_ratio']:.2f}"
        shares = [result[side].get("share_of_attainable") for side in ("ours", "reference")]
        assert cells[7] == ("–" if None in shares else " / ".join(f"{share:.0%}" for share in shares))
        assert cells[8].startswith(f"{result['work']['rows']:,} ")
        assert ("fp32" in cells[2]) == (result["precision"] == "fp32") or result["case"] == "mine"


@pytest.mark.parametrize("name", ["faults_quickstart.json", "faults_quickstart_cut.json"])
def test_its_count_of_kills_is_the_record(root: Path, readme: str, name: str) -> None:
    found = record(root, name)
    row = next(line for line in readme.splitlines() if name in line)
    assert f"{found['kills']} kills" in row and f"{len(found['lost'])} lost" in row
    assert found["models_of_the_runs"] == {found["undisturbed_model"]: len(found["kills_of_each_run"])}


def test_its_counts_of_published_facts_are_the_files(root: Path, readme: str) -> None:
    book = json.loads((root / "pipeline" / "reporting" / "published.json").read_text(encoding="utf-8"))
    said = readme[readme.index("The published facts have an id") :].replace("\n", " ")
    counts = [Counter(fact["status"] for fact in of["facts"]) for of in book.values()]
    words = {"config test": "config test", "loopback test": "hub on loopback",
             "needs a hub": "needs a hub", "needs a GPU": "needs a GPU"}  # fmt: skip
    assert set(words) == set().union(*counts)
    for status, word in words.items():
        assert f"{word} {' / '.join(str(count[status]) for count in counts)}" in said
    assert said.index("not yet run") < said.index("needs a hub") and said.index("on loopback") < said.index(
        "not yet run"
    )
