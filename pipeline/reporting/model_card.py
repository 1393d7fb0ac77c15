"""Render a run's facts as a model card: Markdown with YAML front matter. Measures nothing, opens no file of the run.

Text from data or configuration is escaped so that neither Markdown nor HTML in it takes effect: as character
references in prose and tables, as Python literals in code. Paths of this machine are cut to their last part.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from pipeline.core.console import number_of
from pipeline.core.markdown import as_json, escape, literal, sample, without_places
from pipeline.core.records import AS_RETRIEVED, MEASURES, PROTOCOLS, TRAINED
from pipeline.inputs.tokens import NOTABLE_UNKNOWN
from pipeline.reporting.card_tables import evaluations, log_table
from pipeline.reporting.facts import Facts
from pipeline.reporting.verdicts import (
    below_first_stage,
    not_trained,
    pairs_seen,
    selection,
    selection_sentence,
    systems,
    time_over_processes,
    verdict,
)

Json = dict[str, Any]

TEMPLATE = "card_template.md.j2"

_OWN_MODEL = re.compile(r"'outputs/(?:latest|runs/[\w.-]+)/model'")
"""The path from which a card's usage example loads the model; in cards of earlier versions, that of the latest run."""

REFERENCE_DEFAULTS: Json = {
    "batch_size": 8,
    "max_length": None,
    "learning_rate": 5e-5,
    "epochs": 3,
    "max_steps": None,
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "pos_weight": 1.0,
    "precision": "fp32",
    "logging_steps": 500,
    "logging_first_step": False,
    "eval_steps": 0,
    "eval_sets": [],
    "keep_best": False,
    "selection_set": None,
    "keep_checkpoints": None,
    "seed": 42,
}
"""Defaults of the sentence-transformers trainer under this project's names: the defaults that card readers assume."""


_LEFT_OUT = {
    "limited": "beyond `data.limit`",
    "blank_or_null_question": "without a question",
    "blank_or_null_answer": "without an answer",
    "exact_duplicate_row": "that repeat an earlier row",
    "question_without_positive": "of questions without a positive",
    "surplus_of_a_held_out_group": "of held-out groups beyond the questions chosen from them",
    "train_rows_with_a_held_out_question": "that share a question with a held-out part",
    "train_rows_with_a_held_out_positive": "whose passage is a positive of a held-out part",
    "merged_rows": "that repeat an earlier pair",
}
"""Why a source row is no training row, as statistics.json names the reason → its words in the card."""


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def metadata(facts: Facts) -> ModelCardData:
    """Return the front matter. Emissions are in grams, as the hub defines the field; the body gives kg."""
    model, energy = facts.config["model"], facts.training_emissions
    hardware = facts.provenance.get("hardware", {})
    of_training = ["generated_from_trainer", f"dataset_size:{facts.rows['size']}", "loss:BinaryCrossEntropyLoss"]
    fields: Json = {
        "language": [model["language"]] if model["language"] else None,
        "license": model["license"],
        "tags": [
            "sentence-transformers",
            "cross-encoder",
            "text-classification",
            *(of_training if facts.is_trained else []),
        ],
        "base_model": facts.base_id,
        "datasets": None if facts.data_id is None or not facts.is_trained else [facts.data_id],
        "pipeline_tag": "text-ranking",
        "library_name": "sentence-transformers",
        "metrics": list(MEASURES),
        "model_name": facts.title,
        "eval_results": _results(facts),
    }
    if facts.is_trained and "emissions_kg" in energy:
        fields["co2_eq_emissions"] = {
            "emissions": 1000 * energy["emissions_kg"],
            "energy_consumed": energy["energy_kwh"],
            "source": "codecarbon",
            "training_type": "fine-tuning",
            "on_cloud": False,
            "cpu_model": energy["cpu_model"] or hardware.get("cpu_model"),
            "ram_total_size": energy["ram_gib"],
            "hours_used": round(energy["duration_s"] / 3600, 3),
            "hardware_used": energy["gpu_model"] or energy["cpu_model"] or hardware.get("cpu_model"),
        }
    return ModelCardData(**fields)


def _results(facts: Facts) -> list[EvalResult]:
    """Return the trained model's figures on each set, each protocol as its own dataset_config so that none mix."""
    return [
        EvalResult(
            task_type="cross-encoder-nano-beir" if "sets" in measures else "cross-encoder-reranking",
            task_name="Cross Encoder Nano BEIR" if "sets" in measures else "Cross Encoder Reranking",
            dataset_type=name,
            dataset_name=f"{name} ({protocol.replace('_', ' ')})",
            dataset_config=protocol,
            metric_type=measure,
            metric_name=label,
            metric_value=measures[protocol][TRAINED][measure],
        )
        for name, measures in facts.measures.items()
        for protocol in PROTOCOLS
        if TRAINED in measures.get(protocol, {})
        for measure, label in MEASURES.items()
    ]


