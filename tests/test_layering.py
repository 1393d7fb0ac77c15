"""Who may import whom: lower layers only, and outside libraries in their one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    "core.errors core.upkeep",
    "config.rules config.sets config.paths config.ending",
    "core.records core.credentials core.fingerprint core.progress core.markdown config.arguments "
    "config.data config.learning config.machine hub.repo_files hub.failures mining.topk telemetry.energy_records",
    "config.schema data.docstring_paragraphs config.asked engine.batching evaluation.measures evaluation.protocols "
    "benchmark.cases "
    "benchmark.figures benchmark.curves",  # pure
    "data.docstrings data.near_duplicates data.splitting data.cleaning mining.judged reporting.samples "
    "engine.training_state "  # pure
    "engine.flash engine.fused engine.dropout engine.block_linear engine.accumulation engine.lanes "
    "core.reproducibility core.matrix_rate",
    "core.atomic",
    "core.artifacts core.provenance config.compose hub.download mining.negatives data.tables data.python_sources "
    "mining.exact_search engine.pair_template engine.model_config "
    "engine.packed_attention engine.block_attention engine.block_embeddings",
    "engine.packed_rows engine.block_first engine.encoding engine.shared_rows data.trec hub.lock_file",
    "engine.packed_bert engine.packed_modernbert",
    "engine.block_bert",
    "engine.tokens",
    "engine.block_scoring engine.packed engine.collation data.row_builder "
    "engine.checkpoints hub.cache data.beir data.storage config.composed "  # files, machine
    "benchmark.processes reporting.facts",
    "reporting.verdicts",
    # One outside library or format each; they know nothing of each other.
    "hub.location data.packaged_docs data.nano_beir data.readers mining.embeddings mining.retrieval engine.modeling "
    "telemetry.emissions telemetry.tracking",
    "data.source data.content mining.training_rows evaluation.figures telemetry.pieces engine.model_files "
    "engine.steps engine.scoring evaluation.reranking evaluation.bi_encoder reporting.card_tables "
    "mining.dense_search "
    "reporting.run_figures commands.estimates commands.run_folder",
    "engine.update",
    # One job each.
    "mining.miner evaluation.evaluator engine.training reporting.model_card reporting.report commands.prediction "
    "reporting.comparison",
    "stages.plan benchmark.ours",
    "stages.mine stages.models stages.sets stages.logs stages.banner commands.preflight benchmark.reference",
    "stages.train stages.evaluate commands.publish",
    "stages.card commands.reproduction commands.verification commands.profiling",
    "stages.run benchmark.quickstart",
    "commands.rerunning benchmark.points benchmark.quickstart_reference faults.victim",
    "benchmark.side faults.kills",
    "benchmark.paired benchmark.growth faults.damage",
    "faults.campaign",
]
LAYER = {module: level for level, modules in enumerate(LAYERS) for module in modules.split()}

ONLY_IN = {
    "hydra": {"config.schema", "config.compose"},
    "omegaconf": {"config.schema", "config.compose"},
    "codecarbon": {"telemetry.emissions"},
    "wandb": {"telemetry.tracking"},
}

MODULES = sorted(path for path in (ROOT / "pipeline").rglob("*.py") if path.name != "__init__.py")


def dotted(path: Path) -> str:
    """`core.errors` of pipeline/core/errors.py."""
    return ".".join(path.relative_to(ROOT / "pipeline").with_suffix("").parts)


def imported(source: str) -> set[str]:
    """Every module a source imports, also inside functions: `from pipeline.core import x` is pipeline.core.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            if node.module.startswith("pipeline") and node.module.count(".") < 2:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return found


def violations(module: str, source: str) -> list[str]:
    found = []
    for name in sorted(imported(source)):
        top, _, rest = name.partition(".")
        if top == "pipeline" and rest:
            assert rest in LAYER, f"{rest} is in no layer: give it one in LAYERS"
            if LAYER[rest] >= LAYER[module]:
                found.append(f"{module} imports {rest}, which is not below it")
        if top in ("scripts", "tests"):
            found.append(f"{module} imports {name}")
        if top in ONLY_IN and module not in ONLY_IN[top]:
            found.append(f"{module} imports {top}, which only {sorted(ONLY_IN[top])} may")
    return found


def test_every_module_has_one_layer() -> None:
    names = [name for layer in LAYERS for name in layer.split()]
    assert len(names) == len(set(names))
    assert {dotted(path) for path in MODULES} == set(names)


def test_packages_hold_no_code_of_their_own() -> None:
    """Importing one module must not load its neighbours."""
    for path in (ROOT / "pipeline").rglob("__init__.py"):
        assert not imported(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    assert violations(dotted(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_short_and_imports_no_other(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 25
    assert not {name for name in imported(source) if name.partition(".")[0] in ("scripts", "codecarbon", "wandb")}


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("core.errors", "from pipeline.core import records", 1),
        ("engine.training", "from pipeline.evaluation.evaluator import evaluate", 1),
        ("engine.training", "from pipeline.engine.scoring import score", 0),
        ("mining.miner", "def f():\n    import wandb", 1),
        ("telemetry.tracking", "import wandb.sdk", 0),
        ("stages.run", "import scripts.train", 1),
        ("engine.modeling", "from omegaconf import DictConfig", 1),
    ],
)
def test_the_check_itself_finds_what_it_should(module: str, source: str, count: int) -> None:
    assert len(violations(module, source)) == count
