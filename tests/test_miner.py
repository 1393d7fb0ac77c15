"""Mining of a whole split: its dev candidates, what is never trained on, and equal results in every process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_data import CATS, DEV, WORDS, config, random_pairs, rows, split, triples
from static_model import static_model

from pipeline.config.data import Match, Retriever, Sampling
from pipeline.core.errors import DataError
from pipeline.core.records import fold
from pipeline.mining.miner import mine


def test_dev_candidates_are_the_best_of_the_whole_corpus(tmp_path: Path) -> None:
    folder = static_model(tmp_path / "model", WORDS)
    embedding = config(retriever=Retriever.embedding, path=str(folder), dev_depth=30)
    train, dev = rows(random_pairs(1, 200)), rows(random_pairs(2, 20))
    mined = mine(split(train, dev), embedding, tmp_path / "cache", dev_name="gooaq-dev")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    corpus = list(dict.fromkeys(train.answers + dev.answers))
    questions = list(dict.fromkeys(dev.questions))
    scores = model.encode(questions, normalize_embeddings=True) @ model.encode(corpus, normalize_embeddings=True).T
    assert mined.dev.name == "gooaq-dev"
    assert list(mined.dev.queries) == [f"q{number:06d}" for number in range(1, len(questions) + 1)]
    for row, query in enumerate(mined.dev.queries):
        best = np.argsort(-scores[row], kind="stable")[:30]
        assert [mined.dev.passages[p] for p in mined.dev.candidates[query]] == [corpus[index] for index in best]
        assert mined.dev.candidates[query][0] == f"p{best[0] + 1:06d}"
    coverage = mined.statistics["first_stage"]["gooaq-dev"]  # type: ignore[index]
    found = [any(judged.get(p, 0) for p in mined.dev.candidates[q]) for q, judged in mined.dev.qrels.items()]
    assert coverage["queries_with_a_positive_found"] == sum(found)
    assert 0 < coverage["recall"] <= 1


TEXT = st.text(alphabet="aAbB \tcé", min_size=1, max_size=8).filter(str.strip)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(PAIRS, PAIRS, st.sampled_from(Match), st.sampled_from(Sampling))
def test_no_negative_is_a_positive_and_no_dev_text_is_trained_on(
    train: list[tuple[str, str]], dev: list[tuple[str, str]], match: Match, sampling: Sampling
) -> None:
    key = fold if match is Match.folded else str
    keys = config(positive_match=match, sampling=sampling, negatives=3, random_negatives=3, range_max=10)
    # A word that all share: the first stage finds something for every question.
    train, dev = ([(f"word {q}", f"word {a}") for q, a in pairs] for pairs in (train, dev))
    try:
        mined = mine(split(rows(train), rows(dev)), keys, Path("unused"))
    except DataError as error:
        held = {fold(q) for q, _ in dev} | {fold(a) for _, a in dev}
        left = {(key(q), key(a)) for q, a in train if fold(q) not in held and fold(a) not in held}
        if "hold negatives" in str(error):  # every passage that is left is a positive of every question
            assert len(left) == len({q for q, _ in left}) * len({a for _, a in left})
        else:
            assert not left and "hold a positive" in str(error)
        return
    found = triples(mined.train)
    positives = {(key(q), key(a)) for q, a in train}
    assert all(((key(q), key(p)) in positives) == bool(label) for q, p, label in found)
    assert len({(key(q), key(p)) for q, p, _ in found}) == len(found)
    assert not {fold(q) for q, _, _ in found} & {fold(q) for q, _ in dev}
    assert not {fold(p) for _, p, _ in found} & {fold(a) for _, a in dev}
    assert mined.statistics["rows"] == len(found)
    for query, judged in mined.dev.qrels.items():
        assert any(judged.values()) and len(set(mined.dev.candidates[query])) == len(mined.dev.candidates[query])
        assert {*judged, *mined.dev.candidates[query]} <= set(mined.dev.passages)


def digests(folder: Path, name: str) -> str:
    """Return hashes of what BM25 and an embedding model mine; embeddings are computed anew for each `name`."""
    whole = split(rows(random_pairs(5, 300)), rows(random_pairs(6, 20)))
    keys = {"negatives": 2, "random_negatives": 2, "sampling": Sampling.random}
    embedding = {"retriever": Retriever.embedding, "path": str(folder)}
    lines = []
    for keyed in (config(**keys), config(**keys, **embedding)):
        mined = mine(whole, keyed, folder.parent / name)
        # Not sorted by key: the order of queries and candidates is part of the result.
        text = repr((triples(mined.train), mined.dev, mined.statistics))
        lines.append(hashlib.sha256(text.encode()).hexdigest())
    return " ".join(lines)


def main() -> None:
    """Print the digests: the other process of the test below."""
    torch.set_num_threads(int(sys.argv[2]))
    print(digests(Path(sys.argv[1]), "there"))


def test_process_with_other_hash_seed_and_threads_mines_the_same(tmp_path: Path) -> None:
    folder = static_model(tmp_path / "model", WORDS)
    root = Path(__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "4711",
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
        "HF_HUB_OFFLINE": "1",
    }
    threads = "1" if torch.get_num_threads() > 1 else "2"
    command = [sys.executable, "-c", "from test_miner import main; main()", str(folder), threads]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.splitlines()[-1] == digests(folder, "here")


def test_statistics_are_json(tmp_path: Path) -> None:
    mined = mine(split(rows(CATS), rows(DEV)), config(), tmp_path)
    assert json.loads(json.dumps(mined.statistics)) == mined.statistics
