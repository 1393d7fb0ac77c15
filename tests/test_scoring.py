"""Scores: the same whatever the batching, each distinct pair computed once, and never NaN or infinity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_fixtures import sentences
from small_models import BUDGET, CPU, lively, tiny

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention
from pipeline.core.errors import NumericsError, ResourceError
from pipeline.engine import lanes, scoring
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer
from pipeline.inputs import collation
from pipeline.inputs.tokens import TokenTable
from pipeline.networks import block_embeddings, block_scoring

PAIRS = [pair for n, pair in enumerate(sentences(60)) if n % 2] + [("", ""), ("river " * 200, "漢字")]


def scorer(
    base: Path, budget: int = BUDGET, attention: Attention = Attention.varlen, precision: Precision = Precision.fp32
) -> PairScorer:
    reranker = lively(tiny(base, attention=attention))
    return PairScorer(reranker, device=CPU, precision=precision, token_budget=budget)


@pytest.mark.parametrize("attention", ["varlen", "eager", "sdpa"])
def test_scores_do_not_depend_on_budget_order_or_backend(base: Path, attention: str) -> None:
    expected = scorer(base, 1, Attention.eager).score(PAIRS)
    assert expected.dtype == np.float32 and np.ptp(expected) > 0.05
    for budget in (1, 200, 10**6):
        found = scorer(base, budget, Attention[attention]).score(PAIRS)
        assert np.abs(found - expected).max() <= 1e-6, budget
    backwards = scorer(base, 200, Attention[attention]).score(PAIRS[::-1])
    assert np.abs(backwards[::-1] - expected).max() <= 1e-6


def test_scores_equal_the_models_logits(base: Path) -> None:
    subject = scorer(base)
    reranker = subject.reranker
    expected = []
    for query, passage in PAIRS:
        # As lists: for single strings the library takes an empty passage for none.
        batch = reranker.tokenizer([query], [passage], truncation="longest_first", max_length=64, return_tensors="pt")
        with torch.no_grad():
            expected.append(float(reranker.model(**batch).logits))
    assert np.abs(subject.score(PAIRS) - np.array(expected)).max() <= 1e-6


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 0.03)])
def test_scores_on_several_lanes_equal_those_of_one_and_repeat(
    base: Path, precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, in_order = set[int](), lanes.in_order

    def counted(function: Any, items: Any, count: int) -> Any:
        seen.add(count)
        return in_order(function, items, count)

    monkeypatch.setattr(lanes, "in_order", counted)
    expected = scorer(base, 1, Attention.eager).score(PAIRS)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = [scorer(base, 200, precision=Precision[precision]).score(PAIRS) for _ in range(3)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert 3 in seen
    assert np.abs(found[0] - expected).max() <= tolerance < np.ptp(expected)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_equal_pairs_are_scored_and_texts_tokenised_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"pairs": 0, "texts": 0}
    frozen, build = Reranker.frozen, TokenTable.build.__func__  # type: ignore[attr-defined]

    def counting(self: Reranker, *arguments: Any) -> Any:
        logits = frozen(self, *arguments)

        def counted_logits(batch: Any) -> torch.Tensor:
            found = logits(batch)
            counted["pairs"] += len(found)
            return found

        return counted_logits

    def counting_build(cls: type[TokenTable], texts: Any, *rest: Any) -> TokenTable:
        counted["texts"] += len(texts)
        table: TokenTable = build(cls, texts, *rest)
        return table

    subject = scorer(base)
    monkeypatch.setattr(Reranker, "frozen", counting)
    monkeypatch.setattr(TokenTable, "build", classmethod(counting_build))
    (a, b), (c, d) = PAIRS[:2]
    first = subject.score([(a, b), (c, d), (a, b), (a, d), (a, b)])
    assert counted == {"pairs": 3, "texts": 4}
    assert first[0] == first[2] == first[4] != first[1]
    again = subject.score([(c, b), (c, d), (a, b)])
    assert counted == {"pairs": 6, "texts": 4}, "no text is tokenised again"
    assert np.abs(again[1:] - first[[1, 0]]).max() <= 1e-6
    assert subject.score([]).shape == (0,) and counted["pairs"] == 6


@pytest.fixture()
def assembled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of pairs of each micro-batch that is assembled, as scoring goes on."""
    found, collate = list[int](), Reranker.collate

    def counting(self: Reranker, table: TokenTable, template: Any, first: Any, second: Any, step: int) -> Any:
        found.append(len(first))
        return collate(self, table, template, first, second, step)

    monkeypatch.setattr(Reranker, "collate", counting)
    return found


