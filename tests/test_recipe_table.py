"""The two published recipes, field by field, as data; the composed experiments must be them, and nothing else."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import composed_config
import pytest
import torch

from pipeline.config.schema import Config
from pipeline.config.set_names import NANO_BEIR, NANO_MEAN
from pipeline.core.errors import ConfigError
from pipeline.core.fingerprint import plain
from pipeline.engine.model_files import ACTIVATIONS
from pipeline.engine.update import optimizer_of
from pipeline.inputs.batching import Plan, linear_schedule, warmup_steps
from pipeline.stages.sets import fixed_sets, nano_names

ROOT = Path(__file__).resolve().parents[1]
BOOK = json.loads((ROOT / "pipeline" / "reporting" / "published.json").read_text(encoding="utf-8"))
TINY, LARGE = "gooaq_bert_tiny", "gooaq_modernbert_large"
TRAINING_ROWS = 578_402

# key: (bert-tiny, ModernBERT-large)
RECIPES: dict[str, tuple[Any, Any]] = {
    "name": (TINY, LARGE),
    "seed": (12, 12),
    "model.path": ("prajjwal1/bert-tiny", "answerdotai/ModernBERT-large"),
    "model.title": ("BERT-tiny", "ModernBERT-large"),
    "model.max_length": (512, 8192),
    "model.activation": ("sigmoid", "sigmoid"),
    "model.dropout": (None, None),
    "model.layers": (None, None),
    "model.random_init": (False, False),
    "model.language": ("en", "en"),
    "model.license": ("apache-2.0", "apache-2.0"),
    "data.source": ("hub", "hub"),
    "data.path": ("sentence-transformers/gooaq", "sentence-transformers/gooaq"),
    "data.title": ("GooAQ", "GooAQ"),
    "data.split": ("train", "train"),
    "data.format": ("pairs", "pairs"),
    "data.question_column": ("question", "question"),
    "data.answer_column": ("answer", "answer"),
    "data.rows": (100_000, 100_000),
    "data.limit": (None, None),
    "data.dev_queries": (1_000, 1_000),
    "data.validation_queries": (0, 0),
    "data.dev_name": ("gooaq-dev", "gooaq-dev"),
    "data.split_seed": (12, 12),
    "data.dedupe": (False, False),
    "data.corpus_path": (None, None),
    "mining.retriever": ("embedding", "embedding"),
    "mining.path": ("sentence-transformers/static-retrieval-mrl-en-v1",) * 2,
    "mining.query_prompt": ("", ""),
    "mining.passage_prompt": ("", ""),
    "mining.negatives": (5, 5),
    "mining.random_negatives": (0, 0),
    "mining.range_min": (0, 0),
    "mining.range_max": (100, 100),
    "mining.absolute_margin": (0.0, 0.0),
    "mining.relative_margin": (None, None),
    "mining.sampling": ("top", "top"),
    "mining.positive_match": ("exact", "exact"),
    "mining.drop_leaks": (False, False),
    "mining.dev_depth": (30, 30),
    "training.batch_size": (2048, 64),
    "training.learning_rate": (5e-4, 2e-5),
    "training.epochs": (1, 1),
    "training.max_steps": (None, None),
    "training.warmup_ratio": (0.1, 0.1),
    "training.weight_decay": (0.0, 0.0),
    "training.adam_beta1": (0.9, 0.9),
    "training.adam_beta2": (0.999, 0.999),
    "training.adam_epsilon": (1e-8, 1e-8),
    "training.max_grad_norm": (1.0, 1.0),
    "training.pos_weight": (5.0, 5.0),
    "training.precision": ("bf16", "bf16"),
    "training.logging_steps": (20, 200),
    "training.logging_first_step": (True, True),
    "training.eval_steps": (20, 1000),
    "training.eval_sets": (["dev", "nano_beir"], ["dev", "nano_beir"]),
    "training.keep_best": (False, True),
    "training.selection_set": (None, "dev"),
    "training.selection_measure": ("ndcg@10", "ndcg@10"),
    "training.keep_checkpoints": (2, 2),
    "evaluation.nano_beir": (["msmarco", "nfcorpus", "nq"], ["msmarco", "nfcorpus", "nq"]),
    "evaluation.nano_beir_path": ("sentence-transformers/NanoBEIR-en", "sentence-transformers/NanoBEIR-en"),
    "evaluation.depth": (100, 100),
    "evaluation.precision": ("bf16", "bf16"),
    "evaluation.collections": ([], []),
    "evaluation.rivals": ([], []),
}
COUNTS: dict[str, tuple[int, int]] = {
    "steps": (283, 9_038),
    "warmup_steps": (29, 904),
    "log_rows": (17, 48),
    "evaluations": (14, 9),
}


composed = functools.cache(composed_config.composed)


def value_of(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return plain(value)


def counts(config: Config) -> dict[str, int]:
    """Steps, warm-up, rows of the published log's kind, and fixed evaluations, for the published row count."""
    training = config.training
    steps = Plan(TRAINING_ROWS, training.batch_size, training.epochs, config.seed, training.max_steps).steps
    logged = {1, *range(training.logging_steps, steps + 1, training.logging_steps)}
    fixed = range(training.eval_steps, steps + 1, training.eval_steps)
    # The published logs have a row of the untrained model and one of the saved one beside those of the steps.
    return {
        "steps": steps,
        "warmup_steps": warmup_steps(steps, training.warmup_ratio),
        "log_rows": len(logged) + 2,
        "evaluations": len(fixed),
    }


