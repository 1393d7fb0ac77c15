"""What the documents say, held to the files they speak of."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.argument_parser import keys
from pipeline.config.schema import Config
from pipeline.reporting.report import closing_table

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / ".github"
README, RESULTS, SPEED = ROOT / "README.md", HERE / "RESULTS.md", HERE / "SPEED.md"
FAULTS = HERE / "FAULTS.md"
HISTORY = HERE / "CHANGELOG.md"
"""Speaks of what was, too: its commands and keys need not be there any more."""

DOCUMENTS = [README, *sorted(HERE.glob("*.md"))]
PRESENT = [path for path in DOCUMENTS if path != HISTORY]

SECTIONS = "model|data|mining|training|evaluation|runtime|tracking|emissions|hub"
FILE_ENDINGS = {"json", "jsonl", "md", "py", "safetensors", "tsv", "yaml"}

EXTRACT = {
    "train BERT-tiny": "benchmark_train_bert_tiny_avx512_bf16.json",
    "evaluate BERT-tiny": "benchmark_evaluate_avx512_bf16.json",
    "the same at 14 steps": "benchmark_evaluate_steps.json",
    "mine 100,000 questions": "benchmark_mine.json",
    "train MiniLM": "benchmark_train_minilm_avx512_bf16.json",
    "whole quickstart, shortened": "quickstart_in_pairs.json",
}
"""First cell of each row of README's table of speed → its record."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def record(name: str) -> Any:
    return json.loads(text_of(HERE / "records" / name))


def tables(text: str) -> Iterator[list[list[str]]]:
    """Every table as rows of cells, its heads first and its rule left out."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        yield [[cell.strip() for cell in row] for number, row in enumerate(rows) if number != 1]


def rows_under(text: str, head: str) -> list[list[str]]:
    """The rows of the one table that has this head."""
    (found,) = (table[1:] for table in tables(text) if head in table[0])
    return found


def words_of(text: str) -> list[str]:
    """Words of code: of spans in prose, of fenced blocks, and inside the quotes of `ARGS`."""
    fences = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [word for code in [*fences, *re.findall(r"`([^`\n]+)`", prose)] for word in re.split(r"[\s\"']+", code)]


def keys_in(text: str) -> set[str]:
    """The keys of the configuration that a text names in code, with or without a value."""
    named = (re.fullmatch(rf"((?:{SECTIONS})\.(\w+))(?:=.*)?", word) for word in words_of(text))
    return {match[1] for match in named if match and match[2] not in FILE_ENDINGS}


def anchors(text: str) -> set[str]:
    """What a link may name after `#`."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def ratio_cell(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def setting_cell(setting: dict[str, Any]) -> str:
    if "use_faiss" in setting:
        return "FAISS" if setting["use_faiss"] else "no FAISS"
    size = f", {setting['batch_size']}" if "batch_size" in setting else ""
    return {"eager": "eager", "sdpa": "SDPA"}[setting["attention"]] + size


def machine_cell(found: dict[str, Any]) -> str:
    machine = "A" if "Intel" in found["hardware"]["cpu_model"] else "B"
    return machine + (", fp32" if found["precision"] == "fp32" else "")


def benchmarks() -> dict[str, Any]:
    """Name → record of each row of SPEED's table."""
    names = [path.name for path in sorted((HERE / "records").glob("benchmark_*.json"))]
    return {name: record(name) for name in [*names, EXTRACT["whole quickstart, shortened"]]}


# --- What is named is there -------------------------------------------------------------------------------------------


def test_every_path_a_document_names_is_there() -> None:
    text = "".join(map(text_of, DOCUMENTS))
    named = {ROOT / name for name in re.findall(r"`((?:tests|pipeline|scripts|conf|\.github)/[\w./-]+\.\w+)`", text)}
    assert len(named) > 20
    named |= {HERE / "records" / name for name in re.findall(r"records/([\w-]+\.\w+)", text)}
    assert [str(found) for found in sorted(named) if not found.exists()] == []


