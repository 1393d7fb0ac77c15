"""What a run's files say, read once.

`report` and `model_card` render only these facts and what `verdicts` derives from them, so that summary, table and card
cannot disagree. Measures nothing; does not know what a figure means or how it is shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import MANIFEST
from pipeline.core.atomic import read_json
from pipeline.core.credentials import masked
from pipeline.core.errors import ArtifactError, must
from pipeline.core.records import LabelledPairs
from pipeline.reporting.samples import describe_rows, example_pairs
from pipeline.telemetry.energy_records import add

TRAIN = "train"
"""Name of the stage whose energy counts as the model's own; the others mine and evaluate."""

Json = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Facts:
    """One run as plain data; everything in it is JSON."""

    config: Json
    """The parsed configuration, enums by name, credentials masked."""
    paths: dict[str, str]
    """Paths of `run`, `model` and `card`. Shown on the console, never in the card: they are this machine's."""
    training: Json
    """What `Trainer.run` returned."""
    log: list[Json]
    """Every logged row, kinds `train` and `evaluation`."""
    statistics: Json
    """The mined data's statistics.json."""
    provenance: Json
    """The training stage's provenance, see `provenance.record`."""
    measures: dict[str, Json]
    """Set → its measures.json, made by `evaluator.write`, or by `figures.mean_of` for means."""
    emissions: dict[str, Json]
    """Stage → its energy, in the order in which the stages ran."""
    rows: Json
    """A description of the first training rows, see `samples.describe_rows`."""
    example: Json
    """One question with up to five real passages, see `samples.example_pairs`."""
    base_id: str | None
    """The base model's hub id; None for a folder or packaged weights."""
    data_id: str | None
    """The training data's hub id; None for other sources."""

    @property
    def base(self) -> str:
        """The base model's title, or its short name if it has none."""
        return str(self.config["model"]["title"] or self.config["model"]["name"])

    @property
    def data(self) -> str:
        """The data's title, or its short name if it has none."""
        return str(self.config["data"]["title"] or self.config["data"]["name"])

    @property
    def is_trained(self) -> bool:
        """Whether a step was taken. If not (training.max_steps=0), the model is the base model, see `has_head`."""
        return int(self.training["steps"]) > 0

    @property
    def has_head(self) -> bool:
        """Whether the base model came with a scoring head; True if training.json does not say."""
        return bool(self.training.get("head_was_saved", True))

    @property
    def title(self) -> str:
        """`<base> trained on <data>`, or `<base>, not trained further`."""
        return f"{self.base} trained on {self.data}" if self.is_trained else f"{self.base}, not trained further"

    @property
    def training_emissions(self) -> Json:
        """Energy of the training stage alone: the headline figure of cards and summaries."""
        return self.emissions.get(TRAIN, {"enabled": False})

    @property
    def all_emissions(self) -> Json:
        """Energy of every stage of the run, mining and evaluation included."""
        return add(list(self.emissions.values()))


def read_log(path: Path) -> list[Json]:
    """Return the rows of a metrics.jsonl.

    Raises:
        ArtifactError: when the file is missing or a line, which is named, is not JSON.
    """
    place, rows = str(path), []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            place = f"{path}, line {number},"
            if line.strip():
                rows.append(json.loads(line))
    except (OSError, ValueError) as error:
        remedy = "Run the training stage again."
        raise ArtifactError(must(place, "be readable JSON", error, remedy)) from None
    return rows


def collect(
    run: Path,
    mined: Path,
    evaluations: dict[str, Path],
    config: Json,
    pairs: LabelledPairs,
    size: int,
    *,
    base_id: str | None,
    data_id: str | None,
) -> Facts:
    """Read a run's files.

    Args:
        run: the run's folder, which contains the trained model's.
        mined: the mined data's folder.
        evaluations: set → folder of its evaluation, in display order, including means.
        config: the parsed configuration as plain data (`fingerprint.plain`).
        pairs: the first mined training rows, to be described; `samples.EXAMPLE_ROWS` of them are enough.
        size: the number of all training rows.
        base_id: the base model's hub id, None if it is not from the hub.
        data_id: the training data's hub id, None if it is not from the hub.

    Raises:
        ArtifactError: when a file is missing or broken.
    """
    model = run / "model"
    stages = {"mine": mined, TRAIN: model, **{f"evaluate {name}": folder for name, folder in evaluations.items()}}
    return Facts(
        config=masked(config),
        paths={"run": str(run), "model": str(model), "card": str(run / "README.md")},
        training=read_json(model / "training.json"),
        log=read_log(model / "metrics.jsonl"),
        statistics=read_json(mined / "statistics.json"),
        provenance=read_json(model / MANIFEST).get("provenance", {}),
        measures={name: read_json(folder / "measures.json") for name, folder in evaluations.items()},
        emissions={stage: read_json(folder / "emissions.json") for stage, folder in stages.items()},
        rows=describe_rows(pairs, size),
        example=example_pairs(pairs),
        base_id=base_id,
        data_id=data_id,
    )