@pytest.mark.parametrize("attention", ["varlen", "eager"])
def test_assembled_micro_batches_are_cached(base: Path, attention: str, assembled: list[int]) -> None:
    subject, others = scorer(base, 200, Attention[attention]), PAIRS[::-1]
    expected = subject.score(PAIRS)
    once = len(assembled)
    assert once > 1 and sum(assembled) == len(PAIRS)
    subject.score(others)
    assert len(assembled) == 2 * once, "another order has micro-batches of its own"
    for _ in range(3):  # evaluations at fixed steps score one set after another
        assert np.array_equal(subject.score(list(PAIRS)), expected)
        assert np.abs(subject.score(others)[::-1] - expected).max() <= 1e-6
    assert len(assembled) == 4 * once, "twice each"
    new = [("another question", "another passage, of new words")]
    assert subject.score(new).shape == (1,) and len(assembled) == 4 * once + 1
    with torch.no_grad():
        for weight in subject.reranker.model.parameters():
            weight.mul_(1.5)
    after = subject.score(PAIRS)
    assert len(assembled) == 4 * once + 1 and np.abs(after - expected).max() > 1e-3, "weights are not cached"


def test_new_texts_do_not_change_earlier_scores(base: Path) -> None:
    subject = scorer(base)
    expected = subject.score(PAIRS)
    subject.score([("another question", "another passage, of new words")])
    assert np.array_equal(subject.score(PAIRS), expected), "assembled again from a table that has grown"