def test_every_link_leads_somewhere() -> None:
    links = [(path, link) for path in DOCUMENTS for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path))]
    assert len(links) > 50
    for path, link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(text_of(target)), f"{path.name}: {link}"


def test_every_record_is_named_in_a_document() -> None:
    text = "".join(map(text_of, PRESENT))
    unnamed = [path.name for path in (HERE / "records").iterdir() if f"records/{path.name}" not in text]
    assert unnamed == []


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {
        target for path in PRESENT for target in re.findall(r"(?:^|`|\$ )make ([a-z][a-z-]*)", text_of(path), re.M)
    }
    assert len(named) > 20
    assert named - targets == set()


@pytest.mark.parametrize("path", PRESENT, ids=lambda path: path.name)
def test_every_key_is_one_of_the_configuration(path: Path) -> None:
    known = set(keys(Config))
    assert keys_in(text_of(path)) - known == set()


def test_keys_are_found_where_documents_name_them() -> None:
    prose = "Say `data.rows` or `seed=1 hub.refresh=true`, not `data.py` or data.path.\n"
    code = '```console\nmake x ARGS="mining.seed=2 evaluation.a=[b]"\n```\n'
    assert keys_in(prose + code) == {"data.rows", "hub.refresh", "mining.seed", "evaluation.a"}
    assert len(keys_in(text_of(HERE / "USAGE.md"))) > 30


@pytest.mark.parametrize(("path", "most"), [(README, 120), (RESULTS, 100)], ids=["README.md", "RESULTS.md"])
def test_no_cell_of_a_table_is_a_paragraph(path: Path, most: int) -> None:
    cells = [cell for table in tables(text_of(path)) for row in table for cell in row]
    assert len(cells) > 20
    assert [cell for cell in cells if len(cell) > most] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in(path: Path) -> None:
    assert re.findall(r"@[A-Z0-9]+@|\bTODO\b|\bTBD\b|\bFIXME\b", text_of(path)) == []


# --- The quickstart and own data --------------------------------------------------------------------------------------


def test_the_closing_block_is_what_a_run_prints() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```", text_of(README), re.MULTILINE | re.DOTALL)
    place = "outputs/runs/…"
    paths = {"model": f"{place}/model", "card": f"{place}/README.md", "run": place}
    printed = closing_table({**record("quickstart.json"), "selection": None, **paths}).splitlines()
    for part in re.split(
        r"^…\n", shown, flags=re.MULTILINE
    ):  # each part stands in the run's own output as it is, in this order
        wanted = part.splitlines()
        starts = [at for at in range(len(printed)) if printed[at : at + len(wanted)] == wanted]
        assert starts, part
        printed = printed[starts[0] + len(wanted) :]
    assert printed == [], "and ends with its last line"


def test_the_quickstarts_figures_are_the_records() -> None:
    found = record("quickstart.json")
    of = found["measures"]["dev"]["as_retrieved"]
    gain, rival = of["differences"]["trained"]["ndcg@10"], of["trained_minus"]["bi_encoder"]["ndcg@10"]
    arrow = f"{of['first_stage']['ndcg@10']:.4f} → {of['trained']['ndcg@10']:.4f}"
    assert f"{arrow} ({gain['low']:+.3f} to {gain['high']:+.3f})" in text_of(README).replace("\n", " ")
    assert f"({rival['mean']:+.4f})" in text_of(README)
    for name in ("quickstart", "quickstart_avx512_bf16", "quickstart_amx", "quickstart_fp32", "quickstart_batch8",
                 "quickstart_avx2"):  # fmt: skip
        found = record(f"{name}.json")
        of = found["measures"]["dev"]["as_retrieved"]
        gain = of["differences"]["trained"]["ndcg@10"]
        arrow = f"{of['first_stage']['ndcg@10']:.4f} → {of['trained']['ndcg@10']:.4f}"
        said = f"{arrow}, difference {gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
        assert said in section_naming(f"{name}.json"), name
        assert found["git"]["commit"][:7] in section_naming(f"{name}.json"), name
        assert "minutes" in found["conditions"]


def section_naming(name: str) -> str:
    """The part of RESULTS, from one `###` to the next head, that links to a record."""
    (found,) = (part for part in re.split(r"^##+ ", text_of(RESULTS), flags=re.M) if f"(records/{name})" in part)
    return found


