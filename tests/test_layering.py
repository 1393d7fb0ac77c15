"""Who may import whom: lower layers only, and outside libraries in their one place."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = [
    "core", "config", "hub", "telemetry", "data", "inputs", "networks", "engine", "mining", "evaluation", "reporting",
    "stages", "commands", "faults", "benchmark",
]  # fmt: skip
"""From the lowest to the highest: a module imports from lower packages, or its own without a cycle."""

ONLY_IN = {
    "hydra": {"config.schema", "config.compose", "config.refusals"},
    "omegaconf": {"config.schema", "config.compose", "config.refusals"},
    "codecarbon": {"telemetry.emissions"},
    "wandb": {"telemetry.tracking"},
}

ACROSS_MODULES = {
    "changed_inputs", "crash", "disk", "documents", "full_size", "gpu", "hostile", "hub_commands", "layering",
    "loopback_hub", "makefile", "mine_hard_negatives", "out_of_memory", "recipe_table", "recipes", "reference_trainer",
    "resume", "simulated_gpu", "top_level",
}  # fmt: skip
"""Test files about no single module: whole commands, rules of the repository, the reference, the tests' own helpers."""

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
    """What a source at `module` imports against the rules; cycles within a package are looked for elsewhere."""
    found, own = [], PACKAGES.index(module.partition(".")[0])
    for name in sorted(imported(source)):
        top, _, rest = name.partition(".")
        if top == "pipeline" and rest and PACKAGES.index(rest.partition(".")[0]) > own:
            found.append(f"{module} imports {rest}, which is not below it")
        if top in ("scripts", "tests"):
            found.append(f"{module} imports {name}")
        if top in ONLY_IN and module not in ONLY_IN[top]:
            found.append(f"{module} imports {top}, which only {sorted(ONLY_IN[top])} may")
    return found


def within(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module → modules of `sources` that it imports, by name or from one."""
    return {
        module: {
            other
            for name in imported(source)
            for other in sources
            if name == f"pipeline.{other}" or name.startswith(f"pipeline.{other}.")
        }
        for module, source in sources.items()
    }


def test_the_packages_are_those_listed() -> None:
    assert {dotted(path).partition(".")[0] for path in MODULES} == set(PACKAGES)


def test_a_test_file_is_named_after_the_module_it_tests() -> None:
    names = {name for path in MODULES for name in (path.stem, f"{path.parent.name}_{path.stem}")}
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert files - names == ACROSS_MODULES


def test_no_module_imports_itself_through_others() -> None:
    """So that each lies above all that it imports."""
    sources = {dotted(path): path.read_text(encoding="utf-8") for path in MODULES}
    graph = within(sources)
    assert sum(map(len, graph.values())) > len(graph), "imports are seen"
    assert set(TopologicalSorter(graph).static_order()) == set(sources)


def test_a_cycle_is_found() -> None:
    sources = {"core.a": "from pipeline.core import b", "core.b": "def f():\n    from pipeline.core.a import x"}
    with pytest.raises(CycleError):
        TopologicalSorter(within(sources)).prepare()


def test_errors_stand_on_nothing() -> None:
    assert not within({dotted(p): p.read_text(encoding="utf-8") for p in MODULES})["core.errors"]


def test_packages_hold_no_code_of_their_own() -> None:
    """Importing one module must not load its neighbours."""
    for path in (ROOT / "pipeline").rglob("__init__.py"):
        assert not imported(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_from_lower_packages(path: Path) -> None:
    assert violations(dotted(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_short_and_imports_no_other(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 25
    assert not {name for name in imported(source) if name.partition(".")[0] in ("scripts", "codecarbon", "wandb")}


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("core.records", "from pipeline.config import sets", 1),
        ("core.records", "from pipeline.core import errors", 0),
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
