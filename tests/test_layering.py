"""Who may import whom: lower layers only, and outside libraries in their one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    "errors",
    "records fingerprint arguments progress markdown repo_files topk",
    "measures batching config asked benchmark_cases docstrings near_duplicates splitting judged samples",  # pure
    "artifacts download compose provenance reproducibility negatives tables",  # files and machine
    "checkpoints trec hub_cache storage tokens packed composed",
    # One outside library or format each; they know nothing of each other.
    "hub packaged_docs nano_beir readers embeddings retrieval modeling emissions tracking",
    "data scoring reranking facts run_figures",
    "mining evaluation training model_card report prediction comparison",  # one job each
    "plan benchmark_ours",
    "banner preflight benchmark_reference",
    "stages publish benchmark_side",
    "reproduction benchmark verification rerunning",
]
LAYER = {module: level for level, modules in enumerate(LAYERS) for module in modules.split()}

ONLY_IN = {
    "hydra": {"config", "compose"},
    "omegaconf": {"config", "compose"},
    "codecarbon": {"emissions"},
    "wandb": {"tracking"},
}

MODULES = sorted(path for path in (ROOT / "pipeline").rglob("*.py") if path.name != "__init__.py")


def imported(source: str) -> set[str]:
    """Every module a source imports, also inside functions, as dotted names (`from pipeline import x` → pipeline.x)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            if node.module == "pipeline":
                found.update(f"pipeline.{alias.name}" for alias in node.names)
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
    assert {path.stem for path in MODULES} <= set(names)
    assert all(path.parent == ROOT / "pipeline" for path in MODULES), "the package is flat"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    assert violations(path.stem, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_short_and_imports_no_other(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 25
    assert not {name for name in imported(source) if name.partition(".")[0] in ("scripts", "codecarbon", "wandb")}


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("errors", "from pipeline import records", 1),
        ("training", "from pipeline.evaluation import measure", 1),
        ("training", "from pipeline.scoring import score", 0),
        ("mining", "def f():\n    import wandb", 1),
        ("tracking", "import wandb.sdk", 0),
        ("stages", "import scripts.train", 1),
        ("modeling", "from omegaconf import DictConfig", 1),
    ],
)
def test_the_check_itself_finds_what_it_should(module: str, source: str, count: int) -> None:
    assert len(violations(module, source)) == count