def test_roundings_of_one_seed_are_the_records() -> None:
    names = ("quickstart", "quickstart_avx512_bf16", "quickstart_amx", "quickstart_fp32")
    rows = {row[1]: row for row in rows_under(text_of(RESULTS), "arithmetic")}
    figures = []
    for name in names:
        found = record(f"{name}.json")
        of = found["measures"]["dev"]["as_retrieved"]
        gain = of["differences"]["trained"]["ndcg@10"]
        figures.append(f"{of['trained']['ndcg@10']:.4f}")
        row = rows.pop(found["git"]["commit"][:7])
        assert row[2:] == [figures[-1], f"{gain['low']:+.4f} to {gain['high']:+.4f}"]
    assert not rows
    assert f"one seed has given {min(figures)} to {max(figures)}" in text_of(README).replace("\n", " ")


def test_figures_on_own_data_are_the_records() -> None:
    measures = record("local_qed_scifact.json")["measures"]
    rows = rows_under(text_of(README), "trained minus BM25, 95 %")
    for row, (name, word) in zip(rows, (("dev", "QED"), ("scifact", "SciFact")), strict=True):
        found = measures[name]["as_retrieved"]
        gain = found["differences"]["trained"]["ndcg@10"]
        assert row[0].startswith(f"{word}, {measures[name]['queries']} ")
        assert row[1:4] == [f"{found[system]['ndcg@10']:.4f}" for system in ("first_stage", "bi_encoder", "trained")]
        interval = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        assert row[4] == interval
        arrow = f"{found['first_stage']['ndcg@10']:.4f} → {found['trained']['ndcg@10']:.4f}"
        said = f"{arrow}, difference {gain['mean']:+.3f} ({interval})"
        assert said in section_naming("local_qed_scifact.json").replace("\n", " ")


# --- Speed ------------------------------------------------------------------------------------------------------------


def test_the_ratios_are_the_records() -> None:
    rows = rows_under(text_of(SPEED), "commit")
    named = {match[2]: (match[1], row) for row in rows if (match := re.search(r"\[(\w+)\]\(records/(.+)\)", row[9]))}
    assert set(named) == set(benchmarks()) and len(rows) == len(named) >= 14
    for name, found in benchmarks().items():
        commit, row = named[name]
        three = found["case"] == "quickstart"
        assert found["pairs"] == len(found["ratio"]["pairs"]) == (3 if three else 5), name
        assert ("three pairs" in row[0]) == three
        assert row[1] == machine_cell(found), name
        assert row[2] == ratio_cell(found["ratio"]), name
        assert row[3] == setting_cell(found["reference"]["setting"]), name
        assert row[4] == f"{found['ratio_recipe']['median']:.2f}", name
        assert row[6] == f"{found['peak_rss_ratio']:.2f}", name
        shares = [found[side].get("share_of_attainable") for side in ("ours", "reference")]
        assert row[7] == ("–" if None in shares else " / ".join(f"{share:.0%}" for share in shares)), name
        assert row[8].startswith(f"{found['work']['rows']:,} "), name
        assert commit == found["git"]["commit"][:7], name


def test_the_bounds_follow_from_the_records() -> None:
    measured = [row for row in rows_under(text_of(SPEED), "commit") if row[7] != "–"]
    bounds = rows_under(text_of(SPEED), "bound on the speed-up")
    for row, bound in zip(measured, bounds, strict=True):
        found = benchmarks()[re.findall(r"records/(.+)\)", row[9])[0]]
        needed = 5 / 6 if found["work"]["model"] == "minilm" else 1 / 2
        share, ratio = found["reference"]["share_of_attainable"], found["ratio"]["median"]
        most = 1 / (share * needed)
        assert bound[0].split(",")[0] == row[0].split(",")[0]
        assert bound[1:] == [row[1], f"{share:.1%}", f"{most:.1f}", f"{ratio:.2f}", f"{ratio / most:.0%}"]


