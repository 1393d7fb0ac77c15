"""Score passages with a finished run. Reads a run's folder; knows nothing of how it came about."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.run_folder import find_run, model_folder
from pipeline.config.asked import Prediction
from pipeline.core.console import say
from pipeline.core.errors import DataError, must
from pipeline.core.records import encodable, titled
from pipeline.data.beir import read_passage
from pipeline.data.tables import json_objects


def read_passages(path: Path) -> tuple[list[str], list[str] | None]:
    """The passage of every line of a JSONL file, in order, and their ids where each has one; blank lines are skipped.

    A passage is its `title`, if it has one, and its `text`, joined by a space as in a BEIR corpus; its id is `_id` or
    `id`.

    Raises:
        DataError: naming file and line.
    """
    passages, ids = list[str](), list[str]()
    for number, row in json_objects(path):
        identifier, title, text = read_passage(row, f"{path}, line {number}")
        passages.append(encodable(titled(title, text)))
        ids += [] if identifier is None else [identifier]
    if not passages:
        raise DataError(must(str(path), "hold at least one passage", "none", "Write one JSON object a line."))
    return passages, ids if len(ids) == len(passages) else None


def predict(asked: Prediction) -> str:
    """The score of the one passage; of a file, `score<TAB>passage` lines, best first (ties in the file's order).

    Where every passage of the file has an id, lines are `score<TAB>id<TAB>passage`. Which run scored is said on
    standard error where none was named. Scores are those of sentence-transformers' `predict` on the saved model, to
    rounding: in fp32, after its activation, higher is more relevant.
    """
    passages, ids = ([encodable(asked.p)], None) if asked.p else read_passages(Path(asked.file or ""))
    folder = model_folder(find_run(asked.run, asked.outputs_dir))
    if asked.run is None:
        say(f"scored by {folder.parent.name}")
    scores = _scores(folder, [(encodable(asked.q), text) for text in passages])
    if asked.p:
        return f"{scores[0]:.6f}"
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    names = [""] * len(scores) if ids is None else [f"{' '.join(name.split())}\t" for name in ids]
    return "\n".join(f"{scores[i]:.6f}\t{names[i]}{' '.join(passages[i].split())}" for i in order)


def _scores(folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """Scores of (query, passage) pairs by a saved model, in their order."""
    # Late: a mistyped argument is answered without loading torch.
    import torch

    from pipeline.config.learning import Activation, ModelConfig, Precision
    from pipeline.config.machine import Attention, RuntimeConfig
    from pipeline.engine import machine, model_config, model_files
    from pipeline.engine.scoring import PairScorer

    length = model_config.own_max_length(folder)
    config = ModelConfig(name="saved", path=str(folder), max_length=length)
    reranker = model_files.load(folder, config, seed=0, attention=Attention.varlen)
    device = machine.resolve_device(RuntimeConfig())
    reranker.model.to(device)
    budget = machine.micro_batch_tokens(RuntimeConfig(), device, reranker.hidden_size, reranker.layers)
    scorer = PairScorer(reranker, device=device, precision=Precision.fp32, token_budget=budget)
    logits = torch.from_numpy(scorer.score(pairs))
    applied = {Activation.identity: logits, Activation.sigmoid: logits.sigmoid(), Activation.tanh: logits.tanh()}
    return [float(score) for score in applied[model_files.activation_of(folder)]]
