"""Scoring of passages with a finished run. Reads a run's folder; knows nothing of how the run was made."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.run_folder import find_run, model_folder
from pipeline.config.command_arguments import Prediction
from pipeline.core.console import say
from pipeline.core.errors import DataError, must
from pipeline.core.records import encodable, titled
from pipeline.data.beir import passage_id, read_passage
from pipeline.data.tables import json_objects


def read_passages(path: Path) -> tuple[list[str], list[str] | None]:
    """Return the passage of every line of a JSONL file, in order, and their ids if any passage has an id.

    Blank lines are skipped. A passage is its `title`, if any, and its `text`, joined by a space as in a BEIR corpus.
    Its id is `_id` or `id`; a passage that has neither, beside others that have one, goes by its line (`line 3`).

    Raises:
        DataError: when a line is no passage (the error names file and line), or the file has no passage.
    """
    passages, ids = list[str](), list[str]()
    any_id = False
    for number, row in json_objects(path):
        place = f"{path}, line {number}"
        title, text = read_passage(row, place)
        if row["text"] is None:
            raise DataError(must(f"{place}, key text", "be text", "None", "Correct the line, or delete it."))
        passages.append(encodable(titled(title, text)))
        identifier = passage_id(row)
        any_id |= identifier is not None
        ids.append(f"line {number}" if identifier is None else identifier)
    if not passages:
        raise DataError(must(str(path), "hold at least one passage", "none", "Write one JSON object per line."))
    return passages, ids if any_id else None


def predict(asked: Prediction) -> str:
    """Return the score of one passage or, for a file, `score<TAB>passage` lines, best first (ties in the file's order).

    If a passage of the file has an id, lines are `score<TAB>id<TAB>passage`. If no run was named, standard error
    says which run scored. Scores equal those of sentence-transformers' `predict` on the saved model, to rounding: they
    are computed in fp32, the model's activation is applied, and higher is more relevant.
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
    """Return a saved model's scores of (query, passage) pairs, in the order of the pairs."""
    # Imported here, so that a mistyped argument is answered without loading torch.
    import torch

    from pipeline.config.learning import Activation, ModelConfig, Precision
    from pipeline.config.runtime import Attention, RuntimeConfig
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
