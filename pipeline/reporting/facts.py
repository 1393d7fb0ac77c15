"""What a run's files say, read once.

`report` and `model_card` render this and what `verdicts` says of it, nothing else, so that summary, table and card
cannot disagree. Nothing here measures anything; nothing here knows what a figure means or how it will look.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.atomic import read_json
from pipeline.core.credentials import masked
from pipeline.core.errors import ArtifactError, must
from pipeline.core.records import LabelledPairs
from pipeline.reporting.samples import describe_rows, example_pairs
from pipeline.telemetry.energy_records import add

TRAIN = "train"
"""Name of the stage whose energy is the model's own; the others are mining and measuring."""

Json = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class RunFiles:
    """Where a run's facts lie; the stage that knows the folders fills this."""

    run: Path
    """The run's folder, named in the summary."""
    model: Path
    """The saved model's folder, named in the summary."""
    card: Path
    """The card's file, named in the summary."""
    training: Path
    """training.json: what `Trainer.run` returned."""
    metrics: Path
    """metrics.jsonl: every logged row, kinds `train` and `evaluation`."""
    statistics: Path
    """The mined data's statistics.json."""
    manifest: Path
    """The manifest of the training stage; its key `provenance` is `provenance.record`'s."""
    measures: dict[str, Path]
    """Set → measures.json, in the order shown: `evaluator.write`'s, and `figures.mean_of`'s for means."""
    emissions: dict[str, Path]
    """Stage → emissions.json, in the order run; the training stage is named `train`."""


@dataclass(kw_only=True, slots=True)
class Facts:
    """One run as plain data; everything in it is JSON."""

    config: Json
    """The parsed configuration, enums by name, credentials masked."""
    paths: dict[str, str]
    """run, model, card. Shown on the console, never in the card: they are this machine's."""
    training: Json
    log: list[Json]
    statistics: Json
    provenance: Json
    measures: dict[str, Json]
    emissions: dict[str, Json]
    rows: Json
    """The first training rows described: see `samples.describe_rows`."""
    example: Json
    """Five real pairs of one question: see `samples.example_pairs`."""
    base_id: str | None
    """The base model's name on the hub, None for a folder or packaged weights."""
    data_id: str | None
    """The training data's name on the hub, None for other sources."""

    @property
    def base(self) -> str:
        """The base model's name as a person writes it."""
        return str(self.config["model"]["title"] or self.config["model"]["name"])

    @property
    def data(self) -> str:
        """The data's name as a person writes it."""
        return str(self.config["data"]["title"] or self.config["data"]["name"])

    @property
    def is_trained(self) -> bool:
        """Whether a step was taken; without one (training.max_steps=0) the model is the base model, see `has_head`."""
        return int(self.training["steps"]) > 0

    @property
    def has_head(self) -> bool:
        """Whether the base model came with a scoring head; so it is taken to where training.json does not say."""
        return bool(self.training.get("head_was_saved", True))

    @property
    def title(self) -> str:
        """`<base> trained on <data>`, or `<base>, not trained further`."""
        return f"{self.base} trained on {self.data}" if self.is_trained else f"{self.base}, not trained further"

    @property
    def training_emissions(self) -> Json:
        """Energy of the training stage alone: the figure that cards and summaries head."""
        return self.emissions.get(TRAIN, {"enabled": False})

    @property
    def all_emissions(self) -> Json:
        """Energy of every stage of the run, mining and evaluation included."""
        return add(list(self.emissions.values()))


def read_log(path: Path) -> list[Json]:
    """The rows of a metrics.jsonl.

    Raises:
        ArtifactError: when it is missing, or naming the line that is not JSON.
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
    files: RunFiles, config: Json, pairs: LabelledPairs, size: int, *, base_id: str | None, data_id: str | None
) -> Facts:
    """Read a run's files.

    Args:
        files: where they lie; every one of them must be there.
        config: the parsed configuration as plain data (`fingerprint.plain`).
        pairs: the first mined training rows, which are described; `samples.EXAMPLE_ROWS` of them are enough.
        size: training rows in all.
        base_id: the base model's name on the hub, None where it did not come from there.
        data_id: the training data's, likewise.

    Raises:
        ArtifactError: when a file is missing or broken.
    """
    return Facts(
        config=masked(config),
        paths={"run": str(files.run), "model": str(files.model), "card": str(files.card)},
        training=read_json(files.training),
        log=read_log(files.metrics),
        statistics=read_json(files.statistics),
        provenance=read_json(files.manifest).get("provenance", {}),
        measures={name: read_json(path) for name, path in files.measures.items()},
        emissions={stage: read_json(path) for stage, path in files.emissions.items()},
        rows=describe_rows(pairs, size),
        example=example_pairs(pairs),
        base_id=base_id,
        data_id=data_id,
    )