def test_scoring_works_after_an_interrupted_tokenisation(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, expected = scorer(base), scorer(base).score(PAIRS)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    subject.score(PAIRS[:1])
    for broken in ("build", "extended"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(TokenTable, broken, fail)
            subject.score(PAIRS)
    assert np.abs(subject.score(PAIRS) - expected).max() <= 1e-6


def test_cached_micro_batches_stay_on_the_host(base: Path) -> None:
    """Between two evaluations a GPU's memory is for training."""
    subject = scorer(base)
    for _ in range(2):
        subject.score(PAIRS)
    subject.device = torch.device("meta")  # stands for a GPU: nothing on it can be read here
    distinct = subject._remembered(PAIRS)
    distinct.batches.clear()
    assert {tensor.device.type for tensor in subject._batch(distinct, 0).values()} == {"meta"}
    assert {tensor.device.type for tensor in distinct.batches[0].values()} == {"cpu"}


def test_changing_budget_or_lanes_invalidates_the_cache(base: Path, assembled: list[int]) -> None:
    subject = scorer(base, 400)
    expected = subject.score(PAIRS)
    for _ in range(2):
        subject.score(PAIRS)
    before = len(assembled)
    subject.token_budget = 100
    assert np.abs(subject.score(PAIRS) - expected).max() <= 1e-6
    smaller = assembled[before:]
    assert sum(smaller) == len(PAIRS) and len(smaller) > before // 2
    threads = torch.get_num_threads()
    torch.set_num_threads(3 if threads != 3 else 2)
    try:
        assert np.abs(subject.score(PAIRS) - expected).max() <= 1e-6
    finally:
        torch.set_num_threads(threads)
    others = assembled[before + len(smaller) :]
    assert sum(others) == len(PAIRS) and others != smaller


def test_cache_holds_at_most_kept_tokens(base: Path, assembled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "KEPT_TOKENS", int(scorer(base)._remembered(PAIRS).lengths.sum()))
    subject = scorer(base, 200)
    expected = subject.score(PAIRS)
    once = len(assembled)
    for _ in range(3):
        assert subject.score(PAIRS[:1]).shape == (1,)
    assert len(assembled) == once + 3, "there was no room for these"
    for _ in range(3):
        assert np.array_equal(subject.score(PAIRS), expected)
    assert len(assembled) == 2 * once + 3


@pytest.mark.parametrize(("attention", "times"), [("varlen", 1), ("eager", 0)])
def test_weights_are_packed_once_per_call(
    base: Path, attention: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Counted(block_scoring.Frozen):
        def __init__(self, model: Any, dtype: torch.dtype, shared: Any) -> None:
            super().__init__(model, dtype, shared)
            made.append(dtype)

    monkeypatch.setattr(block_scoring, "Frozen", Counted)
    subject = scorer(base, 100, Attention[attention])
    subject.score(PAIRS)
    assert made == [torch.float32] * times


def test_rows_common_to_pairs_are_computed_once_per_call(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, embed = list[int](), block_embeddings.embed

    def counted(embeddings: Any, batch: Any, dropout: Any) -> torch.Tensor:
        rows.append(len(batch["input_ids"]))
        return embed(embeddings, batch, dropout)

    monkeypatch.setattr(block_embeddings, "embed", counted)
    pairs = [(query, passage) for query, _ in PAIRS for _, passage in PAIRS]
    found, looked_up = {}, {}
    for most in (0, 200, 10**6):
        monkeypatch.setattr(block_scoring, "most_shared", lambda config, dtype, most=most: most)
        subject, before = scorer(base, 1000), len(rows)
        found[most] = [subject.score(pairs) for _ in range(4)]
        assert all(np.array_equal(again, found[most][0]) for again in found[most]), "assembled, then cached"
        looked_up[most] = sum(rows[before:])
    for most in (200, 10**6):
        assert np.abs(found[most][0] - found[0][0]).max() <= 1e-6
    assert looked_up[10**6] < looked_up[200] < looked_up[0]
    distinct = subject._remembered(pairs)
    assert distinct.shared is not None
    assert looked_up[10**6] == 4 * (len(distinct.shared) + 64 * len(distinct.groups)), "no row is computed twice"


def test_rows_are_not_shared_if_few_are_common(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scorer(base)._remembered(PAIRS).shared is not None
    assert scorer(base)._remembered(PAIRS[:1]).shared is None, "a table of all rows saves nothing"
    monkeypatch.setattr(block_scoring, "most_shared", lambda config, dtype: 1)
    subject = scorer(base)
    assert subject._remembered(PAIRS).shared is None
    assert np.abs(subject.score(PAIRS) - scorer(base, 1, Attention.eager).score(PAIRS)).max() <= 1e-6


def test_blocks_are_at_most_3_wider_than_their_longest_pair(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, blocks = list[dict[str, torch.Tensor]](), collation.blocks

    def seen(*arguments: Any) -> dict[str, torch.Tensor]:
        made.append(blocks(*arguments))
        return made[-1]

    monkeypatch.setattr(collation, "blocks", seen)
    scorer(base).score(PAIRS)
    assert {width % 4 for batch in made for _, width in batch["shapes"].tolist()} == {0}
    assert any(width % 8 for batch in made for _, width in batch["shapes"].tolist())
    for batch in made:
        pair = 0
        for pairs, width in batch["shapes"].tolist():
            assert 0 <= width - int(batch["lengths"][pair : pair + pairs].max()) < 4
            pair += pairs


def test_scoring_turns_dropout_off_and_restores_training_mode(base: Path) -> None:
    reranker = tiny(base, dropout=0.5)
    subject = PairScorer(reranker, device=CPU, precision=Precision.fp32, token_budget=BUDGET)
    expected = subject.score(PAIRS)
    reranker.model.train()
    assert np.array_equal(subject.score(PAIRS), expected) and reranker.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in reranker.model.parameters())


@pytest.mark.parametrize("attention", ["varlen", "eager"])
def test_scores_follow_changed_weights(base: Path, attention: str) -> None:
    subject, fresh = scorer(base, attention=Attention[attention]), scorer(base, attention=Attention[attention])
    before = subject.score(PAIRS)
    for one in (subject, fresh):
        with torch.no_grad():
            for name, weight in one.reranker.model.named_parameters():
                if "encoder" in name:
                    weight.mul_(1.5)
    after = subject.score(PAIRS)
    assert np.array_equal(after, fresh.score(PAIRS)) and np.abs(after - before).max() > 1e-3


def test_nan_score_is_refused(base: Path) -> None:
    subject = scorer(base)
    with torch.no_grad():
        subject.reranker.model.classifier.weight[0, 0] = float("nan")  # type: ignore[union-attr,index,operator]
    with pytest.raises(
        NumericsError,
        match=r"^a score must be finite, got NaN or infinity for query '.*'\. If training has begun, the weights",
    ):
        subject.score(PAIRS)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=["torch's allocator", "cuBLAS", "the driver", "memory that grows", "a kernel's own"],
)
@pytest.mark.usefixtures("batches_of_a_gpu")
def test_out_of_gpu_memory_halves_the_budget_for_good(
    base: Path, caplog: pytest.LogCaptureFixture, error: RuntimeError
) -> None:
    expected = scorer(base, 100).score(PAIRS)
    subject, forwards = scorer(base, 400), [0]

    def fail(module: Any, inputs: Any, output: Any) -> None:
        forwards[0] += 1
        if inputs[0].numel() > 150:
            raise error

    subject.reranker.model.get_input_embeddings().register_forward_hook(fail)
    subject.reranker.model.train()
    assert np.array_equal(subject.score(PAIRS), expected), "all scores are those of the budget that fits"
    assert subject.reranker.model.training
    assert caplog.messages == [
        f"out of GPU memory: scoring continues with {n} tokens per micro-batch" for n in (200, 100)
    ]
    first = forwards[0]
    assert np.array_equal(subject.score(PAIRS), expected) and forwards[0] < 2 * first, "not tried again"


@pytest.mark.usefixtures("batches_of_a_gpu")
def test_gpu_too_small_for_one_pair_is_refused(base: Path) -> None:
    subject = scorer(base, 100)

    def fail(module: Any, inputs: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    subject.reranker.model.get_input_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(ResourceError, match="GPU memory must hold one pair of the longest length, got 64 tokens"):
        subject.score(PAIRS)