@pytest.mark.parametrize("column", [0, 1], ids=[TINY, LARGE])
def test_every_field_of_the_recipe(column: int) -> None:
    config = composed(f"experiment={(TINY, LARGE)[column]}")
    assert {key: value_of(config, key) for key in RECIPES} == {key: of[column] for key, of in RECIPES.items()}


@pytest.mark.parametrize("column", [0, 1], ids=[TINY, LARGE])
def test_the_steps_of_the_published_row_count(column: int) -> None:
    config = composed(f"experiment={(TINY, LARGE)[column]}")
    assert counts(config) == {name: of[column] for name, of in COUNTS.items()}


@pytest.mark.parametrize("experiment", [TINY, LARGE])
def test_the_published_facts_that_configuration_settles(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    facts = [fact for fact in BOOK[experiment]["facts"] if fact["status"] == "config test"]
    of_config = {fact["key"]: fact["value"] for fact in facts if fact["kind"] == "config"}
    assert len(of_config) > 40
    assert {key: value_of(config, key) for key in of_config} == of_config
    assert counts(config) == {fact["name"]: fact["value"] for fact in facts if fact["kind"] == "count"}


@pytest.mark.parametrize("experiment", [TINY, LARGE])
def test_the_optimizer_is_the_recipes_adamw(experiment: str) -> None:
    config = composed(f"experiment={experiment}").training
    optimizer = optimizer_of(torch.nn.Linear(4, 2), config)
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.999)
        assert group["eps"] == 1e-8
        assert group["weight_decay"] == 0.0
        assert group["lr"] == {TINY: 5e-4, LARGE: 2e-5}[experiment]


@pytest.mark.parametrize(("steps", "warmup"), [(283, 29), (9_038, 904)])
def test_the_schedule_is_linear_up_and_down(steps: int, warmup: int) -> None:
    rates = [linear_schedule(step, steps, warmup) for step in range(steps)]
    assert rates[0] == 0.0 and rates[warmup] == 1.0 == max(rates)
    assert rates[warmup // 2] == pytest.approx(0.5, abs=0.5 / warmup)
    assert rates[-1] == pytest.approx(1 / (steps - warmup))


@pytest.mark.parametrize("experiment", [TINY, LARGE])
def test_the_fixed_steps_evaluate_the_published_sets(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    assert fixed_sets(config) == ["gooaq-dev", "NanoMSMARCO", "NanoNFCorpus", "NanoNQ"]
    assert NANO_MEAN == "NanoBEIR_R100_mean"


def test_all_thirteen_sets_of_nano_beir_can_be_chosen() -> None:
    assert len(NANO_BEIR) == 13
    chosen = composed(f"experiment={TINY}", f"evaluation.nano_beir=[{','.join(NANO_BEIR)}]")
    assert nano_names(chosen) == list(NANO_BEIR.values())
    assert [fixed for fixed in fixed_sets(chosen) if fixed.startswith("Nano")] == list(NANO_BEIR.values())
    with pytest.raises(ConfigError, match=r"evaluation\.nano_beir must hold NanoBEIR names, got 'trec'"):
        composed(f"experiment={TINY}", "evaluation.nano_beir=[trec]")


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh"])
def test_every_published_activation_can_be_chosen(activation: str) -> None:
    chosen = composed(f"experiment={TINY}", f"model.activation={activation}").model.activation
    assert ACTIVATIONS[chosen].rpartition(".")[2].lower() == activation


@pytest.mark.parametrize(("runtime", "device"), [("auto", "auto"), ("cpu", "cpu"), ("rtx3090", "cuda")])
def test_the_machines_that_presets_are_for(runtime: str, device: str) -> None:
    config = composed(f"experiment={TINY}", f"runtime={runtime}")
    assert config.runtime.device.name == device
    assert plain(config.training) == plain(composed(f"experiment={TINY}").training)
