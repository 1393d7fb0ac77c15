"""Scoring and embedding with weights that stand still, against transformers' own padded forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from packed_models import batch_of, bert, falling, modernbert, padded, template
from torch.nn import functional as F
from transformers import BertModel

from pipeline.engine.modeling import keep_head_in_fp32
from pipeline.inputs import collation
from pipeline.inputs.batching import SCORING_WIDTH_STEP, TRAINING_WIDTH_STEP
from pipeline.networks import block_linear, block_scoring, shared_rows
from pipeline.networks.block_attention import Block, blocks_of
from pipeline.networks.block_scoring import Frozen, FrozenEncoder, encodes


@pytest.fixture(params=["packed", "plain"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(block_linear, "_packs", lambda dtype: False)
    elif not block_linear._packs(torch.float32):
        pytest.skip("oneDNN does not multiply on this processor")


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("width_step", [SCORING_WIDTH_STEP, TRAINING_WIDTH_STEP])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
def test_logits_equal_the_padded_model(layers: int, dtype: torch.dtype, apart: float, width_step: int) -> None:
    model, pairs = bert(layers).to(dtype).eval(), falling(57)
    batch = batch_of(pairs, width_step)
    assert len(batch["shapes"]) > 1 and int((batch["shapes"].prod(1)).sum()) < len(batch["input_ids"])
    expected = padded(model, pairs)
    assert float(expected.detach().std()) > 0.01
    torch.testing.assert_close(Frozen(model, dtype)(batch), expected, rtol=apart, atol=apart)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("unit", ["AMX", "AVX512_BF16"])  # each has an attention of its own
def test_bf16_is_as_near_to_the_padded_fp32_model_as_padded_bf16(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scoring, "bf16_unit", lambda: unit)
    model, pairs, apart = bert(3).eval(), falling(), torch.zeros(2)
    keep_head_in_fp32(model)
    torch.manual_seed(1)
    for _ in range(12):  # of one model alone either may be the nearer by chance
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
        exact = padded(model, pairs).detach()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = padded(model, pairs).detach().float()
        frozen, batch = Frozen(model, torch.bfloat16), batch_of(pairs, SCORING_WIDTH_STEP)
        assert any(map(frozen._layers.matmuls_pay, blocks_of(batch))) == (unit == "AVX512_BF16")
        found = frozen(batch)
        apart += torch.stack([(found - exact).square().sum(), (rounded - exact).square().sum()])
    assert 0 < float((apart[0] / apart[1]).sqrt()) <= 1.1


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("most", [3, 40, 10**6])
@pytest.mark.parametrize(
    ("dtype", "unit", "apart"),
    [
        (torch.float64, None, 1e-11), (torch.float32, None, 2e-6), (torch.bfloat16, "AMX", 0.02),
        (torch.bfloat16, "AVX512_BF16", 0.02),
    ],
)  # fmt: skip
def test_logits_are_the_same_with_rows_looked_up(
    dtype: torch.dtype, unit: str | None, apart: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_scoring, "bf16_unit", lambda: unit)
    model, batch = bert(3).eval(), batch_of(falling(57), SCORING_WIDTH_STEP)
    model = model.double() if dtype is torch.float64 else model
    shared, _ = shared_rows.commonest(shared_rows.keys(batch), most)
    frozen = Frozen(model, dtype, shared)
    assert any(map(frozen._layers.matmuls_pay, blocks_of(batch))) == (unit == "AVX512_BF16")
    found = frozen(shared_rows.split(batch, shared))
    torch.testing.assert_close(found, Frozen(model, dtype)(batch), rtol=apart, atol=apart)


def test_rows_are_looked_up_where_that_takes_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scoring, "bf16_unit", lambda: "AVX512_BF16")
    most = {(layers, dtype): block_scoring.most_shared(bert(layers).config, dtype)
            for layers in (1, 2) for dtype in (torch.float32, torch.bfloat16)}  # fmt: skip
    assert most[1, torch.float32] == most[1, torch.bfloat16] == 0
    for dtype in (torch.float32, torch.bfloat16):
        kept = most[2, dtype] * (32 * 4 + 3 * 32 * dtype.itemsize)
        assert 0.99 < kept / block_scoring.SHARED_BYTES <= 1
    monkeypatch.setattr(block_scoring, "bf16_unit", lambda: "AMX")
    assert block_scoring.most_shared(bert(2).config, torch.bfloat16) == 0
    assert block_scoring.most_shared(bert(2).config, torch.float32) == most[2, torch.float32]


@pytest.mark.parametrize(
    ("dtype", "pairs", "width", "pays"),
    [
        (torch.bfloat16, 32, 64, True), (torch.bfloat16, 5, 344, True), (torch.float32, 32, 64, False),
        (torch.bfloat16, 8, 64, True), (torch.bfloat16, 7, 64, False), (torch.bfloat16, 8, 500, True),
        (torch.bfloat16, 9, 500, False),
    ],
)  # fmt: skip
def test_attention_is_two_matmuls_where_they_take_less_time(
    dtype: torch.dtype, pairs: int, width: int, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_scoring, "bf16_unit", lambda: "AVX512_BF16")
    assert Frozen(bert(2).eval(), dtype)._layers.matmuls_pay(Block(0, 0, pairs, width, None)) == pays


@pytest.mark.parametrize("pairs", [1, 3, 13, 100])
@pytest.mark.parametrize("padded", [False, True])
def test_both_attentions_are_one(pairs: int, padded: bool) -> None:
    """Also where there are more pairs than the block has."""
    width, heads, size = 20, 2, 16
    lengths = torch.full((pairs,), width)
    lengths[-1] = 3 if padded else width
    (block,) = blocks_of({"lengths": lengths, "shapes": torch.tensor([[pairs, width]])})
    assert (block.attention_mask is not None) == padded
    torch.manual_seed(pairs)
    rows = torch.randn(3, heads, pairs, width, size, dtype=torch.float64)
    exact = block_scoring._fused_attention(rows, block)
    raised = F.pad(rows, (0, 0, 0, 0, 0, 3))
    torch.testing.assert_close(block_scoring._matmul_attention(raised, block)[:, :pairs], exact, rtol=1e-5, atol=1e-5)
    rounded = block_scoring._matmul_attention(rows.bfloat16(), block).double()
    assert float((rounded - exact).norm() / exact.norm()) < 0.008, "rounding alone"


def texts_of(side: str) -> dict[str, torch.Tensor]:
    """A padded batch of tokens: the pads behind, before or among them, no token types, or no mask and so no pads."""
    pairs = falling(13)
    batch = collation.pad(pairs[0], template(), *pairs[1:])
    assert not batch["attention_mask"].all()
    if side == "left":
        return {name: tensor.flip(1) for name, tensor in batch.items()}
    if side == "holes":
        batch["attention_mask"][::2, 1:3] = 0
    if side == "untyped":
        del batch["token_type_ids"]
    if side == "unmasked":
        del batch["attention_mask"]
    return batch


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("side", ["left", "right", "holes", "untyped", "unmasked"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float64, 1e-11), (torch.float32, 5e-6)])
def test_every_token_of_the_last_layer_equals_transformers(
    layers: int, dtype: torch.dtype, apart: float, side: str
) -> None:
    model, batch = bert(layers).bert.to(dtype).eval(), texts_of(side)
    real, frozen = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool(), FrozenEncoder(model, dtype)
    found, expected = frozen(**batch, return_dict=True).last_hidden_state, model(**batch).last_hidden_state
    torch.testing.assert_close(found[real], expected[real], rtol=apart, atol=apart)
    assert found.shape == expected.shape and not found[~real].any()


def test_a_text_without_a_token_has_zeros_and_the_others_stay() -> None:
    model, batch = bert(2).bert.double().eval(), texts_of("right")
    frozen = FrozenEncoder(model, torch.float64)
    before = frozen(**batch).last_hidden_state
    batch["attention_mask"][4] = 0
    found, others = frozen(**batch).last_hidden_state, torch.arange(13) != 4
    assert not found[4].any()
    torch.testing.assert_close(found[others], before[others], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("unit", ["AMX", "AVX512_BF16"])
def test_bf16_tokens_are_as_near_to_fp32_as_transformers_own(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scoring, "bf16_unit", lambda: unit)
    model, batch = bert(3).bert.eval(), texts_of("right")
    real = batch["attention_mask"].bool()
    with torch.inference_mode():
        exact = model(**batch).last_hidden_state[real]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(**batch).last_hidden_state[real].float()
    found = FrozenEncoder(model, torch.bfloat16)(**batch).last_hidden_state[real]
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).norm() / (rounded - exact).norm()) <= 1.1


def adapted() -> torch.nn.Module:
    """A BertModel one of whose linear layers adds to what its weight says, as an adapter does."""

    class Adapted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1.0

    model = bert().bert
    model.encoder.layer[1].attention.self.value = Adapted(32, 32)
    return model


def wrapped_words() -> torch.nn.Module:
    """A BertModel whose word table is another kind of table, as under an adapter."""

    class Wrapped(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + 1.0

    model = bert().bert
    model.embeddings.word_embeddings = Wrapped(200, 32)
    return model


def partly_half() -> torch.nn.Module:
    model = bert().bert
    model.encoder.layer[1].output.dense.half()
    return model


class Child(BertModel):
    """May compute something else."""


OTHERS: dict[str, Callable[[], object]] = {
    "a cross-encoder": bert,
    "ModernBERT": lambda: modernbert().model,
    "another activation": lambda: bert(hidden_act="relu").bert,
    "other positions": lambda: bert(position_embedding_type="relative_key").bert,
    "half": lambda: bert().bert.half(),
    "partly half": partly_half,
    "double": lambda: bert().bert.double(),
    "hidden states": lambda: bert(output_hidden_states=True).bert,
    "attentions": lambda: bert(output_attentions=True).bert,
    "a decoder": lambda: bert(is_decoder=True).bert,
    "an adapter": adapted,
    "an adapter of words": wrapped_words,
    "a child": lambda: Child(bert().config),
    "none": lambda: None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_left_to_transformers(name: str) -> None:
    assert encodes(bert().bert) and encodes(BertModel(bert().config, add_pooling_layer=False))
    assert not encodes(OTHERS[name]())