def test_readmes_extract_of_speed_is_the_records() -> None:
    rows = rows_under(text_of(README), "peak memory, ours / theirs")
    assert [row[0] for row in rows] == list(EXTRACT)
    for row in rows:
        found = benchmarks()[EXTRACT[row[0]]]
        assert machine_cell(found) == "B"
        ratios = [ratio_cell(found["ratio"]), f"{found['ratio_recipe']['median']:.2f}"]
        assert row[1:] == [*ratios, f"{found['peak_rss_ratio']:.2f}"]
    text = text_of(README).replace("\n", " ")
    whole, minilm = benchmarks()[EXTRACT["whole quickstart, shortened"]], benchmarks()[EXTRACT["train MiniLM"]]
    assert f"{whole['ours']['peak_rss_gib']:.2f} GiB against {whole['reference']['peak_rss_gib']:.2f}" in text
    share = minilm["reference"]["share_of_attainable"]
    assert f"at {share:.0%}".replace("%", " %") in text
    assert f"at most {1 / (share * 5 / 6):.1f}" in text


def test_growth_is_the_records() -> None:
    curves = record("growth.json")["curves"]
    said = section_naming("growth.json").replace("\n ", "")
    steps = [point["seconds"] for point in curves["train"]]
    peaks = [point["peak_rss_gib"] for point in curves["train"]]
    assert f"a step takes {min(steps):.3f} to {max(steps):.3f} s" in said
    assert f"peak memory grows by {max(peaks) - min(peaks):.2f} GiB" in said
    last = [curves[name][-1] for name in ("tokenise", "evaluate", "mine")]
    assert f"{last[0]['seconds']:.1f}, {last[1]['seconds']:.0f} and {last[2]['seconds']:.0f} s" in said
    assert "{:.1f}, {:.1f} and {:.1f} GiB".format(*(point["peak_rss_gib"] for point in last)) in said


# --- Robustness and the published recipes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["faults_quickstart.json", "faults_quickstart_cut.json", "faults_smoke.json"])
def test_the_counts_of_kills_are_the_records(name: str) -> None:
    found = record(name)
    campaigns = found.get("campaigns", [found])
    said = section_naming(name)
    assert f"{sum(of['kills'] for of in campaigns)} kills" in said
    assert f": {sum(len(of['lost']) for of in campaigns)} lost" in said
    if files := sum(of["file_faults"] for of in campaigns):
        assert f"{files} damaged files" in said
    for of in campaigns:
        assert of["models_of_the_runs"] == {of["undisturbed_model"]: len(of["kills_of_each_run"])}
    whole, smoke = record("faults_quickstart.json"), record("faults_smoke.json")["campaigns"]
    kills = f"{whole['kills']} kills of the quickstart and {sum(of['kills'] for of in smoke)} of a shortened smoke run"
    assert kills in text_of(README)


def test_outcomes_of_damaged_weights_are_the_records() -> None:
    found = record("reference_faults.json")
    outcomes = ("crash", "other weights, silently", "the same weights")
    for fault in ("missing", "truncated", "flipped"):
        counted = Counter(case["outcome"] for case in found["by_fault"] if case["fault"] == fault)
        row = re.search(rf"^\| {fault} \| (\d+) \| (\d+) \| (\d+) \|$", text_of(FAULTS), re.M)
        assert row is not None and [int(n) for n in row.groups()] == [counted[outcome] for outcome in outcomes]
    total = " | ".join(str(found["outcomes"][outcome]) for outcome in outcomes)
    assert f"| all {found['faults']} | {total} |" in text_of(FAULTS)
    assert found["control"] == "the same weights"


