"""Score passages with a finished run. Reads a run's folder; knows nothing of how it came about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.artifacts import problems
from pipeline.core.errors import ArtifactError, ConfigError, DataError, must
from pipeline.data.tables import json_objects


@dataclass(kw_only=True)
class Prediction:
    """The arguments of `scripts/predict.py`."""

    q: str
    """The question."""
    p: str | None = None
    """One passage."""
    file: str | None = None
    """Or many: JSONL with the key `text`, one passage a line."""
    run: str | None = None
    """Folder name below outputs/runs or a path; None takes the newest run."""
    outputs_dir: str = "outputs"
    """Where runs lie."""

    def __post_init__(self) -> None:
        if not self.q.strip():
            raise ConfigError(must("q", "hold a question", self.q, "Pass q='…' (make predict Q='…' P='…')."))
        if (self.p is None) == (self.file is None):
            raise ConfigError(
                "p or file must be given, and not both, got "
                f"{'neither' if self.p is None else 'both'}. Pass p='…' (make predict Q='…' P='…') or file=<JSONL>."
            )


def find_run(run: str | None, outputs_dir: str) -> Path:
    """A run's folder: `outputs/latest` for None, else a path, else a name below `outputs/runs`.

    Raises:
        ArtifactError: when there is none, naming the runs there are.
    """
    root = Path(outputs_dir)
    for folder in [root / "latest"] if run is None else [Path(run), root / "runs" / run]:
        if folder.is_dir():
            return folder.resolve()
    runs = sorted(folder.name for folder in (root / "runs").glob("*") if folder.is_dir())
    remedy = f"Choose among {', '.join(runs)}." if runs else "Run `make train` first."
    if run is None:
        raise ArtifactError(f"{root / 'latest'} must point at a finished run, got none. {remedy}")
    raise ArtifactError(must("run", f"name a folder of {root / 'runs'} or a path", run, remedy))


def model_folder(run: Path) -> Path:
    """The run's saved model, every file verified against its manifest.

    Raises:
        ArtifactError: when the model is missing, incomplete or altered.
    """
    folder = run / "model"
    if found := problems(folder):
        raise ArtifactError(f"{folder} must be complete, got: {found[0]}. Run its training again.")
    return folder


def read_passages(path: Path) -> list[str]:
    """The `text` of every line of a JSONL file, in order; blank lines are skipped.

    Raises:
        DataError: naming file and line.
    """
    passages = []
    for number, row in json_objects(path):
        text = row.get("text")
        if not isinstance(text, str):
            got = text if "text" in row else f"only the keys {sorted(row)}"
            raise DataError(must(f"{path}, line {number}, key text", "be text", got, "Correct the line."))
        passages.append(text)
    if not passages:
        raise DataError(f"{path} must hold at least one passage, got none. Write one JSON object a line.")
    return passages


def predict(asked: Prediction) -> str:
    """The score of the one passage; of a file, `score<TAB>passage` lines, best first (ties in the file's order).

    Scores are what the saved model's `predict` gives: after its activation, higher is more relevant.
    """
    passages = [asked.p] if asked.p is not None else read_passages(Path(asked.file or ""))
    folder = model_folder(find_run(asked.run, asked.outputs_dir))
    from sentence_transformers import CrossEncoder  # late: a mistyped argument is answered without loading torch

    model = CrossEncoder(str(folder))
    scores = [float(score) for score in model.predict([(asked.q, text) for text in passages], show_progress_bar=False)]
    if asked.p is not None:
        return f"{scores[0]:.6f}"
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return "\n".join(f"{scores[i]:.6f}\t{' '.join(passages[i].split())}" for i in order)