def _hyperparameters(facts: Facts) -> tuple[Json, Json]:
    """Return the hyperparameters that differ from the reference trainer's defaults, and all, prefixed by group."""
    training = {**facts.config["training"], "precision": facts.training["precision"], "seed": facts.config["seed"]}
    changed = {
        key: without_places(value)
        for key, value in training.items()
        if key in REFERENCE_DEFAULTS and value != REFERENCE_DEFAULTS[key]
    }
    everything = {f"training.{key}" if key != "seed" else key: value for key, value in training.items()}
    for group in ("model", "data", "mining", "evaluation"):
        everything |= {f"{group}.{key}": value for key, value in facts.config[group].items()}
    everything |= {"optimizer": "AdamW", "schedule": "linear", "warmup_steps": facts.training["warmup_steps"]}
    everything["runtime.micro_batch_tokens"] = facts.training["micro_batch_tokens"]
    return changed, {key: without_places(value) for key, value in everything.items()}


def _energy(record: Mapping[str, Any]) -> Json:
    """Return the cells of one line in the impact table, or the reason why there is none."""
    if "energy_kwh" not in record:
        return {"missing": f"codecarbon failed: {record['error']}" if "error" in record else "not measured"}
    return {
        "energy_kwh": f"{record['energy_kwh']:.6f}",
        "emissions_kg": f"{record['emissions_kg']:.6f}",
        "hours": f"{record['duration_s'] / 3600:.3f}",
        "g_per_kwh": "-" if record["g_per_kwh"] is None else f"{record['g_per_kwh']:.1f}",
        "method": record["method"],
        "components": record["method_by_component"],
        "grid": record["grid"],
        "country": record["country_iso_code"],
        "unmeasured": record.get("pieces_without_figures", 0),
    }


def _left_out(statistics: Mapping[str, Any]) -> str:
    """Return how many rows of the source are in no part, or were left out of training, and why; blank for none."""
    leaks = statistics.get("leaks", {})
    counts = {
        "limited": statistics.get("rows_read", 0) - statistics.get("rows_after_limit", statistics.get("rows_read", 0)),
        **statistics.get("parts", {}).get("train", {}).get("dropped", {}),
        **(leaks if leaks.get("dropped") else {}),
        "merged_rows": statistics.get("merged_rows", {}).get("train", 0),
    }
    found = {words: int(counts[reason]) for reason, words in _LEFT_OUT.items() if counts.get(reason)}
    total = sum(found.values())
    rows = f"{total:,} row{'s' * (total != 1)}"
    if len(found) > 1:
        return f"{rows}: " + ", ".join(f"{count:,} {words}" for words, count in found.items())
    return " ".join([rows, *found]) if found else ""


def render(facts: Facts) -> str:
    """Return the card's text with its front matter. The same facts give the same text.

    Args:
        facts: those of a run that evaluated its trained model on every set.
    """
    changed, everything = _hyperparameters(facts)
    chosen, command = selection(facts), list(facts.provenance.get("command", []))
    shown = without_places(command)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.reporting", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it escapes only HTML; the filters below escape Markdown too
    )
    environment.filters |= {"md": escape, "sample": sample, "py": literal, "number_of": number_of}
    stages = {name: _energy(record) for name, record in facts.emissions.items()}
    body = environment.get_template(TEMPLATE).render(
        facts=facts,
        load_from=f"outputs/runs/{Path(facts.paths['run']).name}/model",
        command=shlex.join(["python", *shown]) if command else "",
        is_cut=shown != command,
        compared={system for of in facts.measures.values() for system in systems(of[AS_RETRIEVED])},
        git=facts.provenance.get("git", {}),
        hardware=facts.provenance.get("hardware", {}),
        threads=facts.provenance.get("threads", {}),
        versions=facts.provenance.get("versions", {}),
        evaluations=evaluations(facts),
        verdicts=[sentence for name, of in facts.measures.items() for sentence in verdict(name, of)],
        below=below_first_stage(facts.measures),
        selected=None if chosen is None else selection_sentence(chosen),
        left_out=_left_out(facts.statistics),
        not_trained=not_trained(facts.training),
        notable_unknown=NOTABLE_UNKNOWN,
        seen=pairs_seen(facts.training) if facts.is_trained else 0,
        over_processes=time_over_processes(facts.training),
        loss=as_json(
            {
                "activation_fn": "torch.nn.modules.linear.Identity",
                "pos_weight": _number(facts.config["training"]["pos_weight"]),
            }
        ),
        changed=changed,
        everything=everything,
        log=log_table(facts),
        training_energy=_energy(facts.training_emissions),
        all_energy=_energy(facts.all_emissions),
        stages=stages,
    )
    return f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}"


def of_repository(card: str, repo: str) -> str:
    """Return a run's card with a usage example that loads the model from `repo` on the hub."""
    return _OWN_MODEL.sub(repr(repo), card)