def test_the_counts_of_published_facts_are_the_files() -> None:
    book = json.loads(text_of(ROOT / "pipeline" / "reporting" / "published.json"))
    counts = [Counter(fact["status"] for fact in of["facts"]) for of in book.values()]
    words = {
        "config test": "held by a config test",
        "loopback test": "run against a local mock hub",
        "needs a hub": "not yet run: needs a hub",
        "needs a GPU": "not yet run: needs a GPU",
    }
    assert set(words) == set().union(*counts)
    assert list(book) == ["gooaq_bert_tiny", "gooaq_modernbert_large"]
    rows = rows_under(text_of(RESULTS), "ModernBERT-large")
    assert rows == [[word, *(str(count[status]) for count in counts)] for status, word in words.items()]
    for recipe, name in zip(book.values(), ("BERT-tiny", "ModernBERT-large"), strict=True):
        facts = {fact["id"]: fact.get("value") for fact in recipe["facts"]}
        before, after = facts["first-stage/gooaq-dev/ndcg@10"], facts["final/gooaq-dev/as_retrieved/ndcg@10"]
        assert f"{before:.4f} → {after:.4f} for {name}" in text_of(RESULTS)
        assert recipe["hub_id"] in text_of(README)


def test_the_figures_of_a_gpu_are_the_records() -> None:
    found = record("gpu_h200.json")
    names = {"train BERT-tiny": "train_bert_tiny", "train ModernBERT-large": "train_modernbert_large"}
    of_speed = {row[0].split(",")[0]: row for row in rows_under(text_of(SPEED), "work, bf16")}
    for work, name in names.items():
        pairs = found["pairs"][name]
        assert of_speed[work][3] == ratio_cell(pairs["ratio"]), name
        assert of_speed[work][4].startswith(f"{pairs['ratio_recipe']['median']:.2f}"), name
        assert f" {pairs['ratio']['median']:.1f} times" in " ".join(text_of(README).split()), name
    steps = {(row["case"], row["batch"]): row for row in found["steps"]["201d98f"]}
    cases = [("train_bert_tiny", 2048), ("train_modernbert_large", 64), ("train_modernbert_large", 256)]
    for row, case in zip(rows_under(text_of(SPEED), "step"), cases, strict=True):
        step = steps[case]
        seconds = [float(cell.split()[0]) for cell in row[1:3]]
        assert seconds == pytest.approx([step["step_ms"], step["kernels_ms"]], rel=0.01)
        by_wall, by_kernels = step["share_of_attainable"], step["share_by_kernels"]
        assert row[3] == f"{100 * by_wall:.0f} / {100 * by_kernels:.0f} %"


def test_what_is_predicted_for_a_gpu_follows_from_what_was_measured() -> None:
    found = record("gpu_h200.json")
    steps = {(row["case"], row["batch"]): row for row in found["steps"]["201d98f"]}
    operations = 3 * 2 * 28 * (4 * 1024**2 + 3 * 1024 * 2624)  # a token's, forwards and twice backwards
    rows = {row[0]: row for row in rows_under(text_of(SPEED), "prediction")}
    for tokens, work in ((55, "ModernBERT-large's steps"), (75, "the same, 75 tokens")):
        (row,) = (row for head, row in rows.items() if head.startswith(work))
        for cell, batch in zip(row[1:3], (256, 64), strict=True):
            rate = 71e12 * steps["train_modernbert_large", batch]["share_by_kernels"]
            training = 578_402 * tokens * operations / rate / 60
            evaluating = 11 * 45_000 * tokens * operations / 3 / rate / 60
            assert cell.startswith(f"{training:.0f} + {evaluating:.0f}"), work
    small, large = (steps["train_modernbert_large", batch] for batch in (64, 256))
    slope = (large["peak_gib"] - small["peak_gib"]) / (large["tokens_a_step"] - small["tokens_a_step"])
    peak = small["peak_gib"] + (8192 - small["tokens_a_step"]) * slope
    assert any(row[1] == f"{peak:.1f} GiB" for row in rows.values())
    seconds = steps["train_bert_tiny", 2048]["kernels_ms"] / 1e3 * 283 * 4800 / 936
    assert any(row[1].startswith(f"{seconds:.0f} + ") for row in rows.values())
